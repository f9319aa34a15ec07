// Cases of the k largest of a row.
import { topK } from '../../src/ops/index.ts'
import { float } from './case.ts'
import type { OpCase } from './case.ts'

interface Shape { rows: number; size: number; k: number; high?: number; benchOnly?: boolean }

// Numbers below 2^-7 in steps of bfloat16 or a row much longer than its range hold equal ones.
const shapes: Shape[] = [
  { rows: 0, size: 5, k: 2 }, { rows: 3, size: 7, k: 0 }, { rows: 1, size: 1, k: 1 }, { rows: 4, size: 33, k: 33 }, { rows: 3, size: 131, k: 5 }, { rows: 2, size: 700, k: 64 },
  { rows: 2, size: 600, k: 599 }, { rows: 3, size: 300, k: 300, high: -0.99 }, { rows: 2, size: 1025, k: 40, high: -0.99 },
  { rows: 64, size: 50257, k: 64, benchOnly: true }, { rows: 16, size: 151936, k: 151936, benchOnly: true },
]

export const topKCases: readonly OpCase[] = shapes.map(({ rows, size, k, high = 1, benchOnly = false }) => ({
  op: 'topK', name: `${k} of ${rows}x${size}${high < 1 ? ', many equal' : ''}`, benchOnly, inputs: [float([rows, size], { low: -1, high })],
  run(x) {
    const { value, index } = topK(x, k)
    return [value, index]
  },
  forward: { bytes: (bytes) => rows * (size * bytes + k * (bytes + 4)) }, backward: { bytes: (bytes) => rows * (size + 2 * k) * bytes },
}))
