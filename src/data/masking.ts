import type { Batch } from './collate.ts'
import { ignoreIndex } from './types.ts'
import type { RandomSequence } from './random.ts'

/** Which tokens are hidden from a masked language model, and what stands in their place: transformers' DataCollatorForLanguageModeling. */
export interface Masking {
  readonly maskTokenId: number
  /** 1 for ids that are never chosen: special tokens. */
  readonly isSpecial: Uint8Array
  /** What a random token is drawn from. */
  readonly ordinaryIds: Int32Array
  /** 1 for ids that go on with the word before them; with it words are chosen as a whole. */
  readonly continuesWord?: Uint8Array | undefined
  /** Share of the tokens, or words, that are chosen. */
  readonly mlmProbability: number
  /** Shares of the chosen tokens that become the mask token and a random one; the rest stay as they are. */
  readonly maskReplaceProb: number
  readonly randomReplaceProb: number
}

/** Random words a token has of its own. */
const wordsPerToken = 4

/**
 * Hides tokens of a batch (Devlin et al. 2018). Labels hold the chosen tokens at their own places, -100 elsewhere. What happens to a token depends on
 * `random` and its number, `first` + its place, alone: not on how a step is cut into batches.
 */
export function maskTokens(batch: Batch, masking: Masking, random: RandomSequence, first: number): Batch {
  const { maskTokenId, isSpecial, ordinaryIds, continuesWord, mlmProbability, maskReplaceProb, randomReplaceProb } = masking
  const inputIds = batch.inputIds.slice()
  const labels = new Int32Array(inputIds.length).fill(ignoreIndex)
  const starts = new Set(batch.cuSeqlens)
  let numItems = 0
  let wordIsChosen = false
  for (const [t, id] of batch.inputIds.entries()) {
    if (isSpecial[id]) { wordIsChosen = false; continue }
    const at = wordsPerToken * (first + t)
    const goesOn = continuesWord?.[id] === 1 && !starts.has(t) && !isSpecial[batch.inputIds[t - 1]!]
    if (!goesOn) wordIsChosen = random.uniform(at) < mlmProbability
    if (!wordIsChosen) continue
    labels[t] = id
    numItems++
    const what = random.uniform(at + 1)
    if (what < maskReplaceProb) inputIds[t] = maskTokenId
    else if (what < maskReplaceProb + randomReplaceProb) inputIds[t] = ordinaryIds[random.below(at + 2, ordinaryIds.length)]!
  }
  return { ...batch, inputIds, labels, numItems }
}
