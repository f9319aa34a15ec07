import { ConfigError } from '../errors.ts'

/**
 * How examples share rows of `maxLength` tokens:
 * - 'bfd': best-fit decreasing; an example is never split, its tokens beyond `maxLength` are cut off;
 * - 'bfd_split': as 'bfd', but a long example is first cut into pieces of `maxLength`, so that no token is lost;
 * - 'wrapped': everything is concatenated and cut each `maxLength` tokens, with no bounds between examples in attention.
 */
export type PackingStrategy = 'bfd' | 'bfd_split' | 'wrapped'

/** Part of an example in a packed row: tokens [start, start + length) of example `index`. */
export interface Piece { index: number, start: number, length: number }

/** The multiset of free spaces: finds the smallest at least as large as asked, in O(log maxLength). */
class SpaceTree {
  private readonly size: number
  private readonly tree: Int32Array

  constructor(largest: number) {
    this.size = 2 ** Math.ceil(Math.log2(Math.max(2, largest)))
    this.tree = new Int32Array(2 * this.size)
  }

  set(space: number, present: boolean): void {
    let i = this.size + space - 1
    this.tree[i] = present ? space : 0
    for (i >>= 1; i >= 1; i >>= 1) this.tree[i] = Math.max(this.tree[2 * i]!, this.tree[2 * i + 1]!)
  }

  /** The smallest space >= `length`; there must be one. */
  search(length: number): number {
    let i = 1
    while (i < this.size) i = this.tree[2 * i]! >= length ? 2 * i : 2 * i + 1
    return this.tree[i]!
  }
}

/** Packs pieces into rows: longest first (ties in order), each into the fullest row it fits, the oldest of equals. TRL's `_pack_bfd`. */
function bestFitDecreasing(pieces: Piece[], maxLength: number): Piece[][] {
  const order = pieces.map((_, i) => i).sort((a, b) => pieces[b]!.length - pieces[a]!.length || a - b)
  const spaces = new SpaceTree(maxLength)
  spaces.set(maxLength, true)
  const rows: Piece[][] = []
  const rowsBySpace = new Map<number, { queue: number[], head: number }>()
  for (const i of order) {
    const piece = pieces[i]!
    const space = spaces.search(piece.length)
    let row: number
    if (space < maxLength) {
      const waiting = rowsBySpace.get(space)!
      row = waiting.queue[waiting.head++]!
      if (waiting.head === waiting.queue.length) { rowsBySpace.delete(space); spaces.set(space, false) }
    } else row = rows.push([]) - 1
    rows[row]!.push(piece)
    const left = space - piece.length
    if (left === 0) continue
    const waiting = rowsBySpace.get(left)
    if (waiting) waiting.queue.push(row)
    else { rowsBySpace.set(left, { queue: [row], head: 0 }); spaces.set(left, true) }
  }
  return rows
}

function wrapped(pieces: Piece[], maxLength: number): Piece[][] {
  const rows: Piece[][] = []
  let space = 0
  for (const piece of pieces) {
    for (let start = 0; start < piece.length;) {
      if (space === 0) { rows.push([]); space = maxLength }
      const length = Math.min(space, piece.length - start)
      rows.at(-1)!.push({ index: piece.index, start, length })
      start += length
      space -= length
    }
  }
  return rows
}

/**
 * Plans the packing of one group of examples by their lengths. Row order and content are TRL 1.13's `pack_dataset`
 * for the same strategy; `offset` is the number of the first example.
 */
export function packGroup(lengths: ArrayLike<number>, maxLength: number, strategy: PackingStrategy, offset = 0): Piece[][] {
  if (!Number.isInteger(maxLength) || maxLength < 1) throw new ConfigError(`maxLength: expected a whole number from 1 to pack to, got ${maxLength}`)
  const pieces: Piece[] = []
  for (let i = 0; i < lengths.length; i++) {
    const length = lengths[i]!
    if (length === 0) continue
    if (strategy === 'bfd') pieces.push({ index: offset + i, start: 0, length: Math.min(length, maxLength) })
    else if (strategy === 'wrapped') pieces.push({ index: offset + i, start: 0, length })
    else for (let start = 0; start < length; start += maxLength) pieces.push({ index: offset + i, start, length: Math.min(maxLength, length - start) })
  }
  return strategy === 'wrapped' ? wrapped(pieces, maxLength) : bestFitDecreasing(pieces, maxLength)
}
