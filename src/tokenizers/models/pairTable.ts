/** Open-addressing table from a pair of ids to two numbers. Ids are below 2^24. */
export class PairTable {
  #keys: Int32Array
  #mask: number
  #size = 0

  constructor(expected: number) {
    let capacity = 16
    while (capacity < expected * 2) capacity *= 2
    this.#keys = new Int32Array(capacity * 4).fill(-1)
    this.#mask = capacity - 1
  }

  /** Where the pair is or would be: index of its slot times four. */
  #slot(left: number, right: number): number {
    const keys = this.#keys
    let hash = Math.imul(left, 0x9e3779b1) ^ Math.imul(right, 0x85ebca6b)
    hash ^= hash >>> 15
    let slot = hash & this.#mask
    for (;;) {
      const at = slot * 4
      const key = keys[at]!
      if (key === -1 || (key === left && keys[at + 1] === right)) return at
      slot = (slot + 1) & this.#mask
    }
  }

  /** The slot of a pair, for `first` and `second`; -1 if it is not there. */
  find(left: number, right: number): number {
    const at = this.#slot(left, right)
    return this.#keys[at] === -1 ? -1 : at
  }

  first(slot: number): number {
    return this.#keys[slot + 2]!
  }

  second(slot: number): number {
    return this.#keys[slot + 3]!
  }

  set(left: number, right: number, first: number, second: number): void {
    if (this.#size * 2 > this.#mask) this.#grow()
    const at = this.#slot(left, right)
    if (this.#keys[at] === -1) this.#size++
    this.#keys[at] = left
    this.#keys[at + 1] = right
    this.#keys[at + 2] = first
    this.#keys[at + 3] = second
  }

  #grow(): void {
    const old = this.#keys
    this.#keys = new Int32Array(old.length * 2).fill(-1)
    this.#mask = this.#mask * 2 + 1
    for (let at = 0; at < old.length; at += 4) {
      if (old[at] === -1) continue
      const to = this.#slot(old[at]!, old[at + 1]!)
      this.#keys.set(old.subarray(at, at + 4), to)
    }
  }
}
