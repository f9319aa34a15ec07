import { z } from 'zod'
import { lazily } from '../../../options.ts'

/** How answers that another engine sampled are weighed: TRL's options, which name vLLM. */
export const samplerCorrectionShape = lazily(() => ({
  vllmImportanceSamplingCorrection: z.boolean().default(true).describe("Weigh answers of a rolloutServer by how likely the policy is to write what the server's engine wrote"),
  vllmImportanceSamplingMode: z.enum(['token_truncate', 'token_mask', 'sequence_truncate', 'sequence_mask']).default('sequence_mask')
    .describe('The weight of a token or of a whole answer, cut to the bounds or 0 beyond them'),
  vllmImportanceSamplingClipMax: z.number().positive().nullable().default(3).describe('Upper bound of the weight; null for none'),
  vllmImportanceSamplingClipMin: z.number().min(0).nullable().default(null).describe('Lower bound of the weight; null for none'),
} as const))

export type SamplerCorrection = z.output<z.ZodObject<typeof samplerCorrectionShape>>

/**
 * The importance-sampling weight of each token of an answer, p / p of the sampler, by token or over the whole answer (TIS and MIS of TRL's GRPOTrainer).
 * `counted` is 1 for tokens that count; a token whose sampler's log-probability is NaN is not corrected.
 */
export function samplerWeights(policy: Float32Array, sampler: Float32Array, counted: Uint8Array, options: SamplerCorrection): Float32Array {
  const { vllmImportanceSamplingMode: mode, vllmImportanceSamplingClipMax: most, vllmImportanceSamplingClipMin: least } = options
  const differences = policy.map((logprob, t) => (counted[t] && !Number.isNaN(sampler[t]!) ? logprob - sampler[t]! : 0))
  const isSequence = mode.startsWith('sequence')
  const [low, high] = [least ?? -Infinity, most ?? Infinity]
  const bounded = (ratio: number): number => (mode.endsWith('truncate') ? Math.min(Math.max(ratio, low), high) : ratio < low || ratio > high ? 0 : ratio)
  if (!isSequence) return differences.map((one) => bounded(Math.exp(one)))
  return new Float32Array(policy.length).fill(bounded(Math.exp(differences.reduce((sum, one) => sum + one, 0))))
}

const lowestLogRatio = Math.log(1e-8)

/** Σ log(p / p of the sampler) over the tokens that count, each held between log 1e-8 and 20: what TRL adds to an answer's log-ratio. */
export function samplerLogRatio(weights: Float32Array, counted: Uint8Array): number {
  let total = 0
  weights.forEach((weight, t) => { if (counted[t]) total += Math.min(Math.max(Math.log(weight), lowestLogRatio), 20) })
  return total
}
