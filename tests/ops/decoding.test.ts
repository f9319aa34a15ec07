// Proves the products of new tokens: within a bound of float64 for every storage and ragged shapes, a row's bits whatever the rows and threads beside it,
// what is not finite, and that only these products change while decoding.
import { afterAll, describe, expect, test } from 'vitest'
import { dequantize, linear, loraLinear, quantize, quantizedMatmul, type QuantizedTensor, type QuantizeOptions } from '../../src/ops/index.ts'
import { cpu, decoding, noGrad, Tensor, type DType, type Shape } from '../../src/tensor/index.ts'
import { roundToBfloat16 } from '../cases/case.ts'
import { randomNumbers } from '../cases/random.ts'
import { compute, sameBits, toNumbers } from './compare.ts'

const [threads, isa] = [cpu.threads, cpu.isa]
afterAll(() => {
  cpu.threads = threads
  cpu.isa = isa
})

/** Numbers of quite different sizes from row to row and place to place. */
const draw = (shape: Shape, seed: string, dtype: DType = 'float32'): Tensor => {
  const random = randomNumbers(seed)
  return Tensor.from(Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => roundToBfloat16((2 * random() - 1) * 10 ** (2 * random() - 1))), shape, { dtype })
}
const numbersOf = async (tensor: Tensor): Promise<number[]> => toNumbers(await tensor.data())

interface Case { name: string, input: number, output: number, weight: (w: Tensor) => Tensor | QuantizedTensor, bias?: boolean }
const quantized = (input: number, output: number, options: QuantizeOptions): Case => ({
  name: `${options.format ?? 'nf4'} by ${options.block ?? 'default'}${options.zeroPoints ? ' with zeros' : ''}, ${input} to ${output}`,
  input, output, weight: (w) => quantize(w, options), bias: output % 2 === 1,
})
const bf16 = (input: number, output: number): Case => ({ name: `bfloat16, ${input} to ${output}`, input, output, weight: (w) => w, bias: output % 2 === 1 })
const cases: Case[] = [
  bf16(1, 1), bf16(7, 5), bf16(100, 33), bf16(896, 64), bf16(1030, 18), bf16(3100, 7), bf16(64, 300),
  ...(['nf4', 'fp4', 'int4', 'int8'] as const).flatMap((format) => [quantized(64, 1, { format, block: 64 }), quantized(1088, 37, { format, block: 64 }), quantized(256, 50, { format, block: 32 })]),
  quantized(128, 20, { format: 'nf4', block: 128 }), quantized(10, 5, { format: 'nf4', block: 2 }), quantized(2304, 9, { format: 'int4', block: 128, zeroPoints: true }),
  quantized(96, 40, { format: 'int4', block: 32, zeroPoints: true }), quantized(64, 17, { format: 'int4', zeroPoints: true, block: 64 }),
  quantized(1152, 21, { format: 'int8' }), quantized(77, 19, { format: 'int8' }), quantized(200, 12, { format: 'int8', block: 100 }), quantized(192, 33, { format: 'int8', block: 192 }),
  // Wide enough that a thread computes several outputs far apart side by side, and has some left over.
  bf16(4100, 203), ...(['nf4', 'fp4', 'int4', 'int8'] as const).map((format) => quantized(1088, 333, { format, block: 64 })),
  quantized(2304, 150, { format: 'int4', block: 128, zeroPoints: true }), quantized(1088, 210, { format: 'int8', block: 64, zeroPoints: true }),
  quantized(1088, 21, { format: 'int8', block: 64, zeroPoints: true }), quantized(256, 40, { format: 'int8', block: 128, zeroPoints: true }), quantized(200, 12, { format: 'int8', block: 100, zeroPoints: true }),
]

const multiply = (x: Tensor, weight: Tensor | QuantizedTensor, bias: Tensor | null): Tensor =>
  decoding(() => noGrad(() => weight instanceof Tensor ? linear(x, weight, bias) : quantizedMatmul(x, weight, bias)))

/** What the weight stands for, and how far its integers may be from that, in units of the block's scale. */
async function stored(weight: Tensor | QuantizedTensor): Promise<number[]> { return numbersOf(weight instanceof Tensor ? weight : dequantize(weight)) }

/** The exact product and the largest difference allowed, for each output of a row. */
function exact(x: number[], w: number[], bias: number[], { input, output }: Case, weight: Tensor | QuantizedTensor, scales: number[]): { value: number, bound: number }[] {
  const piece = weight instanceof Tensor ? Infinity : Math.min(64, weight.block)
  const block = weight instanceof Tensor ? input : weight.block
  const steps = weight instanceof Tensor ? Infinity : weight.format === 'nf4' ? 17115 : 2 ** 15 - 1
  // Pieces start with blocks.
  const pieceOf = (k: number): number => Math.floor(k / block) * Math.ceil(block / piece) + Math.floor(k % block / piece)
  const largest = new Map<number, number>()
  if (steps < Infinity) x.forEach((value, k) => { largest.set(pieceOf(k), Math.max(largest.get(pieceOf(k)) ?? 0, Math.abs(value))) })
  return Array.from({ length: output }, (_, j) => {
    let [value, bound, size] = [bias[j] ?? 0, 0, Math.abs(bias[j] ?? 0)]
    for (let k = 0; k < input; k++) {
      const weightHere = w[j * input + k]!
      value += x[k]! * weightHere
      size += Math.abs(x[k]! * weightHere)
      if (steps === Infinity) continue
      bound += Math.abs(weightHere) * largest.get(pieceOf(k))! * 0.5 / steps
      if (weight instanceof Tensor || weight.format !== 'nf4') continue
      bound += Math.abs(x[k]!) * Math.abs(scales[Math.floor((j * input + k) / block)]!) * 1.6e-5
    }
    return { value, bound: 1.001 * bound + 1e-6 * size }
  })
}

describe.each(cpu.isas)('%s', (name) => {
  test.each(cases)('$name', async (one) => {
    const { input, output, bias } = one
    const rows = 16
    cpu.isa = name
    const weight = one.weight(draw([output, input], `weight ${one.name}`, one.name.startsWith('bf') ? 'bfloat16' : 'float32'))
    const added = bias ? draw([output], 'bias') : null
    const [w, b, scales] = [await stored(weight), added ? await numbersOf(added) : [], weight instanceof Tensor ? [] : await numbersOf(weight.scales)]
    for (const dtype of ['float32', 'bfloat16'] as const) {
      const x = draw([rows, input], `x ${one.name}`, dtype)
      const xs = await numbersOf(x)
      cpu.threads = 1
      const all = await compute(() => multiply(x, weight, added))
      const numbers = toNumbers(all)
      for (let r = 0; r < rows; r++) {
        exact(xs.slice(r * input, (r + 1) * input), w, b, one, weight, scales).forEach(({ value, bound }, j) => {
          const rounding = dtype === 'bfloat16' ? Math.abs(value) * 2 ** -8 : 0
          expect(Math.abs(numbers[r * output + j]! - value)).toBeLessThanOrEqual(bound + rounding)
        })
      }
      cpu.threads = 2
      expect(sameBits(await compute(() => multiply(x, weight, added)), all), 'two threads').toBe(true)
      for (const [begin, count] of [[0, 1], [15, 1], [3, 2], [1, 3], [5, 4], [2, 5], [9, 7], [4, 12], [0, 13]] as const) {
        const part = Tensor.from(xs.slice(begin * input, (begin + count) * input), [count, input], { dtype })
        expect(sameBits(await compute(() => multiply(part, weight, added)), all.slice(begin * output, (begin + count) * output)), `rows ${begin} to ${begin + count - 1}`).toBe(true)
        part.dispose()
      }
      x.dispose()
    }
    weight.dispose()
    added?.dispose()
  })

  test.each(cases.filter(({ input }) => input >= 64))('$name: what is not finite reaches every output of its row and no other', async (one) => {
    cpu.isa = name
    const { input, output } = one
    const weight = one.weight(draw([output, input], 'weight', one.name.startsWith('bf') ? 'bfloat16' : 'float32'))
    for (const wrong of [NaN, Infinity, -Infinity]) {
      const x = draw([3, input], 'x')
      const xs = await numbersOf(x)
      xs[input + input - 1] = wrong
      const y = toNumbers(await compute(() => multiply(Tensor.from(xs, [3, input]), weight, null)))
      expect(y.map(Number.isFinite)).toEqual(Array.from({ length: 3 * output }, (_, i) => Math.floor(i / output) !== 1))
      x.dispose()
    }
    expect(new Set(toNumbers(await compute(() => multiply(Tensor.zeros([2, input]), weight, null))).map(Math.abs))).toEqual(new Set([0]))
    weight.dispose()
  })

  test('a block of zeros and a scale that is not finite', async () => {
    cpu.isa = name
    const weight = quantize(Tensor.zeros([4, 128]))
    expect(toNumbers(await compute(() => multiply(Tensor.ones([1, 128]), weight, null)))).toEqual([0, 0, 0, 0])
    const scales = await numbersOf(weight.scales)
    scales[3] = NaN
    cpu.native.write(weight.scales.handle, new Uint8Array(Float32Array.from(scales).buffer))
    expect(toNumbers(await compute(() => multiply(Tensor.ones([1, 128]), weight, null)))).toEqual([0, NaN, 0, 0])
    weight.dispose()
  })
})

describe('while decoding', () => {
  test('products with float32 weights, and those of several steps of a transposed weight, keep their bits; an activation is applied', async () => {
    const [x, w, half] = [draw([3, 130], 'x'), draw([40, 130], 'w'), draw([130, 40], 'half', 'bfloat16')]
    for (const body of [() => linear(x, w), () => linear(x, half, null, { transposedWeight: true })]) {
      expect(sameBits(await compute(() => decoding(body)), await compute(body))).toBe(true)
    }
    const own = draw([40, 130], 'own', 'bfloat16')
    const [plain, gelu] = [toNumbers(await compute(() => decoding(() => linear(x, own)))), toNumbers(await compute(() => decoding(() => linear(x, own, null, { activation: 'gelu' }))))]
    const usual = toNumbers(await compute(() => linear(x, own, null, { activation: 'gelu' })))
    expect(gelu).not.toEqual(plain)
    gelu.forEach((value, i) => { expect(Math.abs(value - usual[i]!)).toBeLessThan(1e-4) })
  })

  test('a low-rank adapter stands around the same products', async () => {
    const [x, a, b] = [draw([2, 128], 'x'), draw([4, 128], 'a'), draw([24, 4], 'b')]
    for (const weight of [draw([24, 128], 'w', 'bfloat16'), quantize(draw([24, 128], 'w'))]) {
      const run = () => loraLinear(x, weight, a, b, { scale: 0.5 })
      const [decoded, usual] = [toNumbers(await compute(() => decoding(run))), toNumbers(await compute(run))]
      expect(decoded).not.toEqual(usual)
      const largest = Math.max(...usual.map(Math.abs))
      decoded.forEach((value, i) => { expect(Math.abs(value - usual[i]!)).toBeLessThan(1e-3 * largest) })
    }
  })

  test('wrong arguments are refused', () => {
    const { kernels } = cpu
    const [x, y, w] = [Tensor.zeros([2, 64]), Tensor.zeros([2, 3]), Tensor.zeros([3, 64], { dtype: 'bfloat16' })]
    const { codes, scales } = quantize(Tensor.zeros([3, 64]))
    const wrong: [() => void, string][] = [
      [() => { kernels.decode_matmul(y.handle, x.handle, Tensor.zeros([3, 64]).handle, 0, 0) }, 'weight must be bf16'],
      [() => { kernels.decode_matmul(y.handle, x.handle, Tensor.zeros([4, 64], { dtype: 'bfloat16' }).handle, 0, 0) }, 'weight must have shape [3, 64]'],
      [() => { kernels.decode_matmul(Tensor.zeros([1, 3]).handle, x.handle, w.handle, 0, 0) }, 'y must have the rows of x, 2, but has 1'],
      [() => { kernels.decode_matmul(y.handle, x.handle, w.handle, Tensor.zeros([4]).handle, 0) }, 'bias must have shape [3]'],
      [() => { kernels.decode_matmul(y.handle, x.handle, w.handle, 0, 99) }, 'unknown activation 99'],
      [() => { kernels.decode_quantized_matmul(y.handle, Tensor.zeros([2, 64], { dtype: 'float16' }).handle, codes.handle, scales.handle, 0, 0, 0) }, 'x must be f32 or bf16'],
      [() => { kernels.decode_quantized_matmul(Tensor.zeros([2, 5]).handle, x.handle, codes.handle, scales.handle, 0, 0, 0) }, 'codes must have shape'],
    ]
    for (const [call, message] of wrong) expect(call).toThrow(message)
  })
})
