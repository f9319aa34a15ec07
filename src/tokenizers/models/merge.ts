import type { PairTable } from './pairTable.ts'

/** Above this many symbols a heap beats scanning for the best pair. */
const scanLimit = 48
const noRank = 0x7fffffff

const symbols = new Int32Array(scanLimit)
const ranks = new Int32Array(scanLimit)
const merged = new Int32Array(scanLimit)

/** Merges neighbours by rank, lowest first and leftmost among equals, and appends what is left. `merges` holds rank and new id. */
export function mergeSymbols(ids: ArrayLike<number>, length: number, merges: PairTable, out: number[]): void {
  if (length > scanLimit) {
    mergeWithHeap(ids, length, merges, out)
    return
  }
  let count = length
  for (let i = 0; i < count; i++) symbols[i] = ids[i]!
  for (let i = 0; i + 1 < count; i++) rankAt(i, merges)
  while (count > 1) {
    let best = noRank
    let at = -1
    for (let i = 0; i + 1 < count; i++) {
      if (ranks[i]! < best) {
        best = ranks[i]!
        at = i
      }
    }
    if (at < 0) break
    symbols[at] = merged[at]!
    count--
    for (let i = at + 1; i < count; i++) {
      symbols[i] = symbols[i + 1]!
      ranks[i] = ranks[i + 1]!
      merged[i] = merged[i + 1]!
    }
    if (at > 0) rankAt(at - 1, merges)
    if (at + 1 < count) rankAt(at, merges)
  }
  for (let i = 0; i < count; i++) out.push(symbols[i]!)
}

function rankAt(i: number, merges: PairTable): void {
  const slot = merges.find(symbols[i]!, symbols[i + 1]!)
  ranks[i] = slot < 0 ? noRank : merges.first(slot)
  merged[i] = slot < 0 ? -1 : merges.second(slot)
}

/** The same in O(n log n): a linked list of symbols and a heap of candidate merges. */
function mergeWithHeap(ids: ArrayLike<number>, length: number, merges: PairTable, out: number[]): void {
  const symbol = Int32Array.from({ length }, (_, i) => ids[i]!)
  const next = Int32Array.from({ length }, (_, i) => (i + 1 < length ? i + 1 : -1))
  const previous = Int32Array.from({ length }, (_, i) => i - 1)
  // A key is rank * 2^24 + position: below 2^53 for ranks below 2^29, texts below 2^24 symbols.
  const heap = new MinHeap()
  const push = (left: number) => {
    const right = next[left]!
    if (right < 0) return
    const slot = merges.find(symbol[left]!, symbol[right]!)
    if (slot >= 0) heap.push(merges.first(slot) * positions + left)
  }
  for (let i = 0; i + 1 < length; i++) push(i)
  for (let key = heap.pop(); key !== undefined; key = heap.pop()) {
    const left = key % positions
    const rank = Math.floor(key / positions)
    const right = next[left]!
    if (symbol[left] === -1 || right < 0) continue
    const slot = merges.find(symbol[left]!, symbol[right]!)
    if (slot < 0 || merges.first(slot) !== rank) continue
    symbol[left] = merges.second(slot)
    symbol[right] = -1
    const after = next[right]!
    next[left] = after
    if (after >= 0) previous[after] = left
    if (previous[left]! >= 0) push(previous[left]!)
    push(left)
  }
  for (let i = 0; i >= 0; i = next[i]!) out.push(symbol[i]!)
}

const positions = 2 ** 24

class MinHeap {
  readonly #items: number[] = []

  push(value: number): void {
    const items = this.#items
    let at = items.length
    items.push(value)
    while (at > 0) {
      const parent = (at - 1) >> 1
      if (items[parent]! <= value) break
      items[at] = items[parent]!
      at = parent
    }
    items[at] = value
  }

  pop(): number | undefined {
    const items = this.#items
    const top = items[0]
    const last = items.pop()
    if (items.length === 0 || last === undefined) return top
    let at = 0
    for (;;) {
      let child = 2 * at + 1
      if (child >= items.length) break
      if (child + 1 < items.length && items[child + 1]! < items[child]!) child++
      if (items[child]! >= last) break
      items[at] = items[child]!
      at = child
    }
    items[at] = last
    return top
  }
}
