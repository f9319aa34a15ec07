import { abs, max, mul, policyLoss, SequenceStarts, slice, sub, sum } from '../../../ops/index.ts'
import type { LogprobResult, PolicyLossOptions, RatioLevel } from '../../../ops/index.ts'
import type { CausalLanguageModel } from '../../../models/index.ts'
import { Tensor } from '../../../tensor/index.ts'
import type { LossResult, Sum } from '../../../train/task.ts'
import type { PolicyBatch } from './batch.ts'
import { vespoInParts } from './vespo.ts'
import type { PolicyLossType } from './weights.ts'

/** The numbers of the loss, by TRL's names. */
export interface ObjectiveOptions {
  lossType: PolicyLossType
  epsilon: number
  /** `epsilon` by default; cispo: the most that a ratio weighs. */
  epsilonHigh?: number | undefined
  /** Bounds the ratio that is not clipped. */
  delta?: number | undefined
  importanceSamplingLevel: 'token' | 'sequence'
  beta: number
  useBiasCorrectionKl: boolean
  entropyCoef: number
  sapoTemperaturePos: number
  sapoTemperatureNeg: number
  vespoPos: readonly [k: number, lambda: number]
  vespoNeg: readonly [k: number, lambda: number]
}

export type PolicyObjectiveOptions = Pick<PolicyLossOptions, 'objective' | 'level' | 'beta' | 'correctedKl'>

/** The objective of the policy_loss kernel. */
function objectiveOf(options: ObjectiveOptions): PolicyObjectiveOptions {
  const { lossType, epsilon, epsilonHigh = epsilon, delta, beta, importanceSamplingLevel } = options
  const level: RatioLevel = lossType === 'rloo' ? 'sequence_sum' : importanceSamplingLevel === 'sequence' ? 'sequence_mean' : 'token'
  // RLOO takes the KL off the reward.
  const common = { level, beta: lossType === 'rloo' ? 0 : beta, correctedKl: options.useBiasCorrectionKl }
  switch (lossType) {
    case 'cispo': return { ...common, objective: 'cispo', cap: epsilonHigh } as PolicyLossOptions
    case 'sapo': return { ...common, objective: 'sapo', tauPositive: options.sapoTemperaturePos, tauNegative: options.sapoTemperatureNeg } as PolicyLossOptions
    case 'vespo': return { ...common, objective: 'vespo', positive: options.vespoPos, negative: options.vespoNeg } as PolicyLossOptions
    default: return { ...common, objective: 'clip', clipLow: epsilon, clipHigh: epsilonHigh, ...(delta === undefined ? {} : { limit: delta }) } as PolicyLossOptions
  }
}

/** What the loss of a micro-batch is made of, as tensors of all its input tokens. */
export interface ObjectiveInput {
  readonly logprob: Tensor
  readonly entropy: Tensor
  readonly sequences: SequenceStarts
  readonly advantages: Tensor
  readonly weights: Tensor
  /** 1 for tokens that count. */
  readonly counted: Tensor
  /** 1 for those that the entropy bonus is a mean over, `bonusTokens` of them. */
  readonly bonus: Tensor
  readonly bonusTokens: number
  readonly countedTokens: number
  readonly old: Tensor | null
  readonly reference: Tensor | null
  readonly factors: Tensor | null
  /** Of vespo for answers of another engine: the log-ratio of the old policy to the sampler, of each answer. */
  readonly samplerLogRatios?: Tensor | null
}

/** The loss of a micro-batch and its sums: TRL's per-token loss, KL, masks, aggregation and entropy bonus. */
export function policyObjective(input: ObjectiveInput, options: ObjectiveOptions & { gradientAccumulationSteps: number, onEntropy?: ((sum: Tensor, count: number) => void) | undefined }): LossResult {
  const { logprob, entropy, sequences, advantages, weights, counted, bonus, bonusTokens, countedTokens, old, reference, factors } = input
  const inParts = options.lossType === 'vespo' && (input.samplerLogRatios || (reference && options.beta > 0))
  const { loss, statistics } = inParts ? vespoInParts(input, options, objectiveOf(options)) : policyLoss(logprob, { ...objectiveOf(options), sequences, advantages, weights, old, reference, factors } as PolicyLossOptions)
  const { entropyCoef, gradientAccumulationSteps } = options
  const hasBonus = entropyCoef !== 0
  const bonusSum = sum(mul(hasBonus ? entropy : entropy.detach(), bonus))
  options.onEntropy?.(bonusSum.detach(), bonusTokens)
  const statistic = (at: number): Sum => ({ sum: slice(statistics, [at], [1]), count: Math.max(countedTokens, 1) })
  return {
    loss: !hasBonus ? loss : sub(loss, mul(bonusSum, entropyCoef / (Math.max(bonusTokens, 1) * gradientAccumulationSteps))),
    sums: {
      entropy: { sum: bonus === counted ? bonusSum.detach() : sum(mul(entropy.detach(), counted)), count: Math.max(countedTokens, 1) },
      'clipRatio/lowMean': statistic(1), 'clipRatio/highMean': statistic(2),
      'ratio/mean': statistic(3), 'ratio/max': { ...statistic(4), count: 1 },
      ...(reference && objectiveOf(options).beta ? { kl: statistic(5) } : {}),
    },
  }
}

/** log p and entropy of the batch's completions under the model, at the sampling temperature. */
const batchLogprobs = (model: CausalLanguageModel, { inputIds, shiftLabels }: Pick<PolicyBatch, 'inputIds' | 'shiftLabels'>, temperature: number): LogprobResult =>
  model.logprobs({ inputIds, shiftLabels, temperature })

/** The loss of a micro-batch under the model: log-probabilities come from hidden states, so logits of all tokens never exist. */
export function policyBatchLoss(model: CausalLanguageModel, batch: PolicyBatch, options: Parameters<typeof policyObjective>[1] & { temperature: number }): LossResult {
  const { logprob, entropy } = batchLogprobs(model, batch, options.temperature)
  const { device } = model
  const make = (values: Float32Array): Tensor => Tensor.from(values, [values.length], { device })
  const counted = make(batch.counted)
  const result = policyObjective({
    logprob, entropy, counted, countedTokens: batch.countedTokens, bonus: batch.bonus === batch.counted ? counted : make(batch.bonus), bonusTokens: batch.bonusTokens, sequences: SequenceStarts.ofLengths(batch.inputIds.map(({ length }) => length), device),
    advantages: make(batch.advantages), weights: make(batch.weights), old: batch.old && make(batch.old), reference: batch.reference && make(batch.reference), factors: batch.factors && make(batch.factors),
    samplerLogRatios: batch.samplerLogRatios && make(batch.samplerLogRatios),
  }, options)
  // What was recorded while sampling is at temperature 1.
  if (options.temperature !== 1 || !batch.recorded) return result
  const difference = max(abs(mul(sub(logprob.detach(), make(batch.recorded)), counted)), [0])
  return { ...result, sums: { ...result.sums, 'samplingLogprobDifference/max': { sum: difference, count: 1 } } }
}
