import { toByteChars } from '../byteLevel.ts'
import type { TokenModel } from './model.ts'

/** A model whose words are first written as byte characters. */
export class ByteLevelWords implements TokenModel {
  readonly type: TokenModel['type']
  readonly #model: TokenModel

  constructor(model: TokenModel) {
    this.type = model.type
    this.#model = model
  }

  get size(): number {
    return this.#model.size
  }

  get idLimit(): number {
    return this.#model.idLimit
  }

  get unkId(): number | undefined {
    return this.#model.unkId
  }

  tokenToId(token: string): number | undefined {
    return this.#model.tokenToId(token)
  }

  idToToken(id: number): string | undefined {
    return this.#model.idToToken(id)
  }

  entries(): IterableIterator<[string, number]> {
    return this.#model.entries()
  }

  encodeWord(word: string, out: number[]): void {
    this.#model.encodeWord(toByteChars(word), out)
  }
}
