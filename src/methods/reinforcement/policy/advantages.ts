import { groupAdvantages } from '../../../ops/index.ts'
import type { AdvantageScaling } from '../../../ops/index.ts'
import { cpu, scope, Tensor } from '../../../tensor/index.ts'

/** Rewards of one generation, groups one after another. */
export interface Rewards {
  /** [samples × functions], row by row; NaN where a function gave none. */
  readonly values: Float64Array
  readonly weights: readonly number[]
  readonly numGenerations: number
}

export interface Advantages {
  /** One for each sample; 0 where it has no reward. */
  readonly advantages: Float64Array
  /** The weighted sum of each sample's rewards; NaN where it has none. */
  readonly rewards: Float64Array
  /** Groups whose rewards are all alike, and so teach nothing. */
  readonly withoutSpread: number
}

async function onKernel(values: Float64Array, numGenerations: number, scaling: AdvantageScaling, weights: readonly number[]): Promise<{ advantages: Float64Array, withoutSpread: number }> {
  const result = scope(() => {
    const options = { dtype: 'float64', device: cpu } as const
    return { ...groupAdvantages(Tensor.from(values, [values.length / weights.length, weights.length], options), { groupSize: numGenerations, scaling, weights: Tensor.from(weights, [weights.length], options) }) }
  })
  try {
    const [advantages, withoutSpread] = await Promise.all([result.advantages.data(), result.withoutSpread.item()])
    return { advantages: advantages as Float64Array, withoutSpread }
  } finally {
    result.advantages.dispose()
    result.withoutSpread.dispose()
  }
}

/** The weighted sum of each sample's rewards; NaN where no function gave one. */
export function weightedRewards({ values, weights }: Pick<Rewards, 'values' | 'weights'>): Float64Array {
  const functions = weights.length
  const result = new Float64Array(values.length / functions)
  for (let i = 0; i < result.length; i++) {
    let [total, given] = [0, false]
    for (let f = 0; f < functions; f++) {
      const value = values[i * functions + f]!
      if (Number.isNaN(value)) continue
      total += weights[f]! * value
      given = true
    }
    result[i] = given ? total : NaN
  }
  return result
}

/** GRPO's advantages (TRL's scale_rewards), in float64; with 'normalize_then_sum' GDPO's, which normalises each function's rewards by itself. */
export async function grpoAdvantages(given: Rewards, scaling: 'group' | 'batch' | 'none' | 'normalize_then_sum'): Promise<Advantages> {
  const { values, weights, numGenerations } = given
  return { ...await onKernel(values, numGenerations, scaling, weights), rewards: weightedRewards(given) }
}

export interface RlooAdvantageOptions {
  rewardClipRange?: readonly [number, number] | undefined
  normalizeAdvantages?: boolean
  beta?: number
  /** Sum over each answer of log p - log p of the reference, taken off its reward times beta. */
  kl?: Float64Array | undefined
}

/** RLOO's advantages (Ahmadian et al., 2024): a reward less the mean of the others of its group. */
export async function rlooAdvantages(given: Rewards, { rewardClipRange, normalizeAdvantages = false, beta = 0, kl }: RlooAdvantageOptions = {}): Promise<Advantages> {
  const rewards = weightedRewards(given).map((reward, i) => {
    const clipped = rewardClipRange ? Math.min(Math.max(reward, rewardClipRange[0]), rewardClipRange[1]) : reward
    return kl && beta !== 0 ? clipped - beta * kl[i]! : clipped
  })
  const { advantages, withoutSpread } = await onKernel(rewards, given.numGenerations, 'leave_one_out', [1])
  return { advantages: normalizeAdvantages ? normalized(advantages, rewards, given.numGenerations) : advantages, rewards, withoutSpread }
}

/** Over the samples that have something to be compared with. */
function normalized(advantages: Float64Array, rewards: Float64Array, groupSize: number): Float64Array {
  const counts = Array.from({ length: rewards.length / groupSize }, (_, g) => rewards.subarray(g * groupSize, (g + 1) * groupSize).reduce((count, one) => count + (Number.isNaN(one) ? 0 : 1), 0))
  const counted = (i: number): boolean => !Number.isNaN(rewards[i]!) && counts[Math.floor(i / groupSize)]! > 1
  const [average, deviation] = meanAndDeviation(advantages.filter((_, i) => counted(i)))
  return advantages.map((advantage, i) => counted(i) && !Number.isNaN(deviation) ? (advantage - average) / (deviation + 1e-4) : 0)
}

/** Mean and unbiased deviation of what is not NaN; the deviation of fewer than two is NaN. */
export function meanAndDeviation(values: Float64Array): [mean: number, deviation: number] {
  let [sum, count] = [0, 0]
  for (const value of values) {
    if (Number.isNaN(value)) continue
    sum += value
    count++
  }
  const average = sum / count
  if (count < 2) return [average, NaN]
  let squares = 0
  for (const value of values) if (!Number.isNaN(value)) squares += (value - average) ** 2
  return [average, Math.sqrt(squares / (count - 1))]
}
