// Cases of products with quantised weights and of low-rank adapters.
import { loraLinear, quantize, quantizedMatmul } from '../../src/ops/index.ts'
import type { QuantizedFormat, QuantizedTensor, QuantizeOptions } from '../../src/ops/index.ts'
import { decoding, Tensor } from '../../src/tensor/index.ts'
import { float, roundToBfloat16, sharing } from './case.ts'
import type { OpCase } from './case.ts'
import { randomNumbers } from './random.ts'

/** A weight of random numbers in [-1, 1). */
export function quantizedWeight(output: number, input: number, options: QuantizeOptions): QuantizedTensor {
  const random = randomNumbers(`weight ${output} ${input}`)
  const numbers = Float32Array.from({ length: output * input }, () => roundToBfloat16(2 * random() - 1))
  using weight = Tensor.from(numbers, [output, input])
  return quantize(weight, options)
}

/** A large weight of noise. */
export function quantizedNoise(output: number, input: number, options: QuantizeOptions): QuantizedTensor {
  const full = Tensor.empty([output, input])
  full.device.kernels.random_uniform(full.handle, -1, 1, 1, 1)
  const weight = quantize(full, options)
  full.dispose()
  return weight
}

const bits: Record<QuantizedFormat, number> = { nf4: 4, fp4: 4, int4: 4, int8: 8, dynamic: 8, dynamic_unsigned: 8 }

interface Product { rows: number; input: number; output: number; options: QuantizeOptions; bias?: boolean; benchOnly?: boolean; newTokens?: boolean }
const products: Product[] = [
  ...(['nf4', 'fp4', 'int8', 'int4'] as const).map((format) => ({ rows: 3, input: 128, output: 33, options: { format, block: 64 } })),
  { rows: 1, input: 64, output: 1, options: { format: 'nf4' } },
  { rows: 0, input: 64, output: 5, options: { format: 'nf4' } },
  { rows: 1, input: 448, output: 70, options: { format: 'nf4' }, bias: true },
  { rows: 7, input: 96, output: 50, options: { format: 'int4', block: 32, zeroPoints: true }, bias: true },
  { rows: 5, input: 10, output: 20, options: { format: 'nf4', block: 2 } },
  { rows: 4, input: 77, output: 19, options: { format: 'int8' } },
  { rows: 70, input: 512, output: 100, options: { format: 'nf4' }, bias: true },
  { rows: 131, input: 256, output: 64, options: { format: 'int4', block: 128, zeroPoints: true } },
  { rows: 66, input: 120, output: 90, options: { format: 'int8', block: 24 } },
  { rows: 3, input: 128, output: 33, options: { format: 'int8', block: 64, zeroPoints: true } },
  { rows: 14, input: 192, output: 70, options: { format: 'int8', zeroPoints: true, block: 192 }, bias: true },
  { rows: 90, input: 256, output: 50, options: { format: 'int8', block: 16, zeroPoints: true } },
  { rows: 5, input: 60, output: 20, options: { format: 'int8', block: 12, zeroPoints: true } },
  ...([['nf4', [1, 8, 128, 512]], ['int4', [1]], ['int8', [1, 128]]] as const).flatMap(([format, counts]) =>
    counts.map((rows) => ({ rows, input: 4096, output: 4096, options: { format }, benchOnly: true }))),
  ...([['nf4', [1, 8]], ['int4', [1]], ['int8', [1]]] as const).flatMap(([format, counts]) =>
    counts.map((rows) => ({ rows, input: 4096, output: 4096, options: { format }, benchOnly: true, newTokens: true }))),
]

const quantizedCases = products.map(({ rows, input, output, options, bias = false, benchOnly = false, newTokens = false }): OpCase => {
  const flops = 2 * rows * input * output
  const { format = 'nf4', block = 64, zeroPoints = false } = options
  const packed = input * output * (bits[format] / 8 + 4 / block)
  return {
    op: 'quantizedMatmul', name: `${rows}x${input}x${output} ${format} by ${block}${zeroPoints ? ' with zeros' : ''}${bias ? ' bias' : ''}${newTokens ? ', new tokens' : ''}`, benchOnly,
    inputs: [float([rows, input], { gradient: !newTokens }), ...bias ? [float([output])] : []],
    ...sharing(() => (benchOnly ? quantizedNoise : quantizedWeight)(output, input, options), (weight, x, ...rest) => {
      const product = (): Tensor => quantizedMatmul(x, weight, rest[0] ?? null)
      return newTokens ? decoding(product) : product()
    }),
    // What new tokens cost is reading the weights.
    forward: { ...newTokens ? {} : { flops }, bytes: (size) => packed + rows * (input + output) * size }, backward: { flops },
  }
})

interface Adapter { name: string; rows?: number; rank?: number; weight: 'dense' | 'transposed' | 'nf4'; bias?: boolean; separate?: boolean; frozen?: boolean; float32?: boolean }
const adapters: Adapter[] = [
  { name: 'dense', weight: 'dense' },
  { name: 'a frozen weight, factors in float32', weight: 'dense', frozen: true, float32: true },
  { name: 'a transposed weight and a bias', weight: 'transposed', bias: true },
  { name: 'an input of its own', weight: 'dense', separate: true, bias: true },
  { name: 'nf4', weight: 'nf4', float32: true },
  { name: 'nf4, an input of its own and a bias', weight: 'nf4', separate: true, bias: true },
  { name: 'rank 1, one row', rows: 1, rank: 1, weight: 'dense' },
]

const loraCases = adapters.map(({ name, rows = 9, rank = 4, weight, bias = false, separate = false, frozen = false, float32 = false }): OpCase => {
  const [input, output] = [64, 37]
  const factor = float32 ? { fixed: 'float32' as const } : {}
  const dense = weight === 'nf4' ? [] : [float(weight === 'transposed' ? [input, output] : [output, input], { gradient: !frozen })]
  const shapes = [float([rows, input]), float([rank, input], factor), float([output, rank], factor), ...dense, ...bias ? [float([output])] : [], ...separate ? [float([rows, input])] : []]
  return {
    op: 'loraLinear', name, inputs: shapes, forward: { flops: 2 * rows * (input * output + rank * (input + output)) },
    ...sharing(() => {
      const quantized = weight === 'nf4' ? quantizedWeight(output, input, {}) : null
      return { quantized, dispose: () => { quantized?.dispose() } }
    }, ({ quantized }, x, a, b, ...rest) => {
      const base = quantized ?? rest.shift()!
      const options = { scale: 0.5, transposedWeight: weight === 'transposed', bias: bias ? rest.shift()! : null, adapterInput: separate ? rest.shift()! : null }
      return loraLinear(x, base, a, b, options)
    }),
  }
})

export const adapterCases: readonly OpCase[] = [...quantizedCases, ...loraCases]
