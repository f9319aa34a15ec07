import { TokenizerError } from '../errors.ts'
import { utf8 } from './byteLevel.ts'

const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
let segmenter: Intl.Segmenter | undefined

/**
 * SentencePiece's precompiled_charsmap: a double-array trie (darts-clone) from byte strings to offsets in a pool of
 * zero-terminated replacements.
 */
export class PrecompiledMap {
  readonly #units: Uint32Array
  readonly #pool: Uint8Array
  readonly #where: string

  constructor(base64: string, where: string) {
    this.#where = where
    if (!/^[A-Za-z0-9+/]*={0,2}$/.test(base64)) this.#fail('is not base64')
    const bytes = Buffer.from(base64, 'base64')
    if (bytes.length < 4) this.#fail(`has ${bytes.length} bytes, which is too short for its header`)
    const trieSize = bytes.readUInt32LE(0)
    if (trieSize % 4 !== 0 || trieSize < 4 || 4 + trieSize > bytes.length) {
      this.#fail(`says its trie has ${trieSize} bytes, but ${bytes.length - 4} follow`)
    }
    this.#units = new Uint32Array(trieSize / 4)
    for (let i = 0; i < this.#units.length; i++) this.#units[i] = bytes.readUInt32LE(4 + 4 * i)
    this.#pool = bytes.subarray(4 + trieSize)
  }

  #fail(problem: string): never {
    throw new TokenizerError(`${this.#where}: the precompiled_charsmap ${problem}; the file is damaged`)
  }

  normalize(text: string): string {
    // In plain ASCII without returns every character is its own grapheme.
    const segments = /^[\n -~]*$/.test(text) ? text : graphemes(text)
    let out = ''
    for (const segment of segments) {
      const whole = Buffer.byteLength(segment) < 6 ? this.#lookup(segment) : undefined
      if (whole !== undefined) {
        out += whole
        continue
      }
      for (const char of segment) out += this.#lookup(char) ?? char
    }
    return out
  }

  /** The replacement of the shortest known prefix of `text`, as Hugging Face's reader takes it. */
  #lookup(text: string): string | undefined {
    const units = this.#units
    let position = offsetOf(units[0]!)
    for (const byte of utf8(text)) {
      if (byte === 0) return undefined
      position ^= byte
      const unit = units[position]
      if (unit === undefined || (unit & 0x800000ff) >>> 0 !== byte) return undefined
      position ^= offsetOf(unit)
      if (((unit >>> 8) & 1) === 1) {
        const leaf = units[position]
        if (leaf === undefined) this.#fail('points outside its trie')
        return this.#replacement(leaf & 0x7fffffff)
      }
    }
    return undefined
  }

  #replacement(start: number): string {
    const end = this.#pool.indexOf(0, start)
    if (start > this.#pool.length) this.#fail('points outside its replacements')
    try {
      return decoder.decode(this.#pool.subarray(start, end < 0 ? this.#pool.length : end))
    } catch {
      return this.#fail('holds a replacement that is not UTF-8')
    }
  }
}

function* graphemes(text: string): Generator<string> {
  segmenter ??= new Intl.Segmenter('und', { granularity: 'grapheme' })
  for (const { segment } of segmenter.segment(text)) yield segment
}

/** Where the children of a darts-clone unit start, relative to the unit. */
function offsetOf(unit: number): number {
  return (unit >>> 10) << ((unit & (1 << 9)) >>> 6)
}
