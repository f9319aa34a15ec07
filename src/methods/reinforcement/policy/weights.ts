/** How token losses become one loss, and which objective they have. */
export const policyLossTypes = ['grpo', 'dr_grpo', 'dapo', 'bnpo', 'cispo', 'sapo', 'luspo', 'vespo', 'rloo'] as const
export type PolicyLossType = typeof policyLossTypes[number]

export interface WeightOptions {
  lossType: PolicyLossType
  /** Answers of the micro-batch. */
  rows: number
  /** Tokens of the micro-batch that count. */
  batchTokens: number
  /** Tokens that count of everything generated together. */
  generationTokens: number
  maxCompletionLength: number
  gradientAccumulationSteps: number
  stepsPerGeneration: number
}

/** What each counted token of an answer with `length` of them is multiplied by, before all are summed: TRL's aggregations. */
export function tokenWeight(length: number, options: WeightOptions): number {
  const { lossType, rows, batchTokens, generationTokens, maxCompletionLength, gradientAccumulationSteps: steps, stepsPerGeneration } = options
  switch (lossType) {
    // RLOO's loss is one for an answer, which its tokens share.
    case 'grpo': case 'sapo': case 'rloo': return 1 / (rows * Math.max(length, 1) * steps)
    case 'bnpo': return 1 / (Math.max(batchTokens, 1) * steps)
    case 'dr_grpo': return 1 / (rows * maxCompletionLength * steps)
    case 'luspo': return 1 / (rows * steps)
    case 'dapo': case 'cispo': case 'vespo': return stepsPerGeneration / (Math.max(generationTokens, 1) * steps)
  }
}

/** torch.quantile(values, q) with linear interpolation, in float32 as TRL takes it; NaN for no values. */
function quantile(values: readonly number[], q: number): number {
  const sorted = values.map(Math.fround).sort((a, b) => a - b)
  const at = Math.fround(q) * (sorted.length - 1)
  const [low, high] = [sorted[Math.floor(at)] ?? NaN, sorted[Math.ceil(at)] ?? NaN]
  return low + (at - Math.floor(at)) * (high - low)
}

export interface FactorInput {
  /** Of each token that counts, for every answer. */
  entropies?: readonly ArrayLike<number>[]
  logprobs?: readonly ArrayLike<number>[]
  sampled?: readonly ArrayLike<number>[]
  advantages: ArrayLike<number>
}

/**
 * Which tokens the loss keeps: 1 or 0 for each counted token of every answer. Entropy: those at or above the (1 - topEntropyQuantile) quantile (Wang et
 * al., 2025). Off-policy: answers with a negative advantage whose mean log-ratio of sampler to policy is above the threshold are dropped (DeepSeek-V3.2).
 */
export function keepFactors(counts: readonly number[], { entropies, logprobs, sampled, advantages }: FactorInput, options: { topEntropyQuantile: number, offPolicyMaskThreshold: number | null }): number[][] {
  const { topEntropyQuantile, offPolicyMaskThreshold } = options
  const floor = entropies && topEntropyQuantile < 1 ? quantile(entropies.flatMap((row) => Array.from(row)), 1 - topEntropyQuantile) : -Infinity
  return counts.map((count, row) => {
    // A sampler's log-probability that is not known says nothing.
    const drift = logprobs && sampled ? Array.from({ length: count }, (_, t) => sampled[row]![t]! - logprobs[row]![t]!).reduce((a, b) => a + (Number.isNaN(b) ? 0 : b), 0) / Math.max(count, 1) : 0
    const off = offPolicyMaskThreshold !== null && advantages[row]! < 0 && drift > offPolicyMaskThreshold
    return Array.from({ length: count }, (_, t) => off || (entropies && entropies[row]![t]! < floor) ? 0 : 1)
  })
}
