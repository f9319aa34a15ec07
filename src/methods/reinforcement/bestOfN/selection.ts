import { ConfigError } from '../../../errors.ts'

/** Most KL of the best of n samples from the policy that drew them, in nats: log n - (n - 1) / n (Stiennon et al. 2020; Beirami et al. 2024). */
export function bestOfNKl(n: number): number {
  if (!Number.isInteger(n) || n < 1) throw new ConfigError(`n: expected a whole number from 1, got ${n}`)
  return Math.log(n) - (n - 1) / n
}

/** Probability that one of k samples is right, from c right ones of n, without bias: 1 - C(n - c, k) / C(n, k) (Chen et al. 2021). */
export function passAtK(n: number, c: number, k: number): number {
  if (![n, c, k].every(Number.isInteger) || n < 1 || c < 0 || c > n || k < 1 || k > n) throw new ConfigError(`passAtK: expected whole numbers with 1 <= k <= n and 0 <= c <= n, got n ${n}, c ${c}, k ${k}`)
  if (n - c < k) return 1
  let wrong = 1
  for (let i = n - c + 1; i <= n; i++) wrong *= 1 - k / i
  return 1 - wrong
}

export interface Candidate { text: string; score: number | null }

export interface SelectionOptions {
  /** best: the first of the highest score; threshold: all from `threshold` up. */
  select: 'best' | 'threshold'
  /** With select 'best', the least score that is kept; by default any. */
  threshold?: number | undefined
  /** Of equal texts only the first is kept. */
  dedupe: boolean
}

/** Which candidates are kept, in order of score from the highest (select 'best') or as they were drawn. Unjudged ones never are. */
export function selectCandidates(candidates: readonly Candidate[], { select, threshold = -Infinity, dedupe }: SelectionOptions): number[] {
  const seen = new Set<string>()
  const good = candidates.flatMap(({ text, score }, i) => {
    if (score === null || score < threshold) return []
    if (dedupe) {
      if (seen.has(text)) return []
      seen.add(text)
    }
    return [i]
  })
  if (select === 'threshold' || good.length === 0) return good
  return [good.reduce((best, i) => (candidates[i]!.score! > candidates[best]!.score! ? i : best))]
}
