/** Longer texts are cut, so that no step takes long. */
const pieceLength = 1 << 14

/** A text this long without a line that starts with a letter is cut within lines. */
const longestLine = 1 << 20

/** In front of a line that starts with a letter or digit no pre-tokenizer joins across; nor, where a line has no end, in front of a blank and a letter. */
const borders = [/\n(?=[\p{L}\p{N}])/gu, /.(?= [\p{L}\p{N}])/gu]

const letter = /^[\p{L}\p{N}]/u

/** Where to cut a text that goes on for long after `from`, and before `to`; 0 where there is no such place. */
function border(text: string, from: number, to: number): number {
  const window = text.slice(from, to)
  for (const pattern of borders) {
    pattern.lastIndex = 0
    const found = pattern.exec(window)
    if (found) return from + found.index + found[0].length
  }
  return 0
}

/** Cuts a long text where words end. */
export function* pieces(text: string): Generator<string> {
  let start = 0
  while (text.length - start > pieceLength * 2) {
    const end = border(text, start + pieceLength, start + pieceLength * 2)
    if (end === 0) break
    yield text.slice(start, end)
    start = end
  }
  yield start === 0 ? text : text.slice(start)
}

/** The last such place of a text that is still being read; 0 where there is none, but for texts longer than any line is. */
export function lastBorder(text: string): number {
  for (let at = text.lastIndexOf('\n'); at > 0; at = text.lastIndexOf('\n', at - 1)) {
    if (letter.test(text.slice(at + 1, at + 3))) return at + 1
  }
  if (text.length < longestLine) return 0
  for (let at = text.lastIndexOf(' '); at > 0; at = text.lastIndexOf(' ', at - 1)) {
    if (letter.test(text.slice(at + 1, at + 3))) return at
  }
  return 0
}
