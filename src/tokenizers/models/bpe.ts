import { byteToChar, toByteChars, utf8 } from '../byteLevel.ts'
import { nextCodePoint } from '../characters.ts'
import { describe, type Fields } from '../fields.ts'
import { mergeSymbols } from './merge.ts'
import type { TokenModel } from './model.ts'
import { PairTable } from './pairTable.ts'
import { entriesPerTurn, readUnknown, readVocabulary, type Vocabulary } from './vocabulary.ts'

/** Longest word that the heap's packed keys can hold. */
const longestWord = (1 << 24) - 1

/** Byte-pair encoding (https://arxiv.org/abs/1508.07909), as Hugging Face's BPE model does it. */
export class BpeModel implements TokenModel {
  readonly type = 'BPE'
  readonly unkId: number | undefined
  readonly #ids: Map<string, number>
  readonly #tokens: (string | undefined)[]
  readonly #merges: PairTable
  readonly #prefix: string
  readonly #suffix: string
  readonly #fuseUnk: boolean
  readonly #ignoreMerges: boolean
  /** Ids of `<0x00>` to `<0xFF>`, if bytes stand in for unknown characters. */
  readonly #fallback: readonly (number | undefined)[] | undefined
  /** Id of each byte's symbol, -1 where the vocabulary lacks it; undefined unless words are raw bytes that need nothing more. */
  readonly #byteIds: Int32Array | undefined
  readonly #byteLevel: boolean
  #symbols = new Int32Array(256)

  private constructor(fields: Fields, byteLevel: boolean, { ids, tokens }: Vocabulary, merges: PairTable) {
    this.#ids = ids
    this.#tokens = tokens
    this.unkId = readUnknown(fields, ids)
    const unk = fields.optionalString('unk_token')
    if (unk !== undefined && this.unkId === undefined) fields.fail('unk_token', `${JSON.stringify(unk)} is not in the vocabulary`)
    const dropout = fields.raw('dropout')
    if (dropout !== undefined && dropout !== null && dropout !== 0) {
      fields.fail('dropout', `${describe(dropout)} would make encoding random; set it to null`)
    }
    this.#prefix = readPrefix(fields)
    this.#suffix = fields.string('end_of_word_suffix', '')
    this.#fuseUnk = fields.boolean('fuse_unk', false)
    this.#ignoreMerges = fields.boolean('ignore_merges', false)
    this.#fallback = fields.boolean('byte_fallback', false)
      ? Array.from({ length: 256 }, (_, byte) => ids.get(byteToken(byte)))
      : undefined
    this.#merges = merges
    this.#byteLevel = byteLevel
    const simple = byteLevel && this.#prefix === '' && this.#suffix === ''
    const table = Int32Array.from(byteToChar, (char) => ids.get(char) ?? -1)
    this.#byteIds = simple && (this.unkId === undefined || !table.includes(-1)) && (!this.#fallback || !table.includes(-1)) ? table : undefined
  }

  static *read(fields: Fields, byteLevel: boolean): Generator<undefined, BpeModel> {
    const vocabulary = yield* readVocabulary(fields)
    return new BpeModel(fields, byteLevel, vocabulary, yield* readMerges(fields, vocabulary.ids))
  }

  get size(): number {
    return this.#ids.size
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

  entries(): IterableIterator<[string, number]> {
    return this.#ids.entries()
  }

  encodeWord(word: string, out: number[]): void {
    if (this.#ignoreMerges) {
      const whole = this.#ids.get(this.#byteLevel ? toByteChars(word) : word)
      if (whole !== undefined) {
        out.push(whole)
        return
      }
    }
    const count = this.#byteIds ? this.#readBytes(word, this.#byteIds) : this.#readCharacters(this.#byteLevel ? toByteChars(word) : word)
    for (let start = 0; start < count; start += longestWord) {
      const end = Math.min(count, start + longestWord)
      mergeSymbols(start === 0 ? this.#symbols : this.#symbols.subarray(start), end - start, this.#merges, out)
    }
  }

  #reserve(length: number): void {
    if (this.#symbols.length < length) this.#symbols = new Int32Array(length * 2)
  }

  #readBytes(word: string, byteIds: Int32Array): number {
    const bytes = utf8(word)
    this.#reserve(bytes.length)
    const symbols = this.#symbols
    let count = 0
    for (let i = 0; i < bytes.length; i++) {
      const id = byteIds[bytes[i]!]!
      if (id >= 0) symbols[count++] = id
    }
    return count
  }

  #readCharacters(word: string): number {
    this.#reserve(word.length * 3)
    const symbols = this.#symbols
    let count = 0
    let pendingUnk = false
    for (let at = 0; at < word.length;) {
      const next = nextCodePoint(word, at)
      const char = word.slice(at, next)
      const symbol = (at > 0 ? this.#prefix : '') + char + (next >= word.length ? this.#suffix : '')
      at = next
      const id = this.#ids.get(symbol)
      if (id !== undefined) {
        if (pendingUnk) symbols[count++] = this.unkId!
        pendingUnk = false
        symbols[count++] = id
        continue
      }
      if (this.#fallback) {
        const written = this.#writeFallback(symbol, count, this.#fallback)
        if (written > 0) {
          count += written
          continue
        }
      }
      if (this.unkId === undefined) continue
      if (pendingUnk && !this.#fuseUnk) symbols[count++] = this.unkId
      pendingUnk = true
    }
    if (pendingUnk) symbols[count++] = this.unkId!
    return count
  }

  /** Writes the byte tokens of a symbol if the vocabulary has them all; returns how many. */
  #writeFallback(symbol: string, start: number, fallback: readonly (number | undefined)[]): number {
    const bytes = utf8(symbol)
    if (this.#symbols.length < start + bytes.length) {
      const larger = new Int32Array((start + bytes.length) * 2)
      larger.set(this.#symbols)
      this.#symbols = larger
    }
    let count = 0
    for (const byte of bytes) {
      const id = fallback[byte]
      if (id === undefined) return 0
      this.#symbols[start + count++] = id
    }
    return count
  }
}

const readPrefix = (fields: Fields): string => fields.string('continuing_subword_prefix', '')

/** Reads `merges`, pairs of tokens or two tokens with a blank between them. */
function* readMerges(fields: Fields, ids: ReadonlyMap<string, number>): Generator<undefined, PairTable> {
  const source = fields.array('merges')
  const prefix = readPrefix(fields)
  const table = new PairTable(source.length)
  const idOf = (rank: number, token: string): number => ids.get(token) ?? fields.fail(`merges[${rank}]`, `${JSON.stringify(token)} is not in the vocabulary`)
  for (const [rank, merge] of source.entries()) {
    if (rank % entriesPerTurn === 0) yield
    const pair: readonly unknown[] = typeof merge === 'string' ? merge.split(' ') : Array.isArray(merge) ? merge : []
    const [left, right] = pair
    if (typeof left !== 'string' || typeof right !== 'string' || pair.length !== 2) {
      if (typeof merge === 'string' && merge.startsWith('#version')) continue
      fields.fail(`merges[${rank}]`, `expected a pair of tokens, got ${describe(merge)}`)
    }
    table.set(idOf(rank, left), idOf(rank, right), rank, idOf(rank, left + right.slice(prefix.length)))
  }
  return table
}

/** The token that stands for one byte where a vocabulary falls back to bytes. */
export function byteToken(byte: number): string {
  return `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`
}
