import type { DecodeStream } from '../tokenizers/index.ts'

/** Text as tokens come, up to a stop string. What may turn out to begin one is held back. */
export class StopText {
  readonly #decoder: DecodeStream
  readonly #stops: readonly string[]
  #held = ''
  #stopped = false

  constructor(decoder: DecodeStream, stopStrings: readonly string[]) {
    this.#decoder = decoder
    this.#stops = stopStrings
  }

  /** Whether a stop string came. Nothing is given out after it. */
  get stopped(): boolean { return this.#stopped }

  /** The text that became certain with this token, often ''. */
  push(id: number): string { return this.#take(this.#decoder.push(id)) }

  /** What was held back, when the answer ends for another reason. */
  end(): string {
    const text = this.#take(this.#decoder.end())
    const rest = this.#stopped ? '' : this.#held
    this.#held = ''
    return text + rest
  }

  #take(fresh: string): string {
    if (this.#stopped) return ''
    const text = this.#held + fresh
    let end = Infinity
    for (const stop of this.#stops) {
      const at = text.indexOf(stop)
      if (at >= 0) end = Math.min(end, at)
    }
    this.#stopped = end < Infinity
    if (!this.#stopped) end = text.length - longestOverlap(text, this.#stops)
    this.#held = this.#stopped ? '' : text.slice(end)
    return text.slice(0, end)
  }
}

/** Length of the longest end of `text` with which a stop string begins. */
function longestOverlap(text: string, stops: readonly string[]): number {
  let longest = 0
  for (const stop of stops) {
    for (let length = Math.min(stop.length - 1, text.length); length > longest; length--) {
      if (text.endsWith(stop.slice(0, length))) longest = length
    }
  }
  return longest
}
