// Proves that topK() orders rows exactly as sorting them does: equal numbers by place, -0 as 0, NaN last.
import { expect, test } from 'vitest'
import { topK } from '../../src/ops/index.ts'
import { Tensor } from '../../src/tensor/index.ts'
import { randomNumbers } from '../cases/random.ts'
import { tested } from '../cuda/device.ts'
import { cpu } from '../../src/tensor/index.ts'

const random = randomNumbers('topK')
const special = [0, -0, Infinity, -Infinity, NaN, 1, 1, -1, 3e38, -3e38, 1e-40, -1e-40]
const rows = [
  Float32Array.from({ length: 1500 }, () => 2 * random() - 1),
  Float32Array.from({ length: 1500 }, () => Math.floor(6 * random())),
  Float32Array.from({ length: 1500 }, (_, i) => special[i % special.length]!),
  new Float32Array(1500).fill(-7),
  Float32Array.from({ length: 1500 }, (_, i) => i - 700),
  new Float32Array(1500).fill(NaN),
]

/** The places of a row by size. */
function order(row: Float32Array): number[] {
  const key = (i: number): number => Number.isNaN(row[i]!) ? -Infinity : row[i]!
  return Array.from(row.keys()).sort((a, b) => key(b) > key(a) ? 1 : key(b) < key(a) ? -1 : a - b)
}

test.each([['cpu', cpu], ['CUDA', tested]] as const)('%s', async (_, device) => {
  const x = Tensor.from(Float32Array.from(rows.flatMap((row) => [...row])), [rows.length, 1500], { device })
  for (const k of [1, 7, 1499, 1500]) {
    const { value, index } = topK(x, k)
    const wanted = rows.map((row) => order(row).slice(0, k))
    expect(await index.toArray()).toEqual(wanted.flat())
    expect(await value.toArray()).toEqual(wanted.flatMap((places, row) => places.map((i) => rows[row]![i]!)))
    value.dispose()
    index.dispose()
  }
  x.dispose()
})
