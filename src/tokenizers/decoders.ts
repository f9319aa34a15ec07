import { TokenizerError } from '../errors.ts'
import { tokenBytes } from './byteLevel.ts'
import { Fields } from './fields.ts'
import { Pattern } from './pattern.ts'

/** Rewrites the list of tokens towards text; joining what the last one returns gives the text. */
export type TokenDecoder = (tokens: readonly string[]) => readonly string[]

export interface Decoder {
  chain: TokenDecoder
  /** The tokens are bytes and nothing else happens to them, so they can be decoded one by one. */
  byteLevelOnly: boolean
}

/** Builds the decoder of a tokenizer.json. */
export function createDecoder(value: unknown, path: string): Decoder | undefined {
  if (value === null || value === undefined) return undefined
  const fields = new Fields(value, path)
  return { chain: build(fields, 0), byteLevelOnly: fields.string('type') === 'ByteLevel' }
}

function build(fields: Fields, depth: number): TokenDecoder {
  if (depth > 20) throw new TokenizerError(`${fields.path}: sequences nested deeper than 20`)
  const type = fields.string('type')
  switch (type) {
    case 'ByteLevel': return (tokens) => [decodeBytes(concat(tokens.map(tokenBytes)))]
    case 'ByteFallback': return byteFallback
    case 'Fuse': return (tokens) => [tokens.join('')]
    case 'Metaspace': return metaspace(fields)
    case 'WordPiece': return wordPiece(fields.string('prefix', '##'), fields.boolean('cleanup', true))
    case 'BPEDecoder': {
      const suffix = fields.string('suffix', '</w>')
      return (tokens) => tokens.map((token, i) => token.replaceAll(suffix, i === tokens.length - 1 ? '' : ' '))
    }
    case 'CTC': return ctc(fields)
    case 'Strip': return strip(fields)
    case 'Replace': {
      const content = fields.string('content')
      const where = fields.object('pattern')
      if (where.has('String')) {
        const search = where.string('String')
        if (search === '') return where.fail('String', 'is empty')
        return (tokens) => tokens.map((token) => token.replaceAll(search, () => content))
      }
      const pattern = new Pattern(where.string('Regex'), where.path)
      return (tokens) => tokens.map((token) => pattern.replace(token, content))
    }
    case 'Sequence': {
      const parts = fields.objects('decoders').map((part) => build(part, depth + 1))
      return (tokens) => parts.reduce((current, part) => part(current), tokens)
    }
    default: return fields.fail('type', `unknown decoder ${JSON.stringify(type)}`)
  }
}

const lossy = new TextDecoder('utf-8', { ignoreBOM: true })
const strict = new TextDecoder('utf-8', { ignoreBOM: true, fatal: true })

function decodeBytes(bytes: Uint8Array): string {
  return lossy.decode(bytes)
}

function concat(parts: readonly Uint8Array[]): Uint8Array {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0))
  let at = 0
  for (const part of parts) {
    all.set(part, at)
    at += part.length
  }
  return all
}

/** Runs of `<0xE6>` tokens become the character they spell, or one U+FFFD each. */
function byteFallback(tokens: readonly string[]): readonly string[] {
  const out: string[] = []
  let bytes: number[] = []
  const flush = () => {
    if (bytes.length === 0) return
    try {
      out.push(strict.decode(Uint8Array.from(bytes)))
    } catch {
      for (const _ of bytes) out.push('\ufffd')
    }
    bytes = []
  }
  for (const token of tokens) {
    const found = /^<0x([0-9A-Fa-f]{2})>$/.exec(token)
    if (found) {
      bytes.push(Number.parseInt(found[1]!, 16))
    } else {
      flush()
      out.push(token)
    }
  }
  flush()
  return out
}

function metaspace(fields: Fields): TokenDecoder {
  const mark = fields.string('replacement', '\u2581')
  const legacy = fields.boolean('add_prefix_space', true) ? 'always' : 'never'
  const scheme = fields.oneOf('prepend_scheme', ['always', 'first', 'never'], legacy)
  return (tokens) => tokens.map((token, i) => token.replaceAll(mark, i === 0 && scheme !== 'never' ? '' : ' '))
}

/** Hugging Face's English clean-up of blanks before punctuation and contractions. */
export function cleanUp(text: string): string {
  return text.replaceAll(' .', '.').replaceAll(' ?', '?').replaceAll(' !', '!').replaceAll(' ,', ',').replaceAll(" ' ", "'")
    .replaceAll(" n't", "n't").replaceAll(" 'm", "'m").replaceAll(' do not', " don't").replaceAll(" 's", "'s")
    .replaceAll(" 've", "'ve").replaceAll(" 're", "'re")
}

function wordPiece(prefix: string, cleanup: boolean): TokenDecoder {
  return (tokens) => tokens.map((token, i) => {
    const text = i === 0 ? token : token.startsWith(prefix) ? token.slice(prefix.length) : ` ${token}`
    return cleanup ? cleanUp(text) : text
  })
}

function ctc(fields: Fields): TokenDecoder {
  const pad = fields.string('pad_token', '<pad>')
  const delimiter = fields.string('word_delimiter_token', '|')
  const cleanup = fields.boolean('cleanup', true)
  return (tokens) => tokens
    .filter((token, i) => i === 0 || token !== tokens[i - 1])
    .map((token) => {
      const text = token.replaceAll(pad, '')
      return cleanup ? cleanUp(text).replaceAll(delimiter, ' ') : text
    })
    .filter((text) => text !== '')
}

function strip(fields: Fields): TokenDecoder {
  const content = fields.string('content')
  const start = fields.count('start')
  const stop = fields.count('stop')
  return (tokens) => tokens.map((token) => {
    const chars = Array.from(token)
    let from = 0
    while (from < start && chars[from] === content) from++
    let to = chars.length
    while (chars.length - to < stop && to > 0 && chars[to - 1] === content) to--
    return chars.slice(from, Math.max(from, to)).join('')
  })
}
