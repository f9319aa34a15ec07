import type { Arrangement } from './tensors.ts'

/** The row of the parameter that stands in each row of the file, of `rows` rows in whole heads: 0, d/2, 1, d/2 + 1, … of each head. */
function headRows(rows: number, headDim: number): Int32Array {
  const half = headDim / 2
  return Int32Array.from({ length: rows }, (_, row) => row - (row % headDim) + ((row % headDim) >> 1) + (row % 2) * half)
}

/** Numbers of a parameter, `rows` whole rows of it, in the order of the file; `inverse` back again. */
export function arrange(values: Float32Array<ArrayBuffer>, rows: number, arrangement: Arrangement, inverse = false): Float32Array<ArrayBuffer> {
  if (arrangement.kind === 'plain') return values
  const columns = values.length / rows
  const out = new Float32Array(values.length)
  if (arrangement.kind === 'transpose') {
    for (let row = 0; row < rows; row++) for (let column = 0; column < columns; column++) out[column * rows + row] = values[row * columns + column]!
    return out
  }
  const order = headRows(rows, arrangement.headDim)
  for (let row = 0; row < rows; row++) {
    const [to, from] = inverse ? [order[row]!, row] : [row, order[row]!]
    out.set(values.subarray(from * columns, (from + 1) * columns), to * columns)
  }
  return out
}
