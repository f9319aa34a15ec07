// The tests of quantising and of merging adapters, for any device.
import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { dequantize, mergeLora, mergeLoraQuantized, mul, quantize, QuantizedTensor, sub } from '../../src/ops/index.ts'
import type { QuantizeOptions } from '../../src/ops/index.ts'
import { scope, Tensor } from '../../src/tensor/index.ts'
import type { DType, TypedArray } from '../../src/tensor/index.ts'
import { roundToBfloat16 } from '../cases/case.ts'
import { randomNumbers } from '../cases/random.ts'
import { normalisedError, toNumbers } from './compare.ts'

const recorded = (name: string): unknown => JSON.parse(readFileSync(new URL(`../recorded/quantization/${name}.json`, import.meta.url), 'utf8'))
interface Nf4 {
  W: number[][]; blocksize: number; nested_blocksize: number
  cases: { double_quant: boolean; packed_uint8: number[]; absmax: number[]; nested_absmax: number[] | null; nested_offset: number | null; dequant: number[][] }[]
}
const nf4 = recorded('nf4') as Nf4
const maps = recorded('maps') as { signed: number[]; unsigned: number[] }
const plain = nf4.cases.find((one) => !one.double_quant)!
const double = nf4.cases.find((one) => one.double_quant)!

export const draw = (count: number, seed: string): number[] => {
  const random = randomNumbers(seed)
  return Array.from({ length: count }, () => roundToBfloat16(2 * random() - 1))
}

/** Runs `body`, on the device under test, and reads what it returns; all else is released. */
export type Run = <K extends string>(body: () => Record<K, Tensor>) => Promise<Record<K, TypedArray>>

export function runOn(around: (body: () => void) => void): Run {
  return async <K extends string>(body: () => Record<K, Tensor>) => {
    const pending: [K, Promise<TypedArray>][] = []
    around(() => {
      scope(() => { for (const [name, tensor] of Object.entries(body()) as [K, Tensor][]) pending.push([name, tensor.data()]) })
    })
    return Object.fromEntries(await Promise.all(pending.map(async ([name, data]) => [name, await data] as const))) as Record<K, TypedArray>
  }
}

/** quantize as its description has it, in float32 step by step. */
function reference(x: readonly number[], format: 'int8' | 'int4', block: number, zeroPoints: boolean): { codes: number[]; scales: number[]; zeros: number[] } {
  const f = Math.fround
  const toEven = (v: number): number => { const r = Math.round(v); return (Math.abs(v - Math.trunc(v)) === 0.5 && r % 2 !== 0 ? r - 1 : r) + 0 }
  const [codes, scales, zeros]: [number[], number[], number[]] = [[], [], []]
  for (let from = 0; from < x.length; from += block) {
    const part = x.slice(from, from + block)
    const top = Math.max(...part.map(Math.abs))
    const [low, high] = [Math.min(0, ...part), Math.max(0, ...part)]
    const [levels, steps, least] = format === 'int8' ? [127, 255, -128] : [7, 15, 0]
    const scale = zeroPoints ? f(f(high / steps) - f(low / steps)) : f(top / levels)
    const factor = scale === 0 ? 0 : zeroPoints ? f(1 / scale) : f(levels / top)
    const zero = zeroPoints ? least + Math.min(steps, toEven(f(-low * factor))) : format === 'int8' ? 0 : 8
    scales.push(scale)
    zeros.push(zero & 255)
    for (const value of part) {
      const rounded = toEven(f(value * factor))
      codes.push(Math.max(least, Math.min(least + steps, rounded + zero)) & 255)
    }
  }
  if (format === 'int8') return { codes, scales, zeros }
  const packed = Array.from({ length: Math.ceil(codes.length / 2) }, (_, i) => codes[2 * i]! << 4 | (codes[2 * i + 1] ?? 0))
  return { codes: packed, scales, zeros }
}

export function describeQuantization(run: Run, fence: () => Promise<unknown>): void {
  const weight = (dtype: DType = 'float32'): Tensor => Tensor.from(nf4.W.flat(), [20, 40], { dtype })

  test('NF4 has the bits of bitsandbytes', async () => {
    const { codes, scales, numbers } = await run(() => {
      const q = quantize(weight())
      return { codes: q.codes, scales: q.scales, numbers: dequantize(q) }
    })
    expect(toNumbers(codes)).toEqual(plain.packed_uint8)
    expect(toNumbers(scales)).toEqual(plain.absmax)
    expect(toNumbers(numbers)).toEqual(plain.dequant.flat())
  })

  test('double quantisation of NF4 scales has the bits of bitsandbytes', async () => {
    const { codes, nested, scales } = await run(() => {
      const q = quantize(sub(Tensor.from(plain.absmax), double.nested_offset!), { format: 'dynamic' })
      return { codes: q.codes, nested: q.scales, scales: dequantize(q) }
    })
    expect(toNumbers(codes)).toEqual(double.absmax)
    expect(toNumbers(nested)).toEqual(double.nested_absmax)
    const absmax = toNumbers(scales).map((x) => Math.fround(x + double.nested_offset!))
    const { numbers } = await run(() => ({ numbers: dequantize(new QuantizedTensor([20, 40], 'nf4', 64, Tensor.from(Uint8Array.from(double.packed_uint8), [20, 20]), Tensor.from(absmax))) }))
    expect(toNumbers(numbers)).toEqual(double.dequant.flat())
  })

  test.each([['dynamic', maps.signed], ['dynamic_unsigned', maps.unsigned]] as const)('the code book %s is that of bitsandbytes, and its values are its fixed points', async (format, map) => {
    const { values, codes } = await run(() => {
      const q = new QuantizedTensor([256], format, 256, Tensor.from(Uint8Array.from({ length: 256 }, (_, i) => i)), Tensor.ones([1]))
      return { values: dequantize(q), codes: quantize(Tensor.from(map), { format }).codes }
    })
    expect(toNumbers(values)).toEqual(map)
    expect(toNumbers(codes)).toEqual(map.map((_, i) => i))
  })

  test('FP4 goes to the code of bitsandbytes on either side of each threshold', async () => {
    const limits = [0.00260417, 0.0859375, 0.20833333, 0.29166667, 0.4166667, 0.583333, 0.8333333].map(Math.fround)
    const intervals = [0, 1, 6, 7, 4, 5, 2, 3]
    // The first number of each pair of a block is 1, so that the scale is.
    const numbers = limits.flatMap((limit, i) => [[limit, intervals[i]!], [-limit, intervals[i]! === 0 ? 8 : intervals[i]! | 8], [limit + 1e-6, intervals[i + 1]!], [-limit - 1e-6, intervals[i + 1]! | 8]])
    const { codes, scales } = await run(() => { const q = quantize(Tensor.from([1, ...numbers.map(([x]) => x!)]), { format: 'fp4' }); return { codes: q.codes, scales: q.scales } })
    const nibbles = toNumbers(codes).flatMap((byte) => [byte >> 4, byte & 15]).slice(0, numbers.length + 1)
    expect(nibbles).toEqual([3, ...numbers.map(([, code]) => code)])
    expect(toNumbers(scales)).toEqual([1])
    const { values } = await run(() => ({ values: dequantize(new QuantizedTensor([16], 'fp4', 64, Tensor.from(Uint8Array.from([0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef])), Tensor.ones([1]))) }))
    const sizes = [0, 0.0625, 8, 12, 4, 6, 2, 3]
    expect(normalisedError(values, Float64Array.from([...sizes, ...sizes.map((x) => -x)].map((x) => x / 12)))).toBeLessThan(1e-7)
  })

  const options: [string, QuantizeOptions & { format: 'int8' | 'int4'; block: number }][] = [
    ['int8 by 16', { format: 'int8', block: 16 }], ['int8 by 300', { format: 'int8', block: 300 }], ['int4 by 32', { format: 'int4', block: 32 }],
    ['int4 by 6 with zero points', { format: 'int4', block: 6, zeroPoints: true }], ['int4 by 128 with zero points', { format: 'int4', block: 128, zeroPoints: true }],
    ['int8 by 10 with zero points', { format: 'int8', block: 10, zeroPoints: true }], ['int8 by 300 with zero points', { format: 'int8', block: 300, zeroPoints: true }],
  ]
  describe.each(options)('%s', (_, { format, block, zeroPoints = false }) => {
    test.each([0, 1, 2, 127, 301, 4096])('%d numbers are rounded to the nearest code', async (count) => {
      const x = draw(count, `${format} ${count}`)
      if (count > 200) x.fill(0, 128, 256)
      const expected = reference(x, format, block, zeroPoints)
      for (const dtype of ['float32', 'bfloat16'] as const) {
        const { codes, scales, numbers, ...rest } = await run(() => {
          const q = quantize(Tensor.from(x, [count], { dtype }), { format, block, zeroPoints })
          return { codes: q.codes, scales: q.scales, numbers: dequantize(q), ...q.zeros ? { zeros: q.zeros } : {} } as Record<'codes' | 'scales' | 'numbers' | 'zeros', Tensor>
        })
        expect(toNumbers(codes)).toEqual(expected.codes)
        expect(toNumbers(scales)).toEqual(expected.scales)
        if (zeroPoints) expect(toNumbers(rest.zeros)).toEqual(expected.zeros)
        x.forEach((value, i) => { expect(Math.abs(Number(numbers[i]) - value)).toBeLessThanOrEqual(expected.scales[Math.floor(i / block)]! * (zeroPoints ? 1.001 : 0.501)) })
      }
    })
  })

  test('a block of zeros stays zeros in every format', async () => {
    for (const format of ['nf4', 'fp4', 'int8', 'int4', 'dynamic', 'dynamic_unsigned'] as const) {
      const { numbers, scales } = await run(() => { const q = quantize(Tensor.zeros([3, 64]), { format }); return { numbers: dequantize(q), scales: q.scales } })
      expect(toNumbers(numbers).every((x) => x === 0), format).toBe(true)
      expect(toNumbers(scales).every((x) => x === 0), format).toBe(true)
    }
  })

  test('numbers that are not finite are refused by their place', async () => {
    for (const [bad, at] of [[NaN, 3], [Infinity, 70], [-Infinity, 99]] as const) {
      const x = draw(100, 'bad')
      x[at] = bad
      await expect(run(() => ({ codes: quantize(Tensor.from(x, [100])).codes }))).rejects.toThrow(new RegExp(`quantize: x\\[${at}\\] is`))
      await fence().catch(() => undefined)
    }
  })
}

export function describeMerging(run: Run): void {
  const [output, input, rank] = [37, 70, 5]
  const numbers = { w: draw(output * input, 'w'), a: draw(rank * input, 'a'), b: draw(output * rank, 'b') }
  const exact = (scale: number): Float64Array => Float64Array.from(numbers.w, (w, i) => {
    const [row, column] = [Math.floor(i / input), i % input]
    let total = 0
    for (let r = 0; r < rank; r++) total += numbers.b[row * rank + r]! * numbers.a[r * input + column]!
    return w + scale * total
  })
  const transposed = (x: ArrayLike<number>): number[] => Array.from({ length: output * input }, (_, i) => x[(i % output) * input + Math.floor(i / output)]!)

  describe.each(['float32', 'bfloat16'] as const)('merging into %s', (dtype) => {
    test.each(['float32', 'bfloat16'] as const)('from %s is exact to one rounding, and comes out again', async (factors) => {
      const { merged, across, back } = await run(() => {
        const [a, b] = [Tensor.from(numbers.a, [rank, input], { dtype: factors }), Tensor.from(numbers.b, [output, rank], { dtype: factors })]
        const make = (): Tensor => Tensor.from(numbers.w, [output, input], { dtype })
        const [merged, back, across] = [make(), make(), Tensor.from(transposed(numbers.w), [input, output], { dtype })]
        mergeLora(merged, a, b, 0.5)
        mergeLora(across, a, b, 0.5, { transposedWeight: true })
        mergeLora(back, a, b, 0.5)
        mergeLora(back, a, b, -0.5)
        return { merged, across, back }
      })
      const wanted = exact(0.5)
      toNumbers(merged).forEach((x, i) => {
        // Half a unit in the last place, and what float32 sums may be off before the rounding.
        const bound = (dtype === 'bfloat16' ? 2 ** -8 * Math.abs(wanted[i]!) : 0) + 2e-6
        expect(Math.abs(x - wanted[i]!)).toBeLessThanOrEqual(bound)
      })
      expect(normalisedError(across, Float64Array.from(transposed(merged as Float32Array)))).toBeLessThan(dtype === 'bfloat16' ? 4e-3 : 1e-6)
      expect(normalisedError(back, Float64Array.from(numbers.w))).toBeLessThan(dtype === 'bfloat16' ? 1e-2 : 1e-6)
    })
  })

  const formats: [string, QuantizeOptions][] = [
    ['nf4', { format: 'nf4', block: 14 }], ['fp4', { format: 'fp4', block: 70 }], ['int8', { format: 'int8' }], ['int4 with zeros', { format: 'int4', block: 10, zeroPoints: true }],
    ['int8 with zeros', { format: 'int8', block: 14, zeroPoints: true }],
  ]
  test.each(formats)('merging into %s rounds the exact sum and reports what that changed', async (_, options) => {
    const { before, after, again, error, ones, changed } = await run(() => {
      const weight = quantize(Tensor.from(numbers.w, [output, input]), options)
      const before = dequantize(weight)
      const [a, b] = [Tensor.from(numbers.a, [rank, input]), Tensor.from(numbers.b, [output, rank])]
      const sum = dequantize(weight)
      mergeLora(sum, a, b, 0.25)
      const again = dequantize(quantize(sum, options))
      const error = mergeLoraQuantized(weight, a, b, 0.25)
      const after = dequantize(weight)
      return { before, after, again, error, ones: mul(sum, sum), changed: mul(sub(again, sum), sub(again, sum)) }
    })
    expect(toNumbers(after)).toEqual(toNumbers(again))
    expect(toNumbers(after)).not.toEqual(toNumbers(before))
    const total = (x: TypedArray): number => toNumbers(x).reduce((a, b) => a + b, 0)
    expect(Number(error[0]) / total(changed)).toBeCloseTo(1, 4)
    expect(Number(error[1]) / total(ones)).toBeCloseTo(1, 4)
  })
}
