/** Longest word worth remembering; longer ones seldom come back. */
const longestKey = 64

/** Ids of words seen before, in two generations: when the young one is full it becomes the old one, and the old one is forgotten. */
export class WordCache {
  readonly #capacity: number
  #young = new Map<string, number | readonly number[]>()
  #old = new Map<string, number | readonly number[]>()

  constructor(capacity: number) {
    this.#capacity = capacity
  }

  get(word: string): number | readonly number[] | undefined {
    const young = this.#young.get(word)
    if (young !== undefined) return young
    const old = this.#old.get(word)
    if (old !== undefined) this.#insert(word, old)
    return old
  }

  set(word: string, ids: readonly number[]): void {
    if (word.length > longestKey) return
    this.#insert(detached(word), ids.length === 1 ? ids[0]! : ids)
  }

  #insert(word: string, ids: number | readonly number[]): void {
    if (this.#young.size >= this.#capacity) {
      this.#old = this.#young
      this.#young = new Map()
    }
    this.#young.set(word, ids)
  }

  clear(): void {
    this.#young.clear()
    this.#old.clear()
  }
}

/** A copy that does not keep the text alive from which it was cut: V8 makes slices of 13 and more characters views. */
export function detached(word: string): string {
  return word.length < 13 ? word : Buffer.from(word, 'utf16le').toString('utf16le')
}
