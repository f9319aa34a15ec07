import { tokenBytes } from './byteLevel.ts'

/** Turns ids that arrive one by one into text, holding back what may still change, such as half a character. */
export interface DecodeStream {
  /** The text that became certain with this id, often ''. */
  push(id: number): string
  /** What was held back; half a character becomes U+FFFD. */
  end(): string
}

/** For byte-level tokenizers: the bytes of each token go through a streaming UTF-8 decoder. */
export class ByteDecodeStream implements DecodeStream {
  readonly #tokenOf: (id: number) => string | undefined
  readonly #decoder = new TextDecoder('utf-8', { ignoreBOM: true })

  constructor(tokenOf: (id: number) => string | undefined) {
    this.#tokenOf = tokenOf
  }

  push(id: number): string {
    const token = this.#tokenOf(id)
    return token === undefined ? '' : this.#decoder.decode(tokenBytes(token), { stream: true })
  }

  end(): string {
    return this.#decoder.decode()
  }
}

/** For every other tokenizer: decodes a short window twice, without and with the new ids, and gives out the difference. */
export class WindowDecodeStream implements DecodeStream {
  readonly #decode: (ids: readonly number[]) => string
  #ids: number[] = []
  /** The ids before this one are given out already. */
  #done = 0
  #prefix = ''

  constructor(decode: (ids: readonly number[]) => string) {
    this.#decode = decode
  }

  push(id: number): string {
    this.#ids.push(id)
    const text = this.#decode(this.#ids)
    if (text.length <= this.#prefix.length || text.endsWith('\ufffd') || !text.startsWith(this.#prefix)) return ''
    const fresh = text.slice(this.#prefix.length)
    // Keep the last piece as context: blanks depend on what stands before.
    this.#ids = this.#ids.slice(this.#done)
    this.#done = this.#ids.length
    this.#prefix = this.#decode(this.#ids)
    return fresh
  }

  end(): string {
    const text = this.#decode(this.#ids)
    const fresh = text.startsWith(this.#prefix) ? text.slice(this.#prefix.length) : ''
    this.#ids = []
    this.#done = 0
    this.#prefix = ''
    return fresh
  }
}
