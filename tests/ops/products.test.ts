// Products that are cut in every way that the schedules know, to the bit: whole numbers, whose sums float32 holds exactly, beside the float64 kernel.
import { afterAll, describe, expect, test } from 'vitest'
import { cpu, Tensor } from '../../src/tensor/index.ts'
import type { DType } from '../../src/tensor/index.ts'
import { roundToBfloat16 } from '../cases/case.ts'
import { randomNumbers } from '../cases/random.ts'

const [threads, isa] = [cpu.threads, cpu.isa]
afterAll(() => {
  cpu.threads = threads
  cpu.isa = isa
})

/** Rows, length of the sums, columns. */
type Shape = readonly [m: number, k: number, n: number]
const shapes: Record<string, Shape> = {
  'a right side kept, several parts of k in turn': [100, 9000, 150],
  'a left side kept, several parts of k in turn': [66, 20000, 150],
  'all of k for a strip at once': [65, 1600, 300],
  'a right side kept in parts': [560, 512, 1100],
  'a left side kept in parts': [1060, 512, 2130],
  'a part of the right side for each thread': [170, 1700, 310],
  'a part of the right side for each thread, several parts of k in turn': [160, 4700, 250],
  'few rows, several parts of k': [8, 1700, 333],
  'few rows that are packed': [40, 1700, 95],
  'sides that may be multiplied where they lie': [150, 1300, 192],
  'sides too short for each thread to pack alone': [66, 500, 67],
}
type Layout = readonly [name: string, transposeA: boolean, transposeB: boolean]
const layouts: readonly Layout[] = [['nn', false, false], ['nt', false, true], ['tn', true, false]]

const draw = (count: number, seed: string): Float32Array => {
  const random = randomNumbers(seed)
  return Float32Array.from({ length: count }, () => Math.floor(7 * random()) - 3)
}

/** The product in a dtype, for each instruction set and number of threads: c starts from 1 and is added to, or a bias is. */
async function* products([m, k, n]: Shape, [name, transposeA, transposeB]: Layout, dtype: DType, ways: readonly (readonly [isa: string, threads: number])[]): AsyncGenerator<readonly [string, Uint8Array]> {
  using a = Tensor.from(draw(m * k, `${name} a`), transposeA ? [k, m] : [m, k], { dtype })
  using b = Tensor.from(draw(k * n, `${name} b`), transposeB ? [n, k] : [k, n], { dtype })
  using c = Tensor.empty([m, n], { dtype })
  using bias = Tensor.from(draw(n, 'bias'), [n], { dtype })
  for (const [isaName, count] of ways) {
    for (const accumulate of [false, true]) {
      cpu.isa = isaName
      cpu.threads = count
      cpu.kernels.fill(c.handle, 1)
      cpu.kernels.gemm(c.handle, 0, a.handle, b.handle, accumulate ? 0 : bias.handle, transposeA, transposeB, accumulate, 0, dtype === 'bfloat16')
      yield [`${dtype}, ${isaName}, ${count} threads, ${accumulate ? 'added to c' : 'with a bias'}`, bytesOf(Float32Array.from(await c.data() as ArrayLike<number>))]
    }
  }
}
const bytesOf = (numbers: Float32Array): Uint8Array => new Uint8Array(numbers.buffer)

describe.each(Object.entries(shapes))('%s', (_, shape) => {
  test.each(layouts)('%s', async (...layout) => {
    const exact: Float32Array[] = []
    for await (const [, bytes] of products(shape, layout, 'float64', [['baseline', 2]])) exact.push(new Float32Array(bytes.buffer))
    for (const dtype of ['float32', 'bfloat16'] as const) {
      const expected = exact.map((numbers) => bytesOf(dtype === 'float32' ? numbers : numbers.map(roundToBfloat16)))
      let i = 0
      for await (const [way, bytes] of products(shape, layout, dtype, cpu.isas.flatMap((name) => [[name, 1], [name, 3]] as const))) {
        expect(Buffer.compare(bytes, expected[i++ % 2]!), way).toBe(0)
      }
    }
  })
})
