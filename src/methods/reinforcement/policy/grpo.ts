import { ConfigError } from '../../../errors.ts'
import { givenOptions, parseOptions } from '../../../options.ts'
import type { AnyRow } from '../../../rewards/index.ts'
import { grpoAdvantages } from './advantages.ts'
import { grpoSchema, type GrpoOptions } from './options.ts'
import { preparePolicy, type PolicyInput, type PolicyRun } from './prepare.ts'

/**
 * Group-relative policy optimisation (Shao et al., 2024) and its kin: DAPO, Dr. GRPO, GSPO, CISPO, SAPO, VESPO, LUSPO. Several answers are sampled to
 * each prompt and rewarded, and each is made more or less likely by how it compares with its group. Options are TRL's GRPOConfig in camelCase.
 *
 *     const right = rewardEach('right', ({ completion, row }) => completion.trim() === row.answer ? 1 : 0)
 *     const run = await grpo({ model: './model', files: 'questions.jsonl', outputDir: './out', rewards: [right] })
 *     await run.train()
 */
export async function grpo<Row extends object = AnyRow>(input: GrpoOptions & PolicyInput<Row>): Promise<PolicyRun<Row>> {
  const { rewards, environment, rows, evalRows, ...options } = givenOptions('grpo', input, "model: './model', files: 'prompts.jsonl', outputDir: './out', rewards: [myReward]")
  const args = parseOptions(grpoSchema, options, 'grpo')
  const { multiObjectiveAggregation, scaleRewards, lossType, epsilonHigh, vllmImportanceSamplingMode: mode } = args
  if (lossType === 'cispo' && epsilonHigh === undefined) throw new ConfigError('epsilonHigh: lossType cispo needs the most that a ratio weighs, such as 5; the default, epsilon, would make it 0.2')
  if (lossType === 'vespo' && args.rolloutServer !== undefined && args.vllmImportanceSamplingCorrection && !mode.startsWith('token')) {
    throw new ConfigError(`vllmImportanceSamplingMode: lossType vespo makes one weight of the tokens' weights of an answer, so expected token_truncate or token_mask, got ${mode}; or set vllmImportanceSamplingCorrection: false`)
  }
  return preparePolicy(args, { rewards, environment, rows, evalRows }, {
    name: 'grpo', objective: { ...args, vespoPos: [args.vespoKPos, args.vespoLambdaPos], vespoNeg: [args.vespoKNeg, args.vespoLambdaNeg] },
    correction: args.vllmImportanceSamplingCorrection ? args : null, adaptiveEntropy: args.useAdaptiveEntropy ? args : null, klInReward: false, topEntropyQuantile: args.topEntropyQuantile, offPolicyMaskThreshold: args.offPolicyMaskThreshold,
    advantages: (rewards) => grpoAdvantages(rewards, multiObjectiveAggregation === 'normalize_then_sum' ? 'normalize_then_sum' : scaleRewards),
  })
}
