import { PairTable } from '../models/pairTable.ts'

/** The words of a corpus as symbols, and what merging may do. */
export interface MergeTask {
  /** The symbols of each word, one word after another. */
  symbols: Int32Array
  /** Where each word begins in `symbols`, and where the last one ends. */
  starts: Int32Array
  /** How often each word occurs. */
  counts: Float64Array
  /** The vocabulary so far, by id; grows. */
  tokens: string[]
  vocabSize: number
  minFrequency: number
  /** Begins every symbol that does not begin a word; left out where symbols are joined. */
  continuingSubwordPrefix: string
  /** In symbols of the start vocabulary; 0 for no limit. */
  maxTokenLength: number
}

/** Two ids that become a third. */
export type Merge = readonly [left: number, right: number]

interface Candidate {
  count: number
  pair: number
  /** Words that may hold the pair. */
  words: number[]
}

/**
 * Learns byte-pair merges as Hugging Face's BpeTrainer does: the most frequent pair first, the smaller ids first among equals.
 * Yields now and then, so that the caller can let others run.
 */
export function* learnMerges(task: MergeTask): Generator<undefined, Merge[]> {
  const learner = new MergeLearner(task)
  yield* learner.countPairs()
  return yield* learner.merge()
}

class MergeLearner {
  readonly #task: MergeTask
  readonly #lengths: Int32Array
  readonly #pairs = new PairTable(1 << 12)
  readonly #left: number[] = []
  readonly #right: number[] = []
  readonly #counts: number[] = []
  /** For each pair, the words that gained it in this step. */
  readonly #gained: (number[] | undefined)[] = []
  #touched: number[] = []
  readonly #ids = new Map<string, number>()
  /** How many start symbols each token stands for, for `maxTokenLength`. */
  readonly #sizes: number[]
  readonly #queue: CandidateQueue

  constructor(task: MergeTask) {
    this.#task = task
    const words = task.starts.length - 1
    this.#lengths = Int32Array.from({ length: words }, (_, word) => task.starts[word + 1]! - task.starts[word]!)
    task.tokens.forEach((token, id) => this.#ids.set(token, id))
    this.#sizes = task.tokens.map(() => 1)
    this.#queue = new CandidateQueue(this.#left, this.#right)
  }

  #change(left: number, right: number, by: number, word: number): void {
    const slot = this.#pairs.find(left, right)
    let pair: number
    if (slot >= 0) {
      pair = this.#pairs.first(slot)
      this.#counts[pair]! += by
    } else {
      pair = this.#counts.length
      this.#pairs.set(left, right, pair, 0)
      this.#left.push(left)
      this.#right.push(right)
      this.#counts.push(by)
      this.#gained.push(undefined)
    }
    if (by < 0) return
    const gained = this.#gained[pair]
    if (gained === undefined) {
      this.#gained[pair] = [word]
      this.#touched.push(pair)
    } else if (gained[gained.length - 1] !== word) {
      gained.push(word)
    }
  }

  /** Queues the pairs that words gained. */
  #enqueue(): void {
    for (const pair of this.#touched) {
      const words = this.#gained[pair]!
      this.#gained[pair] = undefined
      if (this.#counts[pair]! > 0) this.#queue.push({ count: this.#counts[pair]!, pair, words })
    }
    this.#touched = []
  }

  *countPairs(): Generator<undefined, void> {
    const { symbols, starts, counts } = this.#task
    for (let word = 0; word < counts.length; word++) {
      for (let i = starts[word]!; i + 1 < starts[word + 1]!; i++) this.#change(symbols[i]!, symbols[i + 1]!, counts[word]!, word)
      if ((word & 1023) === 0) yield
    }
    this.#enqueue()
  }

  *merge(): Generator<undefined, Merge[]> {
    const { tokens, vocabSize, minFrequency, continuingSubwordPrefix } = this.#task
    const merges: Merge[] = []
    while (tokens.length < vocabSize) {
      const top = this.#queue.pop()
      if (top === undefined) break
      const count = this.#counts[top.pair]!
      if (top.count !== count) {
        top.count = count
        this.#queue.push(top)
        continue
      }
      if (count < 1 || count < minFrequency) break
      const left = this.#left[top.pair]!
      const right = this.#right[top.pair]!
      const second = tokens[right]!
      const token = tokens[left]! + (second.startsWith(continuingSubwordPrefix) ? second.slice(continuingSubwordPrefix.length) : second)
      let id = this.#ids.get(token)
      if (id === undefined) {
        id = tokens.length
        tokens.push(token)
        this.#ids.set(token, id)
        this.#sizes.push(this.#sizes[left]! + this.#sizes[right]!)
      }
      merges.push([left, right])
      let work = 0
      for (const word of top.words) {
        this.#mergeWord(word, left, right, id)
        if ((++work & 4095) === 0) yield
      }
      this.#enqueue()
      yield
    }
    return merges
  }

  /** Replaces the pair in one word and books what that does to the pairs around it. */
  #mergeWord(word: number, left: number, right: number, id: number): void {
    const { symbols, starts, counts, maxTokenLength } = this.#task
    const from = starts[word]!
    const end = from + this.#lengths[word]!
    const count = counts[word]!
    let to = from
    for (let i = from; i < end; i++) {
      const symbol = symbols[i]!
      if (symbol !== left || i + 1 >= end || symbols[i + 1] !== right) {
        symbols[to++] = symbol
        continue
      }
      if (to > from) {
        const before = symbols[to - 1]!
        this.#change(before, left, -count, word)
        if (this.#fits(before, id, maxTokenLength)) this.#change(before, id, count, word)
      }
      symbols[to++] = id
      i++
      if (i + 1 < end) {
        const after = symbols[i + 1]!
        this.#change(right, after, -count, word)
        if (this.#fits(after, id, maxTokenLength)) this.#change(id, after, count, word)
      }
    }
    this.#lengths[word] = to - from
  }

  #fits(one: number, other: number, limit: number): boolean {
    return limit === 0 || this.#sizes[one]! + this.#sizes[other]! < limit
  }
}

/** Binary heap of candidates: largest count on top, then the smaller ids. */
class CandidateQueue {
  readonly #items: Candidate[] = []
  readonly #left: readonly number[]
  readonly #right: readonly number[]

  constructor(left: readonly number[], right: readonly number[]) {
    this.#left = left
    this.#right = right
  }

  #before(a: Candidate, b: Candidate): boolean {
    if (a.count !== b.count) return a.count > b.count
    const left = this.#left[a.pair]! - this.#left[b.pair]!
    return left !== 0 ? left < 0 : this.#right[a.pair]! < this.#right[b.pair]!
  }

  push(item: Candidate): void {
    const items = this.#items
    let at = items.length
    items.push(item)
    while (at > 0) {
      const parent = (at - 1) >> 1
      if (!this.#before(item, items[parent]!)) break
      items[at] = items[parent]!
      at = parent
    }
    items[at] = item
  }

  pop(): Candidate | undefined {
    const items = this.#items
    const top = items[0]
    const last = items.pop()
    if (last === undefined || items.length === 0) return top
    let at = 0
    for (;;) {
      let child = 2 * at + 1
      if (child >= items.length) break
      if (child + 1 < items.length && this.#before(items[child + 1]!, items[child]!)) child++
      if (!this.#before(items[child]!, last)) break
      items[at] = items[child]!
      at = child
    }
    items[at] = last
    return top
  }
}
