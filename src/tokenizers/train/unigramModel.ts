import { nextCodePoint } from '../characters.ts'
import { PieceTrie } from '../models/unigram.ts'

/** Longest word, in code units, whose cuts are summed; longer ones are cut here for training. */
const longestWord = 4096

/** Pieces with log-probabilities, as training changes them: sums over all cuts of a word, and its best cuts. */
export class UnigramLattice {
  readonly #scores: readonly number[]
  readonly #trie: PieceTrie
  readonly #unkScore: number
  /** Edges of the lattice of the last word: from, to, piece (-1 for unknown), in order of `from`. */
  readonly #from: number[] = []
  readonly #to: number[] = []
  readonly #piece: number[] = []
  readonly #forward = new Float64Array(longestWord + 1)
  readonly #backward = new Float64Array(longestWord + 1)
  readonly #bestEdge = new Int32Array(longestWord + 1)

  constructor(pieces: readonly string[], scores: readonly number[]) {
    this.#scores = scores
    this.#trie = new PieceTrie(pieces.map((piece, id): [string, number] => [piece, id]))
    this.#unkScore = scores.reduce((low, score) => Math.min(low, score), Infinity) - 10
  }

  #build(word: string, without: number): void {
    const { length } = word
    this.#from.length = 0
    this.#to.length = 0
    this.#piece.length = 0
    for (let start = 0; start < length;) {
      const next = nextCodePoint(word, start)
      let single = false
      let node = 0
      for (let end = start; end < length;) {
        node = this.#trie.child(node, word.charCodeAt(end++))
        if (node < 0) break
        const piece = this.#trie.piece(node)
        if (piece < 0 || piece === without) continue
        this.#edge(start, end, piece)
        single ||= end === next
      }
      if (!single) this.#edge(start, next, -1)
      start = next
    }
  }

  #edge(from: number, to: number, piece: number): void {
    this.#from.push(from)
    this.#to.push(to)
    this.#piece.push(piece)
  }

  #score(edge: number): number {
    const piece = this.#piece[edge]!
    return piece < 0 ? this.#unkScore : this.#scores[piece]!
  }

  /** Adds to `expected` how often each piece is used over all cuts, times `count`; returns the log-likelihood of the word. */
  expect(word: string, count: number, expected: Float64Array): number {
    if (word.length > longestWord) {
      return this.expect(word.slice(0, longestWord), count, expected) + this.expect(word.slice(longestWord), count, expected)
    }
    this.#build(word, -1)
    const edges = this.#from.length
    const forward = this.#forward.fill(-Infinity, 0, word.length + 1)
    const backward = this.#backward.fill(-Infinity, 0, word.length + 1)
    forward[0] = 0
    for (let edge = 0; edge < edges; edge++) {
      const to = this.#to[edge]!
      forward[to] = logAddExp(forward[to]!, forward[this.#from[edge]!]! + this.#score(edge))
    }
    backward[word.length] = 0
    for (let edge = edges - 1; edge >= 0; edge--) {
      const from = this.#from[edge]!
      backward[from] = logAddExp(backward[from]!, backward[this.#to[edge]!]! + this.#score(edge))
    }
    const whole = forward[word.length]!
    for (let edge = 0; edge < edges; edge++) {
      const piece = this.#piece[edge]!
      if (piece >= 0) expected[piece]! += count * Math.exp(forward[this.#from[edge]!]! + this.#score(edge) + backward[this.#to[edge]!]! - whole)
    }
    return whole * count
  }

  /** The pieces of the best cut, -1 for unknown characters; `without` names a piece that must not be used. */
  best(word: string, without = -1): number[] {
    if (word.length > longestWord) return [...this.best(word.slice(0, longestWord), without), ...this.best(word.slice(longestWord), without)]
    this.#build(word, without)
    const best = this.#forward.fill(-Infinity, 0, word.length + 1)
    best[0] = 0
    for (let edge = 0; edge < this.#from.length; edge++) {
      const to = this.#to[edge]!
      const score = best[this.#from[edge]!]! + this.#score(edge)
      if (score > best[to]!) {
        best[to] = score
        this.#bestEdge[to] = edge
      }
    }
    const pieces: number[] = []
    for (let at = word.length; at > 0;) {
      const edge = this.#bestEdge[at]!
      pieces.push(this.#piece[edge]!)
      at = this.#from[edge]!
    }
    return pieces.reverse()
  }
}

function logAddExp(a: number, b: number): number {
  if (a === -Infinity) return b
  const high = Math.max(a, b)
  const low = Math.min(a, b)
  return low < high - 50 ? high : high + Math.log(Math.exp(low - high) + 1)
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
