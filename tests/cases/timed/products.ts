// Timed: the matrix product in each layout that a linear layer needs, the products of new tokens, quantised weights, and adapters that are merged.
import { dequantize, linear, loraLinear, mergeLora, mergeLoraQuantized, quantize, quantizedMatmul } from '../../../src/ops/index.ts'
import type { QuantizedFormat, QuantizeOptions } from '../../../src/ops/index.ts'
import { decoding } from '../../../src/tensor/index.ts'
import { quantizedNoise } from '../adapters.ts'
import { float, sharing } from '../case.ts'
import type { OpCase } from '../case.ts'
import { beside, constant, moving, single, timed } from './common.ts'

// rows, inputs, outputs
const gemmShapes = [[512, 512, 512], [1024, 768, 3072], [1024, 3072, 768], [512, 896, 4864], [512, 4864, 896], [512, 768, 50257]] as const

/** y = x W, y = x Wᵀ (a linear layer) and dW = dyᵀ x. */
const gemmCases = gemmShapes.flatMap(([m, k, n]) => ([
  ['nn', [m, k], [k, n], [m, n], false, false], ['nt', [m, k], [n, k], [m, n], false, true], ['tn', [m, n], [m, k], [n, k], true, false],
] as const).map(([layout, a, b, c, transposeA, transposeB]): OpCase => timed(
  'gemm', `${m}x${k}x${n} ${layout}`, [constant(a), constant(b)], { flops: 2 * m * k * n }, (a, b) => {
    const y = beside(a, c)
    a.device.kernels.gemm(y.handle, 0, a.handle, b.handle, 0, transposeA, transposeB, false, 0, a.dtype === 'bfloat16')
    return y
  }, { peer: { formula: 'gemm', transposeA, transposeB } },
)))

const weightNumbers = 4096 * 4096
const formats: (QuantizeOptions & { format: QuantizedFormat; bytes: number })[] = [{ format: 'nf4', bytes: 0.5 + 4 / 64 }, { format: 'int4', bytes: 0.5 + 4 / 128 }, { format: 'int8', bytes: 1 }]
const quantizeCases = formats.flatMap(({ bytes, ...options }): OpCase[] => [
  timed('quantize', `[4096, 4096] ${options.format}`, [constant([4096, 4096])], { bytes: (size) => weightNumbers * (size + bytes) }, (x) => quantize(x, options).codes),
  timed('dequantize', `[4096, 4096] ${options.format}`, [constant([4096, 4096])], { bytes: (size) => weightNumbers * (size + bytes) }, 
    sharing(() => quantizedNoise(4096, 4096, options), (weight, x) => dequantize(weight, x.dtype))),
])

// rows, inputs, outputs
const decodeShapes = [[1, 896, 4864], [4, 896, 4864], [8, 896, 4864], [16, 896, 4864], [1, 4864, 896], [1, 896, 151936]] as const
const decodeCases: OpCase[] = [
  ...decodeShapes.map(([m, k, n]) => timed('decodeMatmul', `${m}x${k}x${n}`, [constant([m, k]), constant([n, k])],
    { flops: 2 * m * k * n, bytes: (size) => k * n * size }, (x, weight) => decoding(() => linear(x, weight)), { dtypes: ['bfloat16'] })),
  ...formats.flatMap(({ bytes, ...options }) => ([[1, 4096, 4096], [1, 896, 4864], [8, 896, 4864]] as const).map(([m, k, n]) => timed(
    'decodeQuantizedMatmul', `${m}x${k}x${n} ${options.format}`, [constant([m, k])], { flops: 2 * m * k * n, bytes: () => k * n * bytes },
    sharing(() => quantizedNoise(n, k, options), (weight, x) => decoding(() => quantizedMatmul(x, weight)))))),
]

const [output, input, rank] = [4864, 896, 16]
const factors = [constant([rank, input]), constant([output, rank])]
const loraCases: OpCase[] = [
  timed('loraLinear', `512x${input}x${output} r ${rank}`, [float([512, input]), float([rank, input]), float([output, rank]), constant([output, input])],
    { flops: 2 * 512 * (input * output + rank * (input + output)) }, (x, a, b, weight) => loraLinear(x, weight, a, b, { scale: 2 }),
    { peer: { formula: 'lora_linear', scale: 2 }, backward: { flops: 2 * 512 * (input * output + 2 * rank * (input + output)) } }),
  timed('mergeLora', `${output}x${input} r ${rank}`, [...factors, constant([output, input])], moving(output * input, 2), (a, b, weight) => {
    mergeLora(weight, a, b, 1e-6)
    return weight
  }, { peer: { formula: 'merge_lora', scale: 1e-6 } }),
  timed('mergeLoraQuantized', `${output}x${input} r ${rank} nf4`, factors, { bytes: () => output * input * 2 * (0.5 + 4 / 64) }, 
    sharing(() => quantizedNoise(output, input, {}), (weight, a, b) => mergeLoraQuantized(weight, a, b, 1e-6))),
]

const mixed = timed('gemm', '1024x768x3072 nt, the weight in float32', [constant([1024, 768]), single([3072, 768], -1)], { flops: 2 * 1024 * 768 * 3072 }, (a, b) => {
  const y = beside(a, [1024, 3072])
  a.device.kernels.gemm(y.handle, 0, a.handle, b.handle, 0, false, true, false, 0, true)
  return y
}, { dtypes: ['bfloat16'] })

export const timedProducts: readonly OpCase[] = [...gemmCases, mixed, ...decodeCases, ...quantizeCases, ...loraCases]
