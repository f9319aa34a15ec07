import { TokenizerError } from '../../errors.ts'
import { utf8 } from '../byteLevel.ts'
import { nextCodePoint } from '../characters.ts'
import { describe, type Fields } from '../fields.ts'
import { byteToken } from './bpe.ts'
import type { TokenModel } from './model.ts'
import { entriesPerTurn } from './vocabulary.ts'

/** An unknown character costs this much more than the least likely piece. */
const unknownPenalty = 10

/** A unigram language model over pieces (https://arxiv.org/abs/1804.10959): the likeliest cut of each word, by Viterbi. */
export class UnigramModel implements TokenModel {
  readonly type = 'Unigram'
  readonly unkId: number | undefined
  readonly #ids: ReadonlyMap<string, number>
  readonly #tokens: readonly string[]
  readonly #scores: readonly number[]
  readonly #trie: PieceTrie
  readonly #unkScore: number
  readonly #fallback: readonly (number | undefined)[] | undefined
  #best = new Float64Array(256)
  #from = new Int32Array(256)
  #piece = new Int32Array(256)

  private constructor(fields: Fields, { ids, tokens, scores, lowest }: Pieces, trie: PieceTrie) {
    this.#ids = ids
    this.#tokens = tokens
    this.#scores = scores
    this.unkId = fields.has('unk_id') ? fields.count('unk_id') : undefined
    if (this.unkId !== undefined && this.unkId >= tokens.length) fields.fail('unk_id', `${this.unkId} is outside the vocabulary of ${tokens.length}`)
    this.#unkScore = lowest - unknownPenalty
    this.#trie = trie
    this.#fallback = fields.boolean('byte_fallback', false)
      ? Array.from({ length: 256 }, (_, byte) => this.#ids.get(byteToken(byte)))
      : undefined
  }

  static *read(fields: Fields): Generator<undefined, UnigramModel> {
    const pieces = yield* readPieces(fields)
    const trie = new PieceTrie()
    yield* trie.add(pieces.ids)
    return new UnigramModel(fields, pieces, trie)
  }

  get size(): number {
    return this.#tokens.length
  }

  get idLimit(): number {
    return this.#tokens.length
  }

  tokenToId(token: string): number | undefined {
    return this.#ids.get(token)
  }

  idToToken(id: number): string | undefined {
    return this.#tokens[id]
  }

  *entries(): IterableIterator<[string, number]> {
    for (let id = 0; id < this.#tokens.length; id++) yield [this.#tokens[id]!, id]
  }

  encodeWord(word: string, out: number[]): void {
    if (word === '') return
    this.#search(word)
    const ends: number[] = []
    for (let end = word.length; end > 0; end = this.#from[end]!) ends.push(end)
    let unknownFrom = -1
    let start = 0
    for (const end of ends.reverse()) {
      const id = this.#piece[end]!
      if (id === this.unkId) {
        if (unknownFrom < 0) unknownFrom = start
      } else {
        if (unknownFrom >= 0) this.#pushUnknown(word.slice(unknownFrom, start), out)
        unknownFrom = -1
        out.push(id)
      }
      start = end
    }
    if (unknownFrom >= 0) this.#pushUnknown(word.slice(unknownFrom), out)
  }

  /** Neighbouring unknowns are one token, or their bytes. */
  #pushUnknown(text: string, out: number[]): void {
    const whole = this.#ids.get(text)
    if (whole !== undefined) {
      out.push(whole)
      return
    }
    if (this.#fallback) {
      const ids = Array.from(utf8(text), (byte) => this.#fallback?.[byte])
      if (ids.every((id) => id !== undefined)) {
        for (const id of ids) out.push(id)
        return
      }
    }
    out.push(this.unkId!)
  }

  /** Fills, for each end, the best score, where its last piece starts and which piece it is. */
  #search(word: string): void {
    const length = word.length
    if (this.#best.length <= length) {
      this.#best = new Float64Array(length * 2)
      this.#from = new Int32Array(length * 2)
      this.#piece = new Int32Array(length * 2)
    }
    const best = this.#best
    const from = this.#from
    const piece = this.#piece
    from.fill(-1, 0, length + 1)
    best[0] = 0
    for (let start = 0; start < length;) {
      const next = nextCodePoint(word, start)
      const here = best[start]!
      let single = false
      let node = 0
      for (let end = start; end < length;) {
        node = this.#trie.child(node, word.charCodeAt(end++))
        if (node < 0) break
        const id = this.#trie.piece(node)
        if (id < 0) continue
        const score = this.#scores[id]! + here
        if (from[end]! < 0 || score > best[end]!) {
          best[end] = score
          from[end] = start
          piece[end] = id
        }
        single ||= end === next
      }
      if (!single) {
        const score = this.#unkScore + here
        if (from[next]! < 0 || score > best[next]!) {
          if (this.unkId === undefined) {
            throw new TokenizerError(`${JSON.stringify(word.slice(start, next))} is not in the Unigram vocabulary and the model has no unk_id; add one`)
          }
          best[next] = score
          from[next] = start
          piece[next] = this.unkId
        }
      }
      start = next
    }
  }
}

/** The vocabulary with the log-probability of each piece, and the least of them. */
interface Pieces { ids: Map<string, number>, tokens: string[], scores: number[], lowest: number }

/** Reads `vocab`, pairs of a token and its score. */
function* readPieces(fields: Fields): Generator<undefined, Pieces> {
  const pieces: Pieces = { ids: new Map(), tokens: [], scores: [], lowest: Infinity }
  for (const [id, entry] of fields.array('vocab').entries()) {
    if (id % entriesPerTurn === 0) yield
    const [token, score] = Array.isArray(entry) ? entry as readonly unknown[] : []
    if (typeof token !== 'string' || typeof score !== 'number') {
      fields.fail(`vocab[${id}]`, `expected a token and its score, got ${describe(entry)}`)
    }
    pieces.ids.set(token, id)
    pieces.tokens.push(token)
    const read = serdeFloat(score)
    pieces.scores.push(read)
    pieces.lowest = Math.min(pieces.lowest, read)
  }
  return pieces
}

/** Prefix tree of the pieces over UTF-16 code units, as an open-addressing table from node and code unit to node. */
export class PieceTrie {
  #nodes = new Int32Array(2048).fill(-1)
  #units = new Uint16Array(2048)
  #targets = new Int32Array(2048)
  #mask = 2047
  readonly #pieces: number[] = [-1]

  /** The node reached by a code unit, or -1. */
  child(node: number, unit: number): number {
    const nodes = this.#nodes
    const mask = this.#mask
    let hash = Math.imul(node, 0x9e3779b1) ^ Math.imul(unit, 0x85ebca6b)
    hash ^= hash >>> 15
    for (let slot = hash & mask; ; slot = (slot + 1) & mask) {
      const found = nodes[slot]!
      if (found === -1) return -1
      if (found === node && this.#units[slot] === unit) return this.#targets[slot]!
    }
  }

  *add(pieces: Iterable<readonly [string, number]>): Generator<undefined, void> {
    let added = 0
    for (const [token, id] of pieces) {
      if (++added % entriesPerTurn === 0) yield
      if (token === '') continue
      let node = 0
      for (let i = 0; i < token.length; i++) {
        const unit = token.charCodeAt(i)
        const child = this.child(node, unit)
        node = child < 0 ? this.#insert(node, unit) : child
      }
      this.#pieces[node] = id
    }
  }

  #insert(node: number, unit: number): number {
    const child = this.#pieces.length
    this.#pieces.push(-1)
    if (child * 2 > this.#mask) this.#grow()
    this.#place(node, unit, child)
    return child
  }

  #place(node: number, unit: number, target: number): void {
    let hash = Math.imul(node, 0x9e3779b1) ^ Math.imul(unit, 0x85ebca6b)
    hash ^= hash >>> 15
    let slot = hash & this.#mask
    while (this.#nodes[slot] !== -1) slot = (slot + 1) & this.#mask
    this.#nodes[slot] = node
    this.#units[slot] = unit
    this.#targets[slot] = target
  }

  #grow(): void {
    const [nodes, units, targets] = [this.#nodes, this.#units, this.#targets]
    const capacity = nodes.length * 2
    this.#nodes = new Int32Array(capacity).fill(-1)
    this.#units = new Uint16Array(capacity)
    this.#targets = new Int32Array(capacity)
    this.#mask = capacity - 1
    for (let slot = 0; slot < nodes.length; slot++) if (nodes[slot] !== -1) this.#place(nodes[slot]!, units[slot]!, targets[slot]!)
  }

  /** The piece that ends at a node, or -1. */
  piece(node: number): number {
    return this.#pieces[node]!
  }
}

/**
 * The number that Rust's serde_json reads: digits as an integer, then one multiplication or division by a power of ten. It can
 * be one unit in the last place off, and ties between cuts of a word depend on it.
 */
function serdeFloat(value: number): number {
  const found = /^(-?)(\d+)(?:\.(\d+))?(?:e([+-]\d+))?$/.exec(String(value))
  if (!found) return value
  const [, sign, whole, fraction = '', exponent = '0'] = found
  const digits = Number(BigInt(whole! + fraction))
  const power = Number(exponent) - fraction.length
  const size = power < 0 ? digits / 10 ** -power : digits * 10 ** power
  return sign === '-' ? -size : size
}
