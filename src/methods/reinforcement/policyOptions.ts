import { z } from 'zod'
import { trainingShape } from '../../train/options.ts'
import { modelShape } from '../options.ts'
import { referenceSyncShape } from '../reference.ts'
import { policyLossTypes } from './policyWeights.ts'

const strings = z.union([z.string(), z.array(z.string())])
const positive = z.int().min(1)
const pair = (what: string) => z.tuple([z.number(), z.number()]).describe(what)

/** What GRPO and RLOO have in common: model, prompts, sampling, rewards. */
const policyShape = {
  model: z.string().min(1).describe('Folder of the model: config.json, safetensors, tokenizer.json'),
  ...modelShape,
  refModel: z.string().optional().describe('Folder of the reference for beta above 0; by default the model as it is at the start, without its new adapter where it has one'),
  ...referenceSyncShape,
  files: strings.optional().describe('Prompts: files, folders or globs of .jsonl .json .csv .parquet with a column prompt (text or messages); other columns go to the reward functions'),
  columns: z.record(z.string(), z.string()).optional().describe('Where the prompt has another name: prompt=question'),
  evalFiles: strings.optional().describe('Prompts for evaluation, instead of a split'),
  evalSplit: z.number().positive().optional().describe('Held out for evaluation: a share below 1, or a number of prompts'),
  ...trainingShape,
  learningRate: trainingShape.learningRate.default(1e-6).describe('Peak learning rate'),
  metricForBestModel: trainingShape.metricForBestModel.default('reward').describe('The evaluation metric that decides which is best'),
  reward: strings.optional().describe('Reward functions: names of built-in ones (exactMatch, numericMatch, thinkFormat, repetition, jsonValid), or modules whose default export is one or a list of them, such as ./reward.ts'),
  rewardWeights: z.array(z.number()).optional().describe('One for each reward function, an environment last; 1 by default'),
  rewardTimeout: z.number().positive().default(60_000).describe('Milliseconds a call of a reward function may take; then it counts as no reward'),
  rewardConcurrency: positive.default(64).describe('Most calls of reward functions under way at a time'),
  maxPromptLength: positive.nullable().default(null).describe('Rows with longer prompts are left out, and counted in a warning'),
  maxCompletionLength: positive.default(512).describe('Most tokens of an answer, or of a whole conversation with an environment'),
  temperature: z.number().positive().default(1).describe('Logits are divided by this, in sampling and in the loss'),
  topP: z.number().min(0).max(1).default(1).describe('Draw from the fewest tokens whose probabilities reach this sum'),
  topK: z.int().min(0).default(0).describe('Draw from the most likely tokens only; 0 for all'),
  minP: z.number().min(0).max(1).default(0).describe('Leave out tokens less likely than this share of the most likely one'),
  repetitionPenalty: z.number().positive().default(1).describe('Makes tokens of prompt and answer less likely to come again; 1 for none'),
  stopStrings: z.array(z.string().min(1)).default([]).describe('Texts that end an answer; they are not part of its text'),
  generationBatchSize: positive.default(64).describe('Most answers generated at a time; decides nothing but speed'),
  stepsPerGeneration: positive.optional().describe('Micro-batches that one generation is cut into; gradientAccumulationSteps by default'),
  numIterations: positive.default(1).describe('Times that each generation is trained on'),
  maskTruncatedCompletions: z.boolean().default(false).describe('Leave answers that reached maxCompletionLength out of the loss'),
  dynamicSamplingRounds: z.int().min(0).default(0).describe("Rounds in which prompts whose answers all have the same reward are replaced by others (DAPO's dynamic sampling); 0 keeps them"),
  maxTurns: positive.default(8).describe('Most answers in a conversation with an environment'),
  environmentTimeout: z.number().positive().default(60_000).describe('Milliseconds that an environment may take for a turn'),
  rolloutLog: z.string().optional().describe('File to which every rollout is written with its rewards, as JSON lines'),
  replay: z.string().optional().describe('Such a file, from which rollouts are taken instead of sampling'),
  rolloutServer: z.string().optional().describe('URL of an OpenAI-compatible server (…/v1) that samples instead of the model; it has to be given the new weights by other means'),
  numCompletionsToLog: z.int().min(0).default(2).describe('Whole answers with their rewards at each log entry'),
} as const

/** Options of GRPO: TRL's GRPOConfig in camelCase. */
export const grpoSchema = z.strictObject({
  ...policyShape,
  numGenerations: z.int().min(2).default(8).describe('Answers to each prompt: the group that they are compared in'),
  beta: z.number().min(0).default(0).describe('Weight of the KL to the reference; 0 needs no reference'),
  epsilon: z.number().min(0).default(0.2).describe('Ratios are clipped below 1 - epsilon'),
  epsilonHigh: z.number().min(0).optional().describe('and above 1 + epsilonHigh; epsilon by default. With lossType cispo the most that a ratio weighs, 5 for example'),
  delta: z.number().positive().optional().describe('Bounds the ratio in the unclipped term too (two-sided clipping)'),
  importanceSamplingLevel: z.enum(['token', 'sequence']).default('token').describe('What the ratio is taken over; sequence is GSPO'),
  lossType: z.enum(policyLossTypes).exclude(['rloo']).default('dapo').describe('Objective and aggregation: grpo, dr_grpo, dapo, bnpo, cispo, sapo, luspo or vespo'),
  scaleRewards: z.enum(['group', 'batch', 'none']).default('group').describe("What a reward's distance from its group's mean is divided by; none with lossType dr_grpo is Dr. GRPO"),
  multiObjectiveAggregation: z.enum(['sum_then_normalize', 'normalize_then_sum']).default('sum_then_normalize').describe('normalize_then_sum normalises each reward function by itself (GDPO)'),
  useBiasCorrectionKl: z.boolean().default(true).describe('Weigh the KL by the ratio, which makes it unbiased for answers of an older policy'),
  topEntropyQuantile: z.number().gt(0).max(1).default(1).describe('Train on this share of tokens only, those of highest entropy; costs a forward pass below 1'),
  entropyCoef: z.number().default(0).describe('Weight of the entropy bonus'),
  offPolicyMaskThreshold: z.number().nullable().default(null).describe('Drop answers with a negative advantage whose mean log-ratio of sampler to policy is above this; costs a forward pass'),
  sapoTemperaturePos: z.number().positive().default(1).describe('SAPO: temperature where the advantage is positive'),
  sapoTemperatureNeg: z.number().positive().default(1.05).describe('SAPO: temperature elsewhere'),
  vespoPos: pair('VESPO: k and lambda where the advantage is not negative').default([2, 3]),
  vespoNeg: pair('VESPO: k and lambda where the advantage is negative').default([3, 2]),
})

/** Options of RLOO: TRL's RLOOConfig in camelCase. */
export const rlooSchema = z.strictObject({
  ...policyShape,
  numGenerations: z.int().min(2).default(2).describe('Answers to each prompt: each is compared with the mean of the others'),
  beta: z.number().min(0).default(0.05).describe('The KL of an answer to the reference is taken off its reward times this; 0 needs no reference'),
  epsilon: z.number().min(0).default(0.2).describe('Ratios of whole answers are clipped below 1 - epsilon'),
  epsilonHigh: z.number().min(0).optional().describe('and above 1 + epsilonHigh; epsilon by default'),
  normalizeAdvantages: z.boolean().default(false).describe('Give the advantages of a generation mean 0 and deviation 1'),
  rewardClipRange: pair('Least and largest reward').optional(),
})

export type GrpoOptions = z.input<typeof grpoSchema>
export type GrpoArguments = z.output<typeof grpoSchema>
export type RlooOptions = z.input<typeof rlooSchema>
export type RlooArguments = z.output<typeof rlooSchema>
export type PolicyArguments = z.output<z.ZodObject<typeof policyShape>> & { numGenerations: number; beta: number }
