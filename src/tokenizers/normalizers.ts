import { TokenizerError } from '../errors.ts'
import { toByteChars } from './byteLevel.ts'
import { isChineseCharacter, toLowerCase } from './characters.ts'
import { Fields } from './fields.ts'
import { Pattern } from './pattern.ts'
import { PrecompiledMap } from './precompiled.ts'

/** Rewrites a text before it is cut into words. */
export type Normalizer = (text: string) => string

/** Builds the normalizer of a tokenizer.json; undefined where it has none. */
export function createNormalizer(value: unknown, path: string): Normalizer | undefined {
  if (value === null || value === undefined) return undefined
  return build(new Fields(value, path), 0)
}

function build(fields: Fields, depth: number): Normalizer {
  if (depth > 20) throw new TokenizerError(`${fields.path}: sequences nested deeper than 20`)
  const type = fields.string('type')
  switch (type) {
    case 'Sequence': {
      const parts = fields.objects('normalizers').map((part) => build(part, depth + 1))
      return (text) => parts.reduce((current, part) => part(current), text)
    }
    case 'NFC': case 'NFD': case 'NFKC': case 'NFKD': return (text) => text.normalize(type)
    case 'Lowercase': return toLowerCase
    case 'Strip': return strip(fields.boolean('strip_left', true), fields.boolean('strip_right', true))
    case 'StripAccents': return (text) => text.replace(/\p{M}/gu, '')
    case 'BertNormalizer': return bertNormalizer(fields)
    case 'Nmt': return nmt
    case 'Precompiled': return precompiled(fields)
    case 'Prepend': {
      const prefix = fields.string('prepend')
      return (text) => text === '' ? text : prefix + text
    }
    case 'Replace': {
      const content = fields.string('content')
      const pattern = fields.object('pattern')
      if (pattern.has('String')) {
        const search = pattern.string('String')
        if (search === '') return pattern.fail('String', 'is empty')
        return (text) => text.replaceAll(search, () => content)
      }
      const regex = new Pattern(pattern.string('Regex'), pattern.path)
      return (text) => regex.replace(text, content)
    }
    case 'ByteLevel': return toByteChars
    default: return fields.fail('type', `unknown normalizer ${JSON.stringify(type)}`)
  }
}

function strip(left: boolean, right: boolean): Normalizer {
  return (text) => {
    const start = left ? text.replace(/^\p{White_Space}+/u, '') : text
    return right ? trimEnd(start) : start
  }
}

function trimEnd(text: string): string {
  let end = text.length
  while (end > 0 && /\p{White_Space}/u.test(text[end - 1]!)) end--
  return text.slice(0, end)
}

function precompiled(fields: Fields): Normalizer {
  if (!fields.has('precompiled_charsmap')) return (text) => text
  const map = new PrecompiledMap(fields.string('precompiled_charsmap'), fields.path)
  return (text) => map.normalize(text)
}

/** SentencePiece's NMT rules: drops control characters and turns odd blanks into blanks. */
function nmt(text: string): string {
  return text
    // eslint-disable-next-line no-control-regex
    .replace(/[\u0001-\u0008\u000b\u000e-\u001f\u007f\u008f\u009f]/g, '')
    .replace(/[\t\n\f\r\u1680\u200b-\u200f\u2028\u2029\u2581\ufeff\ufffd]/g, ' ')
}

/** https://github.com/google-research/bert/blob/master/tokenization.py: BasicTokenizer without its splitting. */
function bertNormalizer(fields: Fields): Normalizer {
  const cleanText = fields.boolean('clean_text', true)
  const chinese = fields.boolean('handle_chinese_chars', true)
  const lowercase = fields.boolean('lowercase', true)
  const stripAccents = fields.boolean('strip_accents', lowercase)
  return (text) => {
    let out = text
    if (cleanText) {
      out = out.replace(/(?![\t\n\r])[\ufffd\p{Cc}\p{Cf}\p{Co}\p{Cs}]/gu, '').replace(/\p{White_Space}/gu, ' ')
    }
    if (chinese) out = spaceChinese(out)
    if (stripAccents) out = out.normalize('NFD').replace(/\p{Mn}/gu, '')
    return lowercase ? toLowerCase(out) : out
  }
}

function spaceChinese(text: string): string {
  if (!/[\u3400-\u{10ffff}]/u.test(text)) return text
  let out = ''
  for (const char of text) out += isChineseCharacter(char.codePointAt(0)!) ? ` ${char} ` : char
  return out
}
