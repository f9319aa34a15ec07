import { TokenizerError } from '../../errors.ts'
import type { Turns } from '../../turns.ts'
import { detached } from '../wordCache.ts'
import { pieces } from './pieces.ts'

/** Texts to learn from; each is one document or line. */
export type Texts = Iterable<string> | AsyncIterable<string>

/** How often each word occurs. */
export async function countWords(texts: Texts, toWords: (text: string) => readonly string[], turns: Turns): Promise<Map<string, number>> {
  const counts = new Map<string, number>()
  let index = 0
  for await (const text of texts) {
    if (typeof text !== 'string') throw new TokenizerError(`text ${index} to train on: expected a string, got ${typeof text}`)
    index++
    for (const piece of pieces(text)) {
      for (const word of toWords(piece)) {
        const count = counts.get(word)
        if (count === undefined) counts.set(detached(word), 1)
        else counts.set(word, count + 1)
      }
      if (turns.due) await turns.take()
    }
  }
  if (counts.size === 0) throw new TokenizerError('there is no text to train a tokenizer on: every text was empty')
  return counts
}
