import { ignoreIndex } from '../../../data/index.ts'
import { samplerLogRatio } from './samplerCorrection.ts'
import { tokenWeight, type WeightOptions } from './weights.ts'
import type { Rollout } from '../rollouts/rollouts.ts'

/** A rollout with what it is trained on. Arrays are of the completion's tokens. */
export interface TrainedRollout {
  readonly rollout: Rollout
  readonly advantage: number
  /** 1 for tokens that count in the loss: the rollout's mask, or all 0 for a truncated answer that is left out. */
  readonly counted: Uint8Array
  /** Under the policy that sampled, at the sampling temperature; null where that is the policy being trained. */
  readonly old: Float32Array | null
  /** Under the reference. */
  readonly reference: Float32Array | null
  /** What each token's loss is multiplied by, for answers of another engine; null for 1. */
  readonly weights: Float32Array | null
}

/** A micro-batch: prompts and answers one after another without padding. Per-token arrays are of all input tokens, 0 where nothing counts. */
export interface PolicyBatch {
  readonly rollouts: readonly TrainedRollout[]
  /** Each without its last token, which predicts nothing. */
  readonly inputIds: readonly Int32Array[]
  /** -100 before the completion. */
  readonly shiftLabels: readonly Int32Array[]
  readonly tokens: number
  /** Tokens that count. */
  readonly countedTokens: number
  readonly advantages: Float32Array
  readonly weights: Float32Array
  readonly counted: Float32Array
  /** 1 for tokens that the entropy bonus is a mean over: those that count and, with topEntropyQuantile, have high entropy. */
  readonly bonus: Float32Array
  readonly bonusTokens: number
  readonly old: Float32Array | null
  readonly reference: Float32Array | null
  readonly factors: Float32Array | null
  /** Of vespo for answers of another engine, which takes their weights into its own: one of each answer. */
  readonly samplerLogRatios: Float32Array | null
  /** Log-probabilities as recorded while sampling; null where some are not known. */
  readonly recorded: Float32Array | null
}

export function sumOf(values: ArrayLike<number>): number {
  let total = 0
  for (let i = 0; i < values.length; i++) total += values[i]!
  return total
}

/** Number of the input token that predicts the completion's first. */
export const completionStart = ({ promptIds }: Rollout): number => promptIds.length - 1

/** What the model reads of these rollouts, and what each token of it is to predict: -100 before the completion. */
export function tokensOf(rollouts: readonly Rollout[]): Pick<PolicyBatch, 'inputIds' | 'shiftLabels'> {
  return {
    inputIds: rollouts.map(({ promptIds, completionIds }) => {
      const ids = new Int32Array(promptIds.length + completionIds.length - 1)
      ids.set(promptIds)
      ids.set(completionIds.subarray(0, -1), promptIds.length)
      return ids
    }),
    shiftLabels: rollouts.map((rollout) => {
      const begin = completionStart(rollout)
      const labels = new Int32Array(begin + rollout.completionIds.length).fill(ignoreIndex, 0, begin)
      labels.set(rollout.completionIds, begin)
      return labels
    }),
  }
}

/** Arrays of one a rollout, of its completion's tokens. */
export interface BatchMasks { factors: readonly ArrayLike<number>[], bonus: readonly ArrayLike<number>[] }

/** The batch of these rollouts. */
export function policyBatch(rollouts: readonly TrainedRollout[], options: Omit<WeightOptions, 'rows' | 'batchTokens'>, masks: BatchMasks | null = null): PolicyBatch {
  const { inputIds, shiftLabels } = tokensOf(rollouts.map(({ rollout }) => rollout))
  const tokens = inputIds.reduce((sum, { length }) => sum + length, 0)
  const counts = rollouts.map(({ counted }) => sumOf(counted))
  const countedTokens = counts.reduce((a, b) => a + b, 0)
  const weightOptions = { ...options, rows: rollouts.length, batchTokens: countedTokens }
  const flat = (valueOf: (row: number) => ArrayLike<number>): Float32Array => {
    const result = new Float32Array(tokens)
    let begin = 0
    rollouts.forEach(({ rollout, counted }, row) => {
      const values = valueOf(row)
      for (let t = 0; t < counted.length; t++) if (counted[t]) result[begin + completionStart(rollout) + t] = values[t]!
      begin += inputIds[row]!.length
    })
    return result
  }
  const counted = flat((row) => rollouts[row]!.counted)
  const bonus = masks ? flat((row) => masks.bonus[row]!) : counted
  const areWeighed = rollouts.some(({ weights }) => weights !== null)
  const isVespo = options.lossType === 'vespo'
  const factorsOf = (row: number): Float32Array => Float32Array.from(rollouts[row]!.counted, (_, t) => (masks?.factors[row]![t] ?? 1) * (isVespo ? 1 : rollouts[row]!.weights?.[t] ?? 1))
  const optional = (valueOf: (row: TrainedRollout) => Float32Array | null): Float32Array | null => rollouts.every((row) => valueOf(row) !== null) ? flat((row) => valueOf(rollouts[row]!)!) : null
  return {
    rollouts, inputIds, shiftLabels, tokens, countedTokens, counted,
    advantages: Float32Array.from(rollouts, ({ advantage }) => advantage),
    weights: flat((row) => new Float32Array(rollouts[row]!.counted.length).fill(tokenWeight(counts[row]!, weightOptions))),
    old: optional(({ old }) => old), reference: optional(({ reference }) => reference),
    bonus, bonusTokens: masks ? sumOf(bonus) : countedTokens, factors: masks !== null || (areWeighed && !isVespo) ? flat(factorsOf) : null,
    samplerLogRatios: areWeighed && isVespo ? Float32Array.from(rollouts, (one) => one.weights ? samplerLogRatio(one.weights, one.counted) : 0) : null,
    recorded: rollouts.some(({ rollout }) => rollout.logprobs.some(Number.isNaN)) ? null : flat((row) => rollouts[row]!.rollout.logprobs),
  }
}
