import { setImmediate as nextTurn } from 'node:timers/promises'
import { TokenizerError } from '../../errors.ts'
import { detached } from '../wordCache.ts'

/** Texts to learn from; each is one document or line. */
export type Texts = Iterable<string> | AsyncIterable<string>

/** Longest stretch of work before other events get their turn, in milliseconds. */
const turnMs = 12

/** Gives the event loop its turn whenever enough time has passed; throws if `signal` was aborted. */
export class Turns {
  readonly #signal: AbortSignal | undefined
  #since = performance.now()

  constructor(signal: AbortSignal | undefined) {
    this.#signal = signal
  }

  get due(): boolean {
    return performance.now() - this.#since > turnMs
  }

  async take(): Promise<void> {
    this.#signal?.throwIfAborted()
    await nextTurn()
    this.#since = performance.now()
  }

  /** Runs a generator to its end; wherever it yields, the event loop may have its turn. */
  async run<T>(work: Generator<undefined, T>): Promise<T> {
    for (;;) {
      const { done, value } = work.next()
      if (done) return value
      if (this.due) await this.take()
    }
  }
}

/** Longer texts are cut at line ends, so that no step takes long. */
const pieceLength = 1 << 16

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

/** Cuts a long text in front of a line that starts with a letter or digit, where no pre-tokenizer joins across. */
function* pieces(text: string): Generator<string> {
  let start = 0
  while (text.length - start > pieceLength * 2) {
    const border = /\n(?=[\p{L}\p{N}])/gu
    border.lastIndex = start + pieceLength
    const found = border.exec(text.slice(0, start + pieceLength * 2))
    if (!found) break
    yield text.slice(start, found.index + 1)
    start = found.index + 1
  }
  yield start === 0 ? text : text.slice(start)
}
