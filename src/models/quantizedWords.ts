/** Words [rows, columns] of 32 bits to [columns, rows], each changed by `each`; in tiles, so that both sides stay in the cache. */
export function transposeWords(words: Uint32Array, rows: number, columns: number, each: (word: number) => number): Uint32Array<ArrayBuffer> {
  const result = new Uint32Array(words.length)
  const tile = 32
  for (let r0 = 0; r0 < rows; r0 += tile) {
    for (let c0 = 0; c0 < columns; c0 += tile) {
      const [r1, c1] = [Math.min(rows, r0 + tile), Math.min(columns, c0 + tile)]
      for (let r = r0; r < r1; r++) for (let c = c0; c < c1; c++) result[c * rows + r] = each(words[r * columns + c]!)
    }
  }
  return result
}

/** Exchanges the halves of each byte. Files have the earlier number in the low half, QuantizedTensor in the high one. Its own inverse. */
export const swapNibbles = (word: number): number => (word & 0x0f0f0f0f) << 4 | word >>> 4 & 0x0f0f0f0f

/** Between unsigned codes about 128 and two's complement. Its own inverse. */
export const flipSigns = (word: number): number => word ^ 0x80808080

/** The `index`th code of those that follow one another from the lowest bit of words[first] on, across words too. */
export function codeAt(words: Uint32Array, first: number, index: number, bits: number): number {
  const bit = index * bits
  const [word, shift] = [first + (bit >>> 5), bit & 31]
  const above = shift + bits > 32 ? words[word + 1]! << 32 - shift : 0
  return (words[word]! >>> shift | above) & (1 << bits) - 1
}

/** Rows of words with codes of 2 or 3 bits as rows of 4 bits, the earlier number in the high half, with `shift` added to each. */
export function widenCodes(words: Uint32Array, rows: number, columns: number, bits: 2 | 3, shift: number): Uint8Array<ArrayBuffer> {
  const codes = new Uint8Array(rows * columns / 2)
  const perRow = words.length / rows
  for (let row = 0; row < rows; row++) {
    for (let c = 0; c < columns; c += 2) {
      codes[(row * columns + c) / 2] = codeAt(words, row * perRow, c, bits) + shift << 4 | codeAt(words, row * perRow, c + 1, bits) + shift
    }
  }
  return codes
}

/** Rows of codes with their columns in another order: column p of the result is column order[p]. Codes of 4 bits have the earlier column in the high half. */
export function movedColumns(codes: Uint8Array, rows: number, columns: number, bits: 4 | 8, order: readonly number[]): Uint8Array<ArrayBuffer> {
  const moved = new Uint8Array(codes.length)
  const width = columns * bits / 8
  for (let row = 0; row < rows; row++) {
    const begin = row * width
    if (bits === 8) {
      for (let p = 0; p < columns; p++) moved[begin + p] = codes[begin + order[p]!]!
      continue
    }
    const half = (from: number): number => codes[begin + (from >> 1)]! >>> (from & 1 ? 0 : 4) & 15
    for (let p = 0; p < columns; p += 2) moved[begin + p / 2] = half(order[p]!) << 4 | half(order[p + 1]!)
  }
  return moved
}
