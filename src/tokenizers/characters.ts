import { wordCharacters } from './oniguruma.ts'

/** ASCII punctuation and Unicode's category P: what BERT splits on. */
export const punctuation: RegExp = /[!-/:-@[-`{-~]|\p{P}/gu
export const whitespace: RegExp = /\p{White_Space}/gu
export const numeric: RegExp = /\p{N}/gu

const endsWithWord = new RegExp(`[${wordCharacters}\\p{Join_Control}]$`, 'v')
const startsWithWord = new RegExp(`^[${wordCharacters}\\p{Join_Control}]`, 'v')

export function isWordAt(text: string, end: number): boolean {
  return endsWithWord.test(text.slice(Math.max(0, end - 2), end))
}

export function isWordFrom(text: string, start: number): boolean {
  return startsWithWord.test(text.slice(start, start + 2))
}

const singleSpace = /^\p{White_Space}$/u

/** Index after the white space that begins at `start`. */
export function skipSpaces(text: string, start: number): number {
  let end = start
  while (end < text.length && singleSpace.test(text[end]!)) end++
  return end
}

/** Index of the first of the white space that ends at `end`. */
export function skipSpacesBack(text: string, end: number): number {
  let start = end
  while (start > 0 && singleSpace.test(text[start - 1]!)) start--
  return start
}

/** The CJK blocks that BERT puts blanks around. */
export function isChineseCharacter(code: number): boolean {
  return (code >= 0x4e00 && code <= 0x9fff) || (code >= 0x3400 && code <= 0x4dbf) || (code >= 0x20000 && code <= 0x2a6df) ||
    (code >= 0x2a700 && code <= 0x2b73f) || (code >= 0x2b740 && code <= 0x2b81f) || (code >= 0x2b920 && code <= 0x2ceaf) ||
    (code >= 0xf900 && code <= 0xfaff) || (code >= 0x2f800 && code <= 0x2fa1f)
}

/** Lower case character by character, as Rust does it: no special rule for a final sigma. */
export function toLowerCase(text: string): string {
  if (!text.includes('\u03a3')) return text.toLowerCase()
  let out = ''
  for (const char of text) out += char.toLowerCase()
  return out
}

/** Index after the code point at `index`. */
export function nextCodePoint(text: string, index: number): number {
  const code = text.charCodeAt(index)
  if (code >= 0xd800 && code <= 0xdbff && index + 1 < text.length) {
    const low = text.charCodeAt(index + 1)
    if (low >= 0xdc00 && low <= 0xdfff) return index + 2
  }
  return index + 1
}
