// Proves that the optimizer kernels compute PyTorch's AdamW and gradient clipping: against the formula in float64 and against recorded steps.
import { readFileSync } from 'node:fs'
import { afterAll, describe, expect, test } from 'vitest'
import { cpu, Tensor } from '../../src/tensor/index.ts'
import type { DType } from '../../src/tensor/index.ts'
import { roundToBfloat16 } from '../cases/case.ts'
import { randomNumbers } from '../cases/random.ts'
import { runOn } from './adapterKernels.ts'
import { normalisedError, sameBits, toNumbers } from './compare.ts'
import { describeParameterLists } from './parameterLists.ts'

const [threads, isa] = [cpu.threads, cpu.isa]
afterAll(() => {
  cpu.threads = threads
  cpu.isa = isa
})

interface Run {
  name: string; maxNorm: number; learningRate: number; betas: [number, number]; eps: number; weightDecay: number; parameter: number[]
  steps: { gradient: number[]; norm: number; parameter: number[]; first: number[]; second: number[] }[]
}
const recorded = JSON.parse(readFileSync(new URL('../recorded/optim/adamw.json', import.meta.url), 'utf8')) as { runs: Run[] }

const { kernels } = cpu
const draw = (count: number, seed: string, scale = 1): number[] => {
  const random = randomNumbers(seed)
  return Array.from({ length: count }, () => roundToBfloat16(scale * (2 * random() - 1)))
}

describe.each(cpu.isas)('%s', (name) => {
  test.each(recorded.runs.map((run) => ({ what: run.name, run })))('recorded steps of PyTorch: $what', async ({ run }) => {
    cpu.isa = name
    const [parameter, first, second] = [Tensor.from(run.parameter), Tensor.zeros([37]), Tensor.zeros([37])]
    const [squares, factor] = [Tensor.empty([1], { dtype: 'float64' }), Tensor.empty([2])]
    for (const [i, step] of run.steps.entries()) {
      const gradient = Tensor.from(step.gradient)
      kernels.sum_squares(squares.handle, [gradient.handle], false)
      kernels.clip_factor(factor.handle, squares.handle, run.maxNorm)
      kernels.adamw([parameter.handle], [first.handle], [second.handle], [], [gradient.handle], factor.handle, [run.learningRate], ...run.betas, run.eps, [run.weightDecay], i + 1)
      expect(Math.abs(Number((await factor.data())[1]) / step.norm - 1)).toBeLessThan(1e-6)
      for (const [tensor, numbers] of [[parameter, step.parameter], [first, step.first], [second, step.second]] as const) {
        const largest = Math.max(...numbers.map(Math.abs))
        const actual = await tensor.data()
        numbers.forEach((x, k) => { expect(Math.abs(Number(actual[k]) - x)).toBeLessThanOrEqual(2e-6 * largest) })
      }
      gradient.dispose()
    }
    for (const tensor of [parameter, first, second, squares, factor]) tensor.dispose()
  })

  test.each([1, 7, 64, 100_003])('the formula in float64, %d parameters, and the bfloat16 copy', async (size) => {
    cpu.isa = name
    const [learningRate, beta1, beta2, eps, decay, scale, step] = [0.01, 0.9, 0.99, 1e-8, 0.1, 0.25, 3]
    const start = { p: draw(size, 'p'), m: draw(size, 'm', 0.1), v: draw(size, 'v', 0.01).map(Math.abs), g: draw(size, 'g') }
    const expected = start.p.map((p, i) => {
      const g = start.g[i]! * scale
      const m = beta1 * start.m[i]! + (1 - beta1) * g
      const v = beta2 * start.v[i]! + (1 - beta2) * g * g
      return { p: p * (1 - learningRate * decay) - learningRate / (1 - beta1 ** step) * m / (Math.sqrt(v / (1 - beta2 ** step)) + eps), m, v }
    })
    const bits: Awaited<ReturnType<Tensor['data']>>[] = []
    for (const dtype of ['float32', 'bfloat16'] as DType[]) {
      for (const count of [1, 2, 3]) {
        cpu.threads = count
        const [p, m, v] = [Tensor.from(start.p), Tensor.from(start.m), Tensor.from(start.v)]
        const [half, g, factor] = [Tensor.empty([size], { dtype: 'bfloat16' }), Tensor.from(start.g, [size], { dtype }), Tensor.from([scale, 0])]
        kernels.adamw([p.handle], [m.handle], [v.handle], [half.handle], [g.handle], factor.handle, [learningRate], beta1, beta2, eps, [decay], step)
        const numbers = await p.data()
        bits.push(numbers)
        expect(normalisedError(numbers, Float64Array.from(expected, ({ p }) => p))).toBeLessThan(1e-6)
        expect(normalisedError(await m.data(), Float64Array.from(expected, ({ m }) => m))).toBeLessThan(1e-6)
        expect(normalisedError(await v.data(), Float64Array.from(expected, ({ v }) => v))).toBeLessThan(1e-6)
        expect(Array.from(await half.data(), Number)).toEqual(toNumbers(numbers).map(roundToBfloat16))
        for (const tensor of [p, m, v, half, g, factor]) tensor.dispose()
      }
    }
    for (const numbers of bits) expect(sameBits(numbers, bits[0]!)).toBe(true)
  })

  test.each(['float32', 'bfloat16'] as const)('sum of squares in %s, accumulated, on any number of threads', async (dtype) => {
    cpu.isa = name
    for (const size of [0, 1, 1023, 65_537, 300_001]) {
      const numbers = draw(size, `squares ${size}`, 3)
      const expected = numbers.reduce((total, x) => total + x * x, 0)
      const x = Tensor.from(numbers, [size], { dtype })
      const results: number[] = []
      for (const count of [1, 2, 3]) {
        cpu.threads = count
        const y = Tensor.full([1], 5, { dtype: 'float64' })
        kernels.sum_squares(y.handle, [x.handle], true)
        results.push(await y.item())
        kernels.sum_squares(y.handle, [x.handle], false)
        expect(Math.abs(await y.item() - expected)).toBeLessThanOrEqual(1e-6 * expected)
        y.dispose()
      }
      expect(Math.abs(results[0]! - 5 - expected)).toBeLessThanOrEqual(1e-6 * (5 + expected))
      expect(new Set(results).size).toBe(1)
      x.dispose()
    }
  })
})

describe('lists of parameters', () => { describeParameterLists(runOn((body) => { body() })) })

test.each([[0.25, 1, 1], [16, 1, 1 / (4 + 1e-6)], [16, 0, 1], [16, -1, 1], [0, 1, 1], [1, 1, 1 / (1 + 1e-6)], [Infinity, 1, NaN], [NaN, 1, NaN], [NaN, 0, NaN]])(
  'sum of squares %d and largest norm %d give the factor %d', async (squares, maxNorm, factor) => {
    const [y, x] = [Tensor.empty([2]), Tensor.full([1], squares, { dtype: 'float64' })]
    kernels.clip_factor(y.handle, x.handle, maxNorm)
    expect(await y.toArray()).toEqual([Math.fround(factor), Math.fround(Math.sqrt(squares))])
    y.dispose()
    x.dispose()
  })

test('a NaN factor leaves parameters and state as they are', async () => {
  const [p, m, v, g, factor] = [Tensor.from([1, 2]), Tensor.from([3, 4]), Tensor.from([5, 6]), Tensor.from([7, 8]), Tensor.from([NaN, NaN])]
  kernels.adamw([p.handle], [m.handle], [v.handle], [], [g.handle], factor.handle, [0.1], 0.9, 0.99, 1e-8, [0.1], 1)
  expect(await Promise.all([p, m, v].map((tensor) => tensor.toArray()))).toEqual([[1, 2], [3, 4], [5, 6]])
  for (const tensor of [p, m, v, g, factor]) tensor.dispose()
})

test.each(['float32', 'bfloat16'] as const)('NaN and infinity are counted in %s', async (dtype) => {
  const numbers = Array.from({ length: 70_001 }, (_, i) => i % 1000 === 3 ? [NaN, Infinity, -Infinity][i % 3]! : i % 7)
  const [x, y] = [Tensor.from(numbers, undefined, { dtype }), Tensor.from(Int32Array.of(10))]
  kernels.count_non_finite(y.handle, x.handle, true)
  expect(await y.item()).toBe(10 + numbers.filter((n) => !Number.isFinite(n)).length)
  kernels.count_non_finite(y.handle, x.handle, false)
  expect(await y.item()).toBe(numbers.filter((n) => !Number.isFinite(n)).length)
  x.dispose()
  y.dispose()
})
