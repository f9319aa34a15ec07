import type { Fields } from '../fields.ts'
import type { TokenModel } from './model.ts'
import { readUnknown, readVocabulary, type Vocabulary } from './vocabulary.ts'

/** BERT's greedy longest-match-first subwords. */
export class WordPieceModel implements TokenModel {
  readonly type = 'WordPiece'
  readonly unkId: number
  readonly #ids: Map<string, number>
  readonly #tokens: (string | undefined)[]
  readonly #prefix: string
  readonly #longestWord: number
  /** No entry is longer than this many code units. */
  readonly #longestToken: number

  private constructor(fields: Fields, { ids, tokens }: Vocabulary) {
    this.#ids = ids
    this.#tokens = tokens
    const unk = fields.string('unk_token', '[UNK]')
    this.unkId = readUnknown(fields, ids) ?? ids.get(unk) ?? fields.fail('unk_token', `${JSON.stringify(unk)} is not in the vocabulary`)
    this.#prefix = fields.string('continuing_subword_prefix', '##')
    this.#longestWord = fields.count('max_input_chars_per_word', 100)
    let longest = 0
    for (const token of ids.keys()) longest = Math.max(longest, token.length)
    this.#longestToken = longest
  }

  static *read(fields: Fields): Generator<undefined, WordPieceModel> {
    return new WordPieceModel(fields, yield* readVocabulary(fields))
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
    const before = out.length
    if (word.length > this.#longestWord && Array.from(word).length > this.#longestWord) {
      out.push(this.unkId)
      return
    }
    for (let start = 0; start < word.length;) {
      let end = Math.min(word.length, start + this.#longestToken)
      let id: number | undefined
      for (; end > start; end--) {
        id = this.#ids.get(start > 0 ? this.#prefix + word.slice(start, end) : word.slice(start, end))
        if (id !== undefined) break
      }
      if (id === undefined) {
        out.length = before
        out.push(this.unkId)
        return
      }
      out.push(id)
      start = end
    }
  }
}
