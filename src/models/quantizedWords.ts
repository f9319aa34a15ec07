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
