import { z } from 'zod'
import { ConfigError } from '../../../errors.ts'
import { lazily } from '../../../options.ts'
import { judgeInstruction, llmPairwiseJudge, pairwiseReward, type PairwiseJudge, type RewardFunction } from '../../../rewards/index.ts'
import { rewardFunctions, type RewardSourceArguments } from '../rewardSources.ts'
import { keyOf } from '../rollouts/server.ts'

/** A language model that compares the two answers. */
export const judgeShape = lazily(() => ({
  judge: z.string().min(1).optional().describe('URL of an OpenAI-compatible server (…/v1) whose model says which of the two answers is the better, in place of rewards'),
  judgeModel: z.string().min(1).default('default').describe('Name of the model at that server'),
  judgeApiKeyEnv: z.string().min(1).optional().describe('Name of the environment variable that holds the key of that server'),
  judgePrompt: z.string().optional().describe('What it is told, with {prompt}, {response0} and {response1}; its reply begins with 0 or 1'),
  judgeOrder: z.enum(['random', 'both', 'given']).default('random')
    .describe('Which answer it reads first: either by a coin (TRL), each once, where verdicts that differ are none, or the first'),
  judgeMaxTokens: z.int().min(1).default(16).describe('Most tokens of its reply'),
  judgeRetries: z.int().min(0).default(2).describe('Asks again so many times where the server is busy, cannot be reached, is too slow or answers something else than a chat completion'),
  judgeTimeout: z.int().min(1).nullable().default(null).describe('Milliseconds a try may take; null for as long as rewardTimeout lets all tries of a pair take together'),
  judgeMaxRequests: z.int().min(1).nullable().default(null).describe('Most requests of a run, after which there are no verdicts; null for no limit (TRL: 1000)'),
} as const))

type JudgeArguments = z.output<z.ZodObject<typeof judgeShape>> & RewardSourceArguments & {
  missingEosPenalty?: number | undefined, rewardWeights?: number[] | undefined, evalFiles?: string | string[] | undefined, evalSplit?: number | undefined
}

/** What ranks answers: the judge of the options or of the program alone, or reward functions; a reward model comes after those. */
export async function rankingFunctions<Row>(args: JudgeArguments, rewards: readonly RewardFunction<Row>[], judge: PairwiseJudge<Row> | undefined, evaluates: boolean): Promise<RewardFunction<Row>[]> {
  if (judge === undefined && args.judge === undefined) return rewardFunctions(args, rewards)
  if (rewards.length > 0 || args.reward !== undefined || args.rewardModel !== undefined) throw new ConfigError('judge: a judge ranks answers by itself, as do rewards; leave out reward, rewardModel and reward functions, or the judge')
  if (args.rewardWeights !== undefined) throw new ConfigError('rewardWeights: a judge says which answer is the better and gives no reward to weigh; leave rewardWeights out')
  if (args.missingEosPenalty !== undefined) throw new ConfigError('missingEosPenalty: a judge gives no score to take it off; leave it out, or rank by rewards')
  if (evaluates || args.evalFiles !== undefined || args.evalSplit !== undefined) throw new ConfigError('judge: it compares two answers of the same policy, which says nothing of how good that policy is; leave out evalFiles, evalSplit and evalRows, or rank by rewards')
  return [pairwiseReward(judge ?? serverJudge(args))]
}

function serverJudge<Row>(args: JudgeArguments): PairwiseJudge<Row> {
  const { judge: url, judgeModel: model, judgeApiKeyEnv, judgePrompt, judgeOrder: order, judgeMaxTokens: maxTokens, judgeRetries: retries, judgeTimeout: timeout, judgeMaxRequests: maxRequests } = args
  const judge = llmPairwiseJudge<Row>({
    urlName: 'judge', url: url!, model, apiKey: keyOf('judgeApiKeyEnv', judgeApiKeyEnv, 'the judge'), order, maxTokens, retries, timeout, maxRequests,
    ...(judgePrompt === undefined ? {} : { instruction: judgeInstruction(judgePrompt) }),
  })
  return Object.defineProperty(judge, 'name', { value: 'judge' })
}
