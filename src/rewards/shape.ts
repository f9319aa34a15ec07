import { ConfigError } from '../errors.ts'
import { rewardEach, type AnyRow, type RewardContext, type RewardFunction, type RewardSample } from './types.ts'

/**
 * A penalty for repeated n-grams of words, from 0 for none to maxPenalty for nothing else: (1 - distinct / all) · maxPenalty. TRL's
 * get_repetition_penalty_reward, with its defaults of 3 and -1.
 */
export function repetitionPenalty<Row = AnyRow>({ ngramSize = 3, maxPenalty = -1 }: { ngramSize?: number, maxPenalty?: number } = {}): RewardFunction<Row> {
  if (!Number.isInteger(ngramSize) || ngramSize < 1) throw new ConfigError(`repetitionPenalty: ngramSize: expected a whole number from 1, got ${ngramSize}`)
  if (!(maxPenalty <= 0)) throw new ConfigError(`repetitionPenalty: maxPenalty: expected 0 or less, got ${maxPenalty}`)
  return rewardEach<Row>('repetition', ({ completion }) => {
    const words = completion.toLowerCase().split(/\s+/).filter(Boolean)
    const count = words.length - ngramSize + 1
    if (count < 1) return 0
    const distinct = new Set(Array.from({ length: count }, (_, i) => words.slice(i, i + ngramSize).join(' ')))
    return (1 - distinct.size / count) * maxPenalty
  })
}

/**
 * DAPO's soft punishment of overlong answers (Yu et al., 2025, eq. 13): 0 up to maxCompletionLength - cacheTokens tokens, then falling evenly to -1 at
 * maxCompletionLength, and -1 beyond.
 */
export function softOverlong<Row = AnyRow>({ maxCompletionLength, cacheTokens }: { maxCompletionLength: number, cacheTokens: number }): RewardFunction<Row> {
  if (!(cacheTokens > 0 && cacheTokens <= maxCompletionLength)) throw new ConfigError(`softOverlong: cacheTokens: expected a number above 0 and at most maxCompletionLength ${maxCompletionLength}, got ${cacheTokens}`)
  const free = maxCompletionLength - cacheTokens
  return rewardEach<Row>('softOverlong', ({ completionIds: { length } }) => length <= free ? 0 : length <= maxCompletionLength ? (free - length) / cacheTokens : -1)
}

/** What the cosine reward of an answer's length takes. */
export interface CosineOptions<Row = AnyRow> {
  /** Decides whether an answer is right: a reward function, of which above 0 counts as right and null stays null. */
  correctness: RewardFunction<Row>
  /** Reward of a right answer without length, and of one of maxLength. Default 1 and 0.5: shorter is better. */
  right?: readonly [shortest: number, longest: number]
  /** The same of a wrong answer. Default -1 and -0.5: thinking longer costs less. */
  wrong?: readonly [shortest: number, longest: number]
  /** In tokens; longer answers count as this long. */
  maxLength: number
}

/** A reward that goes from one value to another along half a cosine of the answer's length (Yeo et al., 2025), by whether the answer is right. */
export function cosineLength<Row = AnyRow>({ correctness, right = [1, 0.5], wrong = [-1, -0.5], maxLength }: CosineOptions<Row>): RewardFunction<Row> {
  if (!(maxLength > 0)) throw new ConfigError(`cosineLength: maxLength: expected a number above 0, got ${maxLength}`)
  const judge = async (samples: readonly RewardSample<Row>[], context: RewardContext): Promise<(number | null)[]> => {
    const verdicts = await correctness(samples, context)
    return samples.map(({ completionIds }, i) => {
      const verdict = verdicts[i]
      if (verdict === null || verdict === undefined) return null
      const [shortest, longest] = verdict > 0 ? right : wrong
      return longest + (shortest - longest) * (1 + Math.cos(Math.PI * Math.min(completionIds.length, maxLength) / maxLength)) / 2
    })
  }
  return Object.defineProperty(judge, 'name', { value: 'cosineLength' })
}
