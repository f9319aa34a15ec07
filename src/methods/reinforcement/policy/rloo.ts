import { givenOptions, parseOptions } from '../../../options.ts'
import type { AnyRow } from '../../../rewards/index.ts'
import { rlooAdvantages } from './advantages.ts'
import { rlooSchema, type RlooOptions } from './options.ts'
import { preparePolicy, type PolicyInput, type PolicyRun } from './prepare.ts'

/** What GRPO's objective has beside RLOO's: the defaults, none of which it uses. */
const unused = { importanceSamplingLevel: 'token', useBiasCorrectionKl: true, entropyCoef: 0, sapoTemperaturePos: 1, sapoTemperatureNeg: 1.05, vespoPos: [2, 3], vespoNeg: [3, 2] } as const

/**
 * REINFORCE with the mean reward of the other answers as baseline (Ahmadian et al., 2024), over whole answers, the KL to the reference taken off the
 * reward. Options are TRL's RLOOConfig in camelCase.
 */
export async function rloo<Row extends object = AnyRow>(input: RlooOptions & PolicyInput<Row>): Promise<PolicyRun<Row>> {
  const { rewards, environment, rows, evalRows, ...options } = givenOptions('rloo', input, "model: './model', files: 'prompts.jsonl', outputDir: './out', rewards: [myReward]")
  const args = parseOptions(rlooSchema, options, 'rloo')
  const { beta, rewardClipRange, normalizeAdvantages, epsilon, epsilonHigh } = args
  return preparePolicy(args, { rewards, environment, rows, evalRows }, {
    name: 'rloo', objective: { ...unused, lossType: 'rloo', beta, epsilon, epsilonHigh }, correction: null, adaptiveEntropy: null, klInReward: true, topEntropyQuantile: 1, offPolicyMaskThreshold: null,
    advantages: (rewards, kl) => rlooAdvantages(rewards, { rewardClipRange, normalizeAdvantages, beta, kl }),
  })
}
