// Proves what the kernels without an operation of their own compute, that accumulating adds, that results may overwrite inputs where allowed, and that
// lib/kernels.d.ts is fresh.
import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { afterAll, describe, expect, test } from 'vitest'
import { cpu, dtypes, isFloat, Tensor } from '../../src/tensor/index.ts'
import type { DType, Shape } from '../../src/tensor/index.ts'
import { roundToBfloat16 } from '../cases/case.ts'
import { randomNumbers } from '../cases/random.ts'
import { normalisedError, sameBits } from './compare.ts'

const { kernels } = cpu
const isa = cpu.isa
afterAll(() => { cpu.isa = isa })

const draw = (shape: Shape, seed: string, dtype: DType = 'float32'): Tensor => {
  const random = randomNumbers(seed)
  return Tensor.from(Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => roundToBfloat16(2 * random() - 1)), shape, { dtype })
}

test('lib/kernels.d.ts is what the addon reports', () => {
  const script = fileURLToPath(new URL('../../scripts/generate-kernel-types.js', import.meta.url))
  expect(spawnSync(process.execPath, [script, '--check'], { encoding: 'utf8' })).toMatchObject({ status: 0, stderr: '' })
})

/** What a number becomes in a dtype. */
function rounded(x: number, dtype: DType): number {
  switch (dtype) {
    case 'float64': return x
    case 'float32': return Math.fround(x)
    case 'bfloat16': return roundToBfloat16(x)
    case 'float16': return roundToFloat16(x)
    default: return Math.trunc(x)
  }
}

/** Half precision: 11 bits of significand, subnormal below 2^-14, infinite from 65520 on. */
function roundToFloat16(x: number): number {
  if (!Number.isFinite(x) || x === 0) return x
  const unit = 2 ** (Math.max(Math.floor(Math.log2(Math.abs(x))), -14) - 10)
  const scaled = Math.abs(x) / unit
  const low = Math.floor(scaled)
  const even = scaled - low === 0.5 ? low + low % 2 : Math.round(scaled)
  const magnitude = even * unit
  return Math.sign(x) * (magnitude >= 65536 ? Infinity : magnitude)
}

describe.each(cpu.isas)('%s', (name) => {
  test.each(dtypes.flatMap((from) => dtypes.map((to) => [from, to] as const)))('convert %s to %s', async (from, to) => {
    cpu.isa = name
    const whole = [0, 1, 2, 3, 100, 127, 200, 255]
    const fractions = [0, -0, 0.1, -0.1, 1 / 3, 1.00390625, 1.01171875, 3.14159, 1e-3, 6e-5, 5.9e-8, 2e-8, 1e-30, 65504, 65519, 65520, 1e5, -1e5, 1e30, -7.5, 255.5, Infinity, -Infinity, NaN]
    const numbers = isFloat(from) && isFloat(to) ? fractions : isFloat(from) ? [...whole, 3.7, 99.5] : whole
    for (const repeat of [1, 5]) {
      const source = Array.from({ length: repeat }, () => numbers).flat().map((x) => rounded(x, from))
      const [x, y] = [Tensor.from(source, undefined, { dtype: from }), Tensor.empty([source.length], { dtype: to })]
      kernels.convert(y.handle, x.handle)
      const actual = await y.toArray()
      source.forEach((number, i) => {
        // Integers of a fraction are tested for what both roundings allow.
        const allowed = isFloat(to) ? [rounded(number, to)] : [Math.trunc(number), Math.round(number), Math.floor(number + 0.5 - Number.EPSILON)]
        if (isFloat(to)) expect(actual[i], `${number}`).toBe(allowed[0])
        else expect(allowed, `${number}`).toContain(actual[i])
      })
      x.dispose()
      y.dispose()
    }
  })

  test.each(['float32', 'float64', 'bfloat16'].flatMap((to) => ['float32', 'float64', 'bfloat16'].map((from) => [to, from] as [DType, DType])))('add_into %s from %s', async (to, from) => {
    cpu.isa = name
    for (const size of [0, 1, 5, 33, 70_001]) {
      const [y, x] = [draw([size], 'y', to), draw([size], 'x', from)]
      const [before, added] = [await y.toArray(), await x.toArray()]
      kernels.add_into(y.handle, x.handle)
      expect(await y.toArray()).toEqual(before.map((a, i) => rounded(a + added[i]!, to)))
      y.dispose()
      x.dispose()
    }
  })

  test('slice_into writes or adds inside', async () => {
    cpu.isa = name
    for (const dtype of ['float32', 'bfloat16', 'float64', 'int32'] as const) {
      for (const accumulate of dtype === 'int32' ? [false] : [false, true]) {
        const [y, x] = [Tensor.full([3, 5], 10, { dtype }), Tensor.arange(6, { dtype: 'float32' })]
        const piece = Tensor.from(await x.toArray(), [2, 3], { dtype })
        kernels.slice_into(y.handle, piece.handle, [1, 2], accumulate)
        const base = accumulate ? 10 : 0
        expect(await y.toArray()).toEqual([10, 10, 10, 10, 10, 10, 10, base, base + 1, base + 2, 10, 10, base + 3, base + 4, base + 5])
        for (const tensor of [x, y, piece]) tensor.dispose()
      }
    }
  })

  test.each(['float32', 'bfloat16'] as const)('rows are scattered into a cache and gathered from it, %s', async (dtype) => {
    cpu.isa = name
    const [cache, rows, slot] = [Tensor.zeros([7, 2, 3], { dtype }), draw([3, 2, 3], 'rows', dtype), Tensor.from(Int32Array.of(5, 0, 2))]
    const back = Tensor.empty([3, 2, 3], { dtype })
    kernels.scatter_rows(cache.handle, rows.handle, slot.handle)
    kernels.gather_rows(back.handle, cache.handle, slot.handle)
    expect(await back.toArray()).toEqual(await rows.toArray())
    const all = await cache.toArray()
    expect([1, 3, 4, 6].every((row) => all.slice(6 * row, 6 * row + 6).every((x) => x === 0))).toBe(true)
    for (const wrong of [-1, 7]) {
      const outside = Tensor.from(Int32Array.of(wrong, 0, 1))
      kernels.scatter_rows(cache.handle, rows.handle, outside.handle)
      await expect(cpu.fence()).rejects.toMatchObject({ code: 'ERR_KERNEL' })
      kernels.gather_rows(back.handle, cache.handle, outside.handle)
      await expect(cpu.fence()).rejects.toMatchObject({ code: 'ERR_KERNEL' })
      outside.dispose()
    }
    for (const tensor of [cache, rows, slot, back]) tensor.dispose()
  })

  test('gradients of parameters are added where asked', async () => {
    cpu.isa = name
    const before = 3
    const x = draw([70, 33], 'x')
    const weight = draw([33], 'weight')
    const y = Tensor.empty([70, 33])
    const [mean, rstd] = [Tensor.empty([70]), Tensor.empty([70])]
    const dx = Tensor.empty([70, 33])
    kernels.layer_norm(y.handle, mean.handle, rstd.handle, 0, x.handle, 0, weight.handle, 0, 1e-5)
    const id = Tensor.from(Int32Array.from({ length: 70 }, (_, i) => i * i % 33))
    const square = draw([33, 33], 'square')
    const calls: [string, Shape, (y: number, accumulate: boolean) => void][] = [
      ['sum_rows', [33], (y, accumulate) => { kernels.sum_rows(y, x.handle, accumulate) }],
      ['gemm', [33, 33], (c, accumulate) => { kernels.gemm(c, 0, x.handle, x.handle, 0, true, false, accumulate, 0, false) }],
      ['embedding_backward', [33, 33], (y, accumulate) => { kernels.embedding_backward(y, x.handle, id.handle, accumulate) }],
      ['rms_norm_backward', [33], (y, accumulate) => { kernels.rms_norm_backward(dx.handle, y, x.handle, 0, x.handle, weight.handle, rstd.handle, 0, accumulate) }],
      ['layer_norm_backward', [33], (y, accumulate) => { kernels.layer_norm_backward(dx.handle, y, 0, x.handle, 0, x.handle, weight.handle, mean.handle, rstd.handle, accumulate) }],
      ['layer_norm_backward, bias', [33], (y, accumulate) => { kernels.layer_norm_backward(dx.handle, 0, y, x.handle, 0, x.handle, weight.handle, mean.handle, rstd.handle, accumulate) }],
    ]
    for (const [what, shape, call] of calls) {
      const [fresh, added] = [Tensor.full(shape, NaN), Tensor.full(shape, before)]
      call(fresh.handle, false)
      call(added.handle, true)
      const [alone, total] = [await fresh.toArray(), await added.data()]
      expect(alone.some((number) => number !== 0), what).toBe(true)
      expect(normalisedError(total, Float64Array.from(alone, (number) => number + before)), what).toBeLessThan(1e-6)
      fresh.dispose()
      added.dispose()
    }
    for (const tensor of [x, weight, y, mean, rstd, dx, id, square]) tensor.dispose()
  })

  test.each(['float32', 'bfloat16'] as const)('loss gradients may overwrite the logits, %s', async (dtype) => {
    cpu.isa = name
    const [rows, vocabulary] = [9, 517]
    const labels = Tensor.from(Int32Array.from({ length: rows }, (_, i) => i === 4 ? -100 : i * 31))
    const [a, b, c] = [Tensor.empty([rows]), Tensor.empty([rows]), Tensor.empty([rows])]
    const gradient = draw([rows], 'gradient')
    const pairs: ((dlogits: Tensor, logits: Tensor) => void)[] = [
      (dlogits, logits) => {
        kernels.cross_entropy(a.handle, b.handle, logits.handle, labels.handle, 0.1)
        kernels.cross_entropy_backward(dlogits.handle, gradient.handle, logits.handle, b.handle, labels.handle, 0.1)
      },
      (dlogits, logits) => {
        kernels.selective_log_softmax(a.handle, b.handle, c.handle, logits.handle, labels.handle, 0.9)
        kernels.selective_log_softmax_backward(dlogits.handle, gradient.handle, gradient.handle, logits.handle, labels.handle, b.handle, c.handle, 0.9)
      },
    ]
    for (const run of pairs) {
      const [logits, apart] = [draw([rows, vocabulary], 'logits', dtype), Tensor.empty([rows, vocabulary], { dtype })]
      run(apart, logits)
      run(logits, logits)
      expect(sameBits(await logits.data(), await apart.data())).toBe(true)
      logits.dispose()
      apart.dispose()
    }
    for (const tensor of [labels, a, b, c, gradient]) tensor.dispose()
  })
})

test.each(['float32', 'float64', 'int32', 'int64'] as const)('iota in %s', async (dtype) => {
  const numbers = await Tensor.arange(37, { start: 3, step: 2, dtype }).toArray()
  expect(numbers).toEqual(Array.from({ length: 37 }, (_, i) => 3 + 2 * i))
})

test.each(dtypes)('fill in %s', async (dtype) => {
  const tensor = Tensor.full([5, 7], 3, { dtype })
  expect(await tensor.toArray()).toEqual(Array(35).fill(3))
  tensor.dispose()
})

test.each(['float32', 'bfloat16'] as const)('lora_merge keeps NaN of any bits NaN: %s', async (dtype) => {
  const bits = (word: number, count: number): Float32Array => new Float32Array(new Uint32Array(count).fill(word).buffer)
  const [weight, b] = [Tensor.from(new Float32Array(7 * 33).fill(1), [7, 33], { dtype }), Tensor.from(new Float32Array(14).fill(1), [7, 2])]
  const a = Tensor.from(bits(0x7fffffff, 66), [2, 33])
  kernels.lora_merge(weight.handle, b.handle, a.handle, 1, false)
  expect((await weight.toArray()).every(Number.isNaN)).toBe(true)
  for (const tensor of [weight, a, b]) tensor.dispose()
})

test.each(['float32', 'bfloat16'] as const)('gather_last takes one index for all rows: %s', async (dtype) => {
  const [x, index] = [draw([3, 2, 5], 'table', dtype), Tensor.from(Int32Array.of(4, 0, 0, 2))]
  const y = Tensor.empty([3, 2, 4], { dtype })
  kernels.gather_last(y.handle, x.handle, index.handle)
  const [from, to] = [await x.toArray(), await y.toArray()]
  expect(to).toEqual(Array.from({ length: 6 }, (_, row) => [4, 0, 0, 2].map((column) => from[row * 5 + column]!)).flat())
  expect(() => { kernels.gather_last(y.handle, x.handle, Tensor.from(Int32Array.of(1, 2)).handle) }).toThrow(/gather_last: index has shape \[2\]/)
  for (const tensor of [x, y, index]) tensor.dispose()
})

test.each([
  ['embedding', -1], ['embedding', 5], ['cross_entropy', 5], ['cross_entropy', -1], ['cross_entropy', -99], ['selective_log_softmax', 7], ['gather_last', 5], ['gather_last', -1],
] as const)('%s refuses the index %d', async (kernel, wrong) => {
  const [table, id] = [draw([5, 5], 'table'), Tensor.from(Int32Array.of(0, wrong, 1, 2, 3))]
  const [y, a, b, c] = [Tensor.empty([5, 5]), Tensor.empty([5]), Tensor.empty([5]), Tensor.empty([5])]
  const index = kernel === 'gather_last' ? Tensor.from(Int32Array.from({ length: 5 }, (_, i) => i === 2 ? wrong : 0), [5, 1]) : id
  if (kernel === 'embedding') kernels.embedding(y.handle, table.handle, id.handle)
  else if (kernel === 'cross_entropy') kernels.cross_entropy(a.handle, b.handle, table.handle, id.handle, 0)
  else if (kernel === 'selective_log_softmax') kernels.selective_log_softmax(a.handle, b.handle, c.handle, table.handle, id.handle, 1)
  else kernels.gather_last(Tensor.empty([5, 1]).handle, table.handle, index.handle)
  await expect(cpu.fence()).rejects.toMatchObject({ code: 'ERR_KERNEL', message: expect.stringContaining(String(wrong)) as string })
  await cpu.fence()
  for (const tensor of new Set([table, id, y, a, b, c, index])) tensor.dispose()
})
