import type { CacheSequence, KeyValueCache } from '../models/index.ts'
import type { Answer } from './answer.ts'

/** Samples of one prompt: those that come later start from the keys and values of the first. */
export class PrefixGroup {
  readonly members = new Set<Entry>()
}

/** An answer that waits or is being generated. */
export interface Entry {
  readonly answer: Answer
  readonly group: PrefixGroup | undefined
  /** Slots of the cache that it needs at most. */
  readonly capacity: number
  /** Its place in the cache; undefined while it waits. */
  sequence: CacheSequence | undefined
}

/** What one entry adds to the next forward pass: its tokens from `begin` to `end`. */
export interface Part {
  readonly entry: Entry
  readonly sequence: CacheSequence
  readonly begin: number
  readonly end: number
}

export interface ScheduleOptions {
  /** Most answers at a time. */
  maxBatchSize: number
  /** Most prompt tokens in one forward pass. */
  prefillTokens: number
  /** How many virtual tokens the model has now; the cache holds them before each prompt. */
  virtualTokens: () => number
  /** Whether a prompt has to be computed in one pass, which may then be longer. */
  isWhole: (promptTokens: number) => boolean
}

/**
 * Decides what runs next. Answers under way advance by one token at each step; the places of finished ones are given to waiting ones at once.
 * Prompts are computed in pieces, so that a long one does not hold up the others.
 */
export class Schedule {
  readonly #cache: KeyValueCache
  readonly #options: ScheduleOptions
  #waiting: Entry[] = []
  /** Waiting for the first sample of their prompt, which is being computed. They count as active, and room is kept for them. */
  #following: { entry: Entry, leader: Entry }[] = []
  readonly #active = new Set<Entry>()

  constructor(cache: KeyValueCache, options: ScheduleOptions) {
    this.#cache = cache
    this.#options = options
  }

  get entries(): Entry[] { return [...this.#active, ...this.#following.map(({ entry }) => entry), ...this.#waiting] }
  get isEmpty(): boolean { return this.#active.size + this.#following.length + this.#waiting.length === 0 }

  add(entry: Entry): void { this.#waiting.push(entry) }

  /** Gives back what the entry holds. */
  remove(entry: Entry): void {
    this.#waiting = this.#waiting.filter((other) => other !== entry)
    this.#following = this.#following.filter((other) => other.entry !== entry)
    if (!this.#active.delete(entry)) return
    entry.group?.members.delete(entry)
    if (entry.sequence) this.#cache.free(entry.sequence)
    entry.sequence = undefined
    const orphans = this.#following.filter(({ leader }) => leader === entry)
    this.#following = this.#following.filter(({ leader }) => leader !== entry)
    this.#waiting.unshift(...orphans.map((orphan) => orphan.entry))
  }

  /** Starts waiting entries as far as there is room, in order. */
  admit(): void {
    const rest: Entry[] = []
    for (const [i, entry] of this.#waiting.entries()) {
      if (this.#active.size + this.#following.length >= this.#options.maxBatchSize || !this.#start(entry)) {
        rest.push(...this.#waiting.slice(i))
        break
      }
    }
    this.#waiting = rest
  }

  #start(entry: Entry): boolean {
    const reserved = this.#following.reduce((sum, other) => sum + other.entry.capacity, 0)
    if (this.#cache.freeSlots - reserved < entry.capacity) return false
    const sharing = entry.answer.promptTokens > 1 ? [...entry.group?.members ?? []] : []
    const source = sharing.find((member) => this.#hasPrefix(member))
    if (!source && sharing.length) {
      this.#following.push({ entry, leader: sharing[0]! })
      return true
    }
    if (this.#cache.largestFree < entry.capacity) return false
    entry.sequence = source ? this.#copyPrefix(source, entry) : this.#cache.allocate(entry.capacity)
    this.#activate(entry)
    return true
  }

  #activate(entry: Entry): void {
    this.#active.add(entry)
    entry.group?.members.add(entry)
  }

  /** How many of an entry's own tokens the cache holds. */
  #held({ sequence }: Entry): number { return Math.max(0, (sequence?.length ?? 0) - this.#options.virtualTokens()) }

  /** Whether all of the prompt but its last token is in the cache. */
  #hasPrefix(entry: Entry): boolean { return entry.sequence !== undefined && this.#held(entry) >= entry.answer.promptTokens - 1 }

  /** All but the last token of the prompt, whose logits the sample needs for itself. */
  #copyPrefix(source: Entry, entry: Entry): CacheSequence {
    return this.#cache.fork(source.sequence!, entry.capacity, this.#options.virtualTokens() + entry.answer.promptTokens - 1)
  }

  /** Called once the forward pass is enqueued: samples that waited for a prompt start from its keys and values. */
  follow(): void {
    const ready = this.#following.filter(({ leader }) => this.#hasPrefix(leader))
    this.#following = this.#following.filter(({ leader }) => !this.#hasPrefix(leader))
    for (const { entry, leader } of ready) {
      if (this.#cache.largestFree < entry.capacity) {
        this.#waiting.unshift(entry)
        continue
      }
      entry.sequence = this.#copyPrefix(leader, entry)
      this.#activate(entry)
    }
  }

  /** Where the tokens to compute end. Others that wait for its prompt take it without the last token, so that all go on from there together. */
  #end(entry: Entry): number {
    const { answer } = entry
    const leads = !this.#options.isWhole(answer.promptTokens) && this.#following.some(({ leader }) => leader === entry)
    return leads ? Math.min(answer.length, answer.promptTokens - 1) : answer.length
  }

  /** What the next forward pass computes: one token of each answer under way, then prompts as far as the budget goes. */
  plan(): Part[] {
    const parts: Part[] = []
    let budget = this.#options.prefillTokens
    for (const entry of this.#active) {
      const { answer } = entry
      const sequence = entry.sequence!
      const begin = this.#held(entry)
      const left = this.#end(entry) - begin
      const count = left === 1 || this.#options.isWhole(answer.promptTokens) ? left : Math.min(left, budget)
      if (left > 1) budget = Math.max(0, budget - count)
      if (count > 0) parts.push({ entry, sequence, begin, end: begin + count })
    }
    return parts
  }
}
