// Proves that random numbers and dropout masks are Philox 4x32-10 of (seed, stream, element) on every instruction set, and distributed as they say.
import { afterAll, describe, expect, test } from 'vitest'
import { dropout, mul, sum } from '../../src/ops/index.ts'
import { backward, cpu, manualSeed, randomState, Tensor } from '../../src/tensor/index.ts'
import type { DType } from '../../src/tensor/index.ts'
import { compute, normalisedError, sameBits, toNumbers } from './compare.ts'
import { chiSquareLimit, philox, words } from './philox.ts'

const [threads, isa] = [cpu.threads, cpu.isa]
afterAll(() => {
  cpu.threads = threads
  cpu.isa = isa
})

const uniform = (size: number, seed: number, stream: number, low = 0, high = 1, dtype: DType = 'float32') => compute(() => {
  const y = Tensor.empty([size], { dtype })
  cpu.kernels.random_uniform(y.handle, low, high, seed, stream)
  return y
})
const normal = (size: number, seed: number, stream: number, mean = 0, deviation = 1, dtype: DType = 'float32') => compute(() => {
  const y = Tensor.empty([size], { dtype })
  cpu.kernels.random_normal(y.handle, mean, deviation, seed, stream)
  return y
})

test('the plain Philox gives the published vectors', () => {
  expect(philox([0, 0, 0, 0], [0, 0])).toEqual([0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8])
  expect(philox([0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff], [0xffffffff, 0xffffffff])).toEqual([0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd])
  expect(philox([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0])).toEqual([0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1])
})

describe.each(cpu.isas)('%s', (name) => {
  test.each([[0, 0], [42, 7], [2 ** 32 + 5, 2 ** 33 + 1], [2 ** 53 - 1, 2 ** 53 - 1], [-1, 3]])('uniform and normal numbers of seed %d, stream %d', async (seed, stream) => {
    cpu.isa = name
    for (const size of [0, 1, 3, 4, 5, 8, 17, 33, 100]) {
      const expected = words(size + size % 2, seed, stream)
      expect(Array.from(await uniform(size, seed, stream), Number)).toEqual(expected.slice(0, size).map((word) => (word >>> 8) / 2 ** 24))
      const plain = expected.map((_, i) => {
        const radius = Math.sqrt(-2 * Math.log(((expected[i - i % 2]! >>> 8) + 1) / 2 ** 24))
        const turn = 2 * Math.PI * (expected[i - i % 2 + 1]! >>> 8) / 2 ** 24
        return radius * (i % 2 === 0 ? Math.cos(turn) : Math.sin(turn))
      })
      expect(normalisedError(await normal(size, seed, stream), Float64Array.from(plain.slice(0, size)))).toBeLessThan(3e-6)
    }
  })

  test('a number depends on its index only: not on the size, nor on the threads', async () => {
    cpu.isa = name
    cpu.threads = 1
    const long = await uniform(100_003, 9, 1)
    for (const count of [2, 3]) {
      cpu.threads = count
      expect(sameBits(await uniform(100_003, 9, 1), long)).toBe(true)
      expect(sameBits(await uniform(1001, 9, 1), long.slice(0, 1001))).toBe(true)
    }
  })
})

test('uniform numbers are even', async () => {
  const bins = new Float64Array(64)
  for (const x of await uniform(640_000, 3, 0)) bins[Math.floor(Number(x) * 64)]!++
  expect(bins.reduce((total, n) => total + (n - 10_000) ** 2 / 10_000, 0)).toBeLessThan(chiSquareLimit(63))
})

test.each(['float32', 'bfloat16'] as const)('uniform numbers in %s lie in [low, high)', async (dtype) => {
  for (const [low, high] of [[-1, 1], [0.3, 0.300001], [-5, -4], [1e-6, 1e-5]] as const) {
    const numbers = await uniform(20_000, 5, 2, low, high, dtype)
    expect(numbers.every((x) => Number(x) < high)).toBe(true)
    expect(numbers.every((x) => Number(x) >= low - Math.abs(low) * (dtype === 'float32' ? 1e-7 : 4e-3))).toBe(true)
  }
})

test.each(['float32', 'bfloat16'] as const)('normal numbers in %s have their moments', async (dtype) => {
  const n = 400_000
  const z = toNumbers(await normal(n, 11, 4, 2, 3, dtype)).map((x) => (x - 2) / 3)
  const moment = (power: number): number => z.reduce((total, x) => total + x ** power, 0) / n
  const limit = (variance: number): number => 5 * Math.sqrt(variance / n) + (dtype === 'bfloat16' ? 2e-3 : 0)
  expect(Math.abs(moment(1))).toBeLessThan(limit(1))
  expect(Math.abs(moment(2) - 1)).toBeLessThan(limit(2))
  expect(Math.abs(moment(3))).toBeLessThan(limit(15))
  expect(Math.abs(moment(4) - 3)).toBeLessThan(limit(96))
  // Two neighbours come from one radius, and must not be correlated.
  expect(Math.abs(z.reduce((total, x, i) => total + x * (z[i ^ 1] ?? 0), 0) / n)).toBeLessThan(limit(1))
})

describe('dropout', () => {
  test.each([0.1, 0.5, 0.9])('p %d drops where the word is below p and scales the rest', async (p) => {
    manualSeed(123, 45)
    const kept = words(1003, 123, 45).map((word) => word >= Math.floor(p * 2 ** 32 + 0.5) ? Math.fround(Math.fround(1 / (1 - p)) * 2) : 0)
    expect(Array.from(await compute(() => dropout(Tensor.full([1003], 2), p)), Number)).toEqual(kept)
  })

  test('drops a share of p', async () => {
    const dropped = toNumbers(await compute(() => dropout(Tensor.ones([1_000_000]), 0.3))).filter((x) => x === 0).length
    expect(Math.abs(dropped - 300_000)).toBeLessThan(5 * Math.sqrt(1e6 * 0.3 * 0.7))
  })

  test('the same seed gives the same mask, the next stream another, and backward uses the mask of forward', async () => {
    manualSeed(8)
    const first = await compute(() => dropout(Tensor.ones([500]), 0.5))
    const second = await compute(() => dropout(Tensor.ones([500]), 0.5))
    expect(randomState()).toEqual({ seed: 8, next: 2 })
    manualSeed(8)
    expect(sameBits(await compute(() => dropout(Tensor.ones([500]), 0.5)), first)).toBe(true)
    expect(sameBits(first, second)).toBe(false)
    manualSeed(8)
    const x = Tensor.ones([500]).requiresGrad_()
    await compute(() => {
      const y = dropout(x, 0.5)
      backward(sum(mul(y, 3)))
      return y
    })
    expect(Array.from(await x.grad!.data(), Number)).toEqual(toNumbers(first).map((kept) => 3 * kept))
    x.dispose()
  })

  test('p of 0 changes nothing and p of 1 is refused', () => {
    const x = Tensor.ones([3])
    expect(dropout(x, 0)).toBe(x)
    expect(() => dropout(x, 1)).toThrow(/p must be at least 0 and below 1, but is 1/)
    x.dispose()
  })
})
