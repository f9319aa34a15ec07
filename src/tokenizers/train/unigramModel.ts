import { atOnce } from '../../turns.ts'
import { nextCodePoint } from '../characters.ts'
import { PieceTrie } from '../models/unigram.ts'

/** Longest word, in code units, whose cuts are summed; longer ones are cut here for training. */
const longestWord = 4096

/** Up to this length probabilities are multiplied as they are; beyond they could underflow, so logarithms are added. */
const shortWord = 32

/** Pieces with log-probabilities, as training changes them: sums over all cuts of a word, and its best cuts. */
export class UnigramLattice {
  readonly #scores: Float64Array
  readonly #chances: Float64Array
  readonly #trie: PieceTrie
  readonly #unkScore: number
  /** Edges of the lattice of the last word, in order of `from`; piece -1 is an unknown character. */
  #edges = 0
  #from = new Int32Array(1024)
  #to = new Int32Array(1024)
  #piece = new Int32Array(1024)
  readonly #forward = new Float64Array(longestWord + 1)
  readonly #backward = new Float64Array(longestWord + 1)
  readonly #bestEdge = new Int32Array(longestWord + 1)

  constructor(pieces: readonly string[], scores: readonly number[]) {
    this.#scores = Float64Array.from(scores)
    this.#chances = this.#scores.map((score) => Math.exp(score))
    this.#trie = new PieceTrie()
    atOnce(this.#trie.add(pieces.map((piece, id): [string, number] => [piece, id])))
    this.#unkScore = scores.reduce((low, score) => Math.min(low, score), Infinity) - 10
  }

  #build(word: string, without: number): void {
    const { length } = word
    const trie = this.#trie
    let edges = 0
    for (let start = 0; start < length;) {
      const next = nextCodePoint(word, start)
      if (edges + length - start + 1 > this.#from.length) this.#grow(edges + length - start + 1)
      const from = this.#from
      const to = this.#to
      const pieces = this.#piece
      let single = false
      let node = 0
      for (let end = start; end < length;) {
        node = trie.child(node, word.charCodeAt(end++))
        if (node < 0) break
        const piece = trie.piece(node)
        if (piece < 0 || piece === without) continue
        from[edges] = start
        to[edges] = end
        pieces[edges++] = piece
        if (end === next) single = true
      }
      if (!single) {
        from[edges] = start
        to[edges] = next
        pieces[edges++] = -1
      }
      start = next
    }
    this.#edges = edges
  }

  #grow(needed: number): void {
    const grow = (old: Int32Array): Int32Array<ArrayBuffer> => {
      const larger = new Int32Array(needed * 2)
      larger.set(old)
      return larger
    }
    this.#from = grow(this.#from)
    this.#to = grow(this.#to)
    this.#piece = grow(this.#piece)
  }

  /** Adds to `expected` how often each piece is used over all cuts, times `count`. */
  expect(word: string, count: number, expected: Float64Array): void {
    if (word.length > longestWord) {
      this.expect(word.slice(0, longestWord), count, expected)
      this.expect(word.slice(longestWord), count, expected)
      return
    }
    this.#build(word, -1)
    if (word.length > shortWord || !this.#expectShort(word.length, count, expected)) this.#expectLong(word.length, count, expected)
  }

  #expectShort(length: number, count: number, expected: Float64Array): boolean {
    const edges = this.#edges
    const from = this.#from
    const to = this.#to
    const pieces = this.#piece
    const chances = this.#chances
    const unknown = Math.exp(this.#unkScore)
    const forward = this.#forward.fill(0, 0, length + 1)
    const backward = this.#backward.fill(0, 0, length + 1)
    forward[0] = 1
    for (let edge = 0; edge < edges; edge++) {
      const piece = pieces[edge]!
      forward[to[edge]!]! += forward[from[edge]!]! * (piece < 0 ? unknown : chances[piece]!)
    }
    const whole = forward[length]!
    // Too close to the smallest number to divide by.
    if (whole < 1e-290) return false
    backward[length] = 1
    for (let edge = edges - 1; edge >= 0; edge--) {
      const piece = pieces[edge]!
      const onward = backward[to[edge]!]! * (piece < 0 ? unknown : chances[piece]!)
      backward[from[edge]!]! += onward
      if (piece >= 0) expected[piece]! += count * (forward[from[edge]!]! * onward / whole)
    }
    return true
  }

  #score(edge: number): number {
    const piece = this.#piece[edge]!
    return piece < 0 ? this.#unkScore : this.#scores[piece]!
  }

  #expectLong(length: number, count: number, expected: Float64Array): void {
    const edges = this.#edges
    const forward = this.#forward.fill(-Infinity, 0, length + 1)
    const backward = this.#backward.fill(-Infinity, 0, length + 1)
    forward[0] = 0
    for (let edge = 0; edge < edges; edge++) {
      const to = this.#to[edge]!
      forward[to] = logAddExp(forward[to]!, forward[this.#from[edge]!]! + this.#score(edge))
    }
    backward[length] = 0
    const whole = forward[length]!
    for (let edge = edges - 1; edge >= 0; edge--) {
      const from = this.#from[edge]!
      const onward = backward[this.#to[edge]!]! + this.#score(edge)
      backward[from] = logAddExp(backward[from]!, onward)
      const piece = this.#piece[edge]!
      if (piece >= 0) expected[piece]! += count * Math.exp(forward[from]! + onward - whole)
    }
  }

  /** The pieces of the best cut, -1 for unknown characters; `without` names a piece that must not be used. */
  best(word: string, without = -1): number[] {
    if (word.length > longestWord) return [...this.best(word.slice(0, longestWord), without), ...this.best(word.slice(longestWord), without)]
    this.#build(word, without)
    const { length } = word
    const from = this.#from
    const to = this.#to
    const pieces = this.#piece
    const bestEdge = this.#bestEdge
    const best = this.#forward.fill(-Infinity, 0, length + 1)
    best[0] = 0
    for (let edge = 0; edge < this.#edges; edge++) {
      const piece = pieces[edge]!
      const end = to[edge]!
      const score = best[from[edge]!]! + (piece < 0 ? this.#unkScore : this.#scores[piece]!)
      if (score > best[end]!) {
        best[end] = score
        bestEdge[end] = edge
      }
    }
    const cut: number[] = []
    for (let at = length; at > 0;) {
      const edge = bestEdge[at]!
      cut.push(pieces[edge]!)
      at = from[edge]!
    }
    return cut.reverse()
  }
}

function logAddExp(a: number, b: number): number {
  if (a === -Infinity) return b
  const high = Math.max(a, b)
  const low = Math.min(a, b)
  return low < high - 50 ? high : high + Math.log1p(Math.exp(low - high))
}

/** Derivative of log Γ, by its asymptotic series. */
export function digamma(x: number): number {
  let result = 0
  let at = x
  for (; at < 7; at++) result -= 1 / at
  at -= 0.5
  const inverse = 1 / at
  const square = inverse * inverse
  const fourth = square * square
  return result + Math.log(at) + (1 / 24) * square - (7 / 960) * fourth + (31 / 8064) * fourth * square - (127 / 30720) * fourth * fourth
}
