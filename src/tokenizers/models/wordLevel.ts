import { TokenizerError } from '../../errors.ts'
import type { Fields } from '../fields.ts'
import type { TokenModel } from './model.ts'
import { readVocabulary, type Vocabulary } from './vocabulary.ts'

/** One id for each whole word. */
export class WordLevelModel implements TokenModel {
  readonly type = 'WordLevel'
  readonly unkId: number | undefined
  readonly #ids: Map<string, number>
  readonly #tokens: (string | undefined)[]

  private constructor(fields: Fields, { ids, tokens }: Vocabulary) {
    this.#ids = ids
    this.#tokens = tokens
    this.unkId = ids.get(fields.string('unk_token', '<unk>'))
  }

  static *read(fields: Fields): Generator<undefined, WordLevelModel> {
    return new WordLevelModel(fields, yield* readVocabulary(fields))
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
    const id = this.#ids.get(word) ?? this.unkId
    if (id === undefined) {
      throw new TokenizerError(`the word ${JSON.stringify(word)} is not in the vocabulary and the model has no unk_token; add one`)
    }
    out.push(id)
  }
}
