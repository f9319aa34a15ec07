import { ShapeError } from '../../../errors.ts'
import { gae } from '../../../ops/index.ts'
import { cpu, scope, Tensor } from '../../../tensor/index.ts'

/** One sampled answer as PPO sees it. */
export interface PpoSequence {
  /** log p of each token of the answer under the policy that sampled it. */
  logprobs: ArrayLike<number>
  /** The same under the reference policy. */
  reference: ArrayLike<number>
  /** The value before each token and, unless the answer fills all the room there is, after the last: one number more than tokens. */
  values: ArrayLike<number>
  /** Reward of the whole answer. */
  score: number
  /** 0 for tokens that the policy did not write, such as a tool's output; all 1 by default. */
  mask?: ArrayLike<number> | undefined
  /** Rewards at single tokens, beside the score. */
  tokenRewards?: ArrayLike<number> | undefined
}

export interface PpoAdvantageOptions {
  /** Weight of the KL penalty in the reward. */
  klCoef: number
  /** k1: the log-ratio; k3: Schulman's estimator, which is never negative. */
  klEstimator: 'k1' | 'k3'
  gamma: number
  lam: number
  /** Divide rewards by their deviation. */
  whitenRewards: boolean
  /** Give advantages mean 0 and variance 1. */
  whitenAdvantages: boolean
}

/** What the tokens of one answer are trained on. */
export interface PpoTargets {
  /** Reward at each value: penalty and score. */
  rewards: Float64Array
  /** Of each token; 0 where masked. */
  advantages: Float64Array
  /** What each value should have been. */
  returns: Float64Array
}

/** A token's estimate of the KL from the reference (Schulman 2020). */
export function klOf(logprob: number, reference: number, estimator: 'k1' | 'k3'): number {
  const away = reference - logprob
  return estimator === 'k1' ? -away : Math.exp(away) - 1 - away
}

/** (x - mean) / sqrt(variance + 1e-8) over the numbers that count, with the unbiased variance; without `shift` the mean stays. TRL's masked_whiten. */
export function whiten(rows: readonly Float64Array[], counts: (row: number, place: number) => boolean, shift: boolean): void {
  let [count, total, squares] = [0, 0, 0]
  rows.forEach((row, r) => { row.forEach((x, t) => { if (counts(r, t)) { count++; total += x } }) })
  if (count === 0) return
  const mean = total / count
  rows.forEach((row, r) => { row.forEach((x, t) => { if (counts(r, t)) squares += (x - mean) ** 2 }) })
  // A single number has no deviation; it is left as far from the mean as it is.
  const scale = 1 / Math.sqrt(squares / Math.max(count - 1, 1) + 1e-8)
  rows.forEach((row, r) => { row.forEach((x, t) => { if (counts(r, t)) row[t] = (x - mean) * scale + (shift ? 0 : mean) }) })
}

const isWritten = ({ mask }: PpoSequence, place: number): boolean => mask === undefined || mask[place] !== 0

function checkSequence({ logprobs, reference, values, mask, tokenRewards }: PpoSequence, i: number): void {
  const n = logprobs.length
  const wrong = Object.entries({ reference, mask, tokenRewards }).find(([, one]) => one !== undefined && one.length !== n)
  if (wrong) throw new ShapeError(`ppoAdvantages: sequence ${i}: ${wrong[0]} must have the ${n} entries of logprobs, but has ${wrong[1]!.length}`)
  if (values.length !== n && values.length !== n + 1) throw new ShapeError(`ppoAdvantages: sequence ${i}: values must have ${n} entries, or ${n + 1} with that after the last token, but has ${values.length}`)
}

/** KL penalty at each written token and the score at the last value. */
function rewardsOf(sequence: PpoSequence, { klCoef, klEstimator }: PpoAdvantageOptions): Float64Array {
  const { logprobs, reference, values, score, tokenRewards } = sequence
  const rewards = new Float64Array(values.length)
  for (let t = 0; t < logprobs.length; t++) {
    if (isWritten(sequence, t)) rewards[t] = -klCoef * klOf(logprobs[t]!, reference[t]!, klEstimator)
    rewards[t] = rewards[t]! + (tokenRewards?.[t] ?? 0)
  }
  if (rewards.length > 0) rewards[lastCounted(sequence)]! += score
  return rewards
}

/** The place of the score: the value after the last token, else the last token that the policy wrote. */
function lastCounted(sequence: PpoSequence): number {
  const { logprobs, values } = sequence
  if (values.length > logprobs.length) return values.length - 1
  for (let t = logprobs.length - 1; t > 0; t--) if (isWritten(sequence, t)) return t
  return 0
}

/** Rewards on tokens that the policy did not write go to the last one before them that it wrote, as the estimator passes over theirs. */
function moveToWritten(rewards: Float64Array, sequence: PpoSequence): void {
  let last = -1
  for (let t = 0; t < sequence.logprobs.length; t++) {
    if (isWritten(sequence, t)) last = t
    else if (last >= 0) {
      rewards[last] = rewards[last]! + rewards[t]!
      rewards[t] = 0
    }
  }
}

/**
 * Advantages and returns of a batch of answers, as TRL's PPOTrainer computes them (Schulman et al. 2017; Ziegler et al. 2019): the KL penalty at each token
 * and the score at the end are the rewards; generalised advantage estimation over them; returns before whitening. Tokens with mask 0 are passed over, as in
 * verl: the estimate before them goes on from what follows them.
 */
export async function ppoAdvantages(sequences: readonly PpoSequence[], options: PpoAdvantageOptions): Promise<PpoTargets[]> {
  sequences.forEach(checkSequence)
  const rewards = sequences.map((sequence) => {
    const row = rewardsOf(sequence, options)
    moveToWritten(row, sequence)
    return row
  })
  const steps = Math.max(0, ...rewards.map(({ length }) => length))
  if (steps === 0) return rewards.map((row) => ({ rewards: row, advantages: new Float64Array(0), returns: new Float64Array(0) }))
  const counts = (row: number, place: number): boolean => place >= sequences[row]!.logprobs.length || isWritten(sequences[row]!, place)
  if (options.whitenRewards) whiten(rewards, counts, false)
  const [advantageGrid, returnGrid] = await estimate(rewards, sequences.map(({ values }) => values), counts, steps, options)
  const advantages = sequences.map(({ logprobs }, i) => advantageGrid.slice(i * steps, i * steps + logprobs.length))
  if (options.whitenAdvantages) whiten(advantages, counts, true)
  return sequences.map(({ values }, i) => ({ rewards: rewards[i]!, advantages: advantages[i]!, returns: returnGrid.slice(i * steps, i * steps + values.length) }))
}

/** The gae operation over rows padded to `steps`, in float64. */
async function estimate(
  rewards: readonly Float64Array[], values: readonly ArrayLike<number>[], counts: (row: number, place: number) => boolean, steps: number, { gamma, lam }: PpoAdvantageOptions,
): Promise<[Float64Array, Float64Array]> {
  const shape = [rewards.length, steps]
  const grid = (fill: (row: number, place: number) => number): Tensor => {
    const numbers = new Float64Array(rewards.length * steps)
    rewards.forEach(({ length }, row) => { for (let t = 0; t < length; t++) numbers[row * steps + t] = fill(row, t) })
    return Tensor.from(numbers, shape, { device: cpu })
  }
  const reads = scope(() => {
    const result = gae(grid((row, t) => rewards[row]![t]!), grid((row, t) => values[row]![t]!), { gamma, lambda: lam, mask: grid((row, t) => (counts(row, t) ? 1 : 0)) })
    return [result.advantages.data(), result.returns.data()]
  })
  const [advantages, returns] = await Promise.all(reads)
  return [Float64Array.from(advantages as Float64Array), Float64Array.from(returns as Float64Array)]
}
