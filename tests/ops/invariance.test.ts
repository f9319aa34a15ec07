// Proves that what a row gives never depends on the rows around it: the promise behind equal losses alone and in a batch.
import { afterAll, describe, expect, test } from 'vitest'
import { autocast } from '../../src/tensor/autocast.ts'
import { crossEntropy, layerNorm, linear, linearCrossEntropy, linearLogprob, quantize, quantizedMatmul, rmsNorm, selectiveLogSoftmax, softmax } from '../../src/ops/index.ts'
import { cpu, Tensor } from '../../src/tensor/index.ts'
import type { DType, TypedArray } from '../../src/tensor/index.ts'
import { roundToBfloat16 } from '../cases/case.ts'
import { randomNumbers } from '../cases/random.ts'
import { compute, sameBits } from './compare.ts'

const [threads, isa] = [cpu.threads, cpu.isa]
afterAll(() => {
  cpu.threads = threads
  cpu.isa = isa
})

const draw = (count: number, seed: string): number[] => {
  const random = randomNumbers(seed)
  return Array.from({ length: count }, () => roundToBfloat16(2 * random() - 1))
}

const [width, vocabulary, rows] = [96, 389, 150]
const numbers = draw(rows * width, 'x')
const weights = draw(vocabulary * width, 'weight')
const logits = draw(rows * vocabulary, 'logits')
const ids = Array.from({ length: rows }, (_, i) => i * 37 % vocabulary)

/** Results of the rows begin … end - 1, and how many numbers a row gives. */
const operations: Record<string, (begin: number, end: number, dtype: DType) => Promise<TypedArray>> = {
  linear: (begin, end, dtype) => compute(() => linear(x(begin, end, dtype), w(dtype))),
  'linear with a bias and gelu': (begin, end, dtype) => compute(() => linear(x(begin, end, dtype), w(dtype), Tensor.from(draw(vocabulary, 'bias'), undefined, { dtype }), { activation: 'gelu' })),
  'linear with a transposed weight': (begin, end, dtype) => compute(() => linear(x(begin, end, dtype), Tensor.from(weights, [width, vocabulary], { dtype }), null, { transposedWeight: true })),
  'linear under autocast': (begin, end, dtype) => compute(() => autocast('bfloat16', () => linear(x(begin, end, dtype), w(dtype)))),
  'a product with NF4': (begin, end, dtype) => compute(() => quantizedMatmul(x(begin, end, dtype), quantize(w('float32'), { block: 32 }))),
  'a product with int8 and zero points': (begin, end, dtype) => compute(() => quantizedMatmul(x(begin, end, dtype), quantize(w('float32'), { format: 'int8', block: 96, zeroPoints: true }))),
  'a product with int4 and zero points': (begin, end, dtype) => compute(() => quantizedMatmul(x(begin, end, dtype), quantize(w('float32'), { format: 'int4', block: 96, zeroPoints: true }))),
  softmax: (begin, end, dtype) => compute(() => softmax(l(begin, end, dtype))),
  rmsNorm: (begin, end, dtype) => compute(() => rmsNorm(x(begin, end, dtype), Tensor.ones([width], { dtype }))),
  layerNorm: (begin, end, dtype) => compute(() => layerNorm(x(begin, end, dtype), Tensor.ones([width], { dtype }))),
  crossEntropy: (begin, end, dtype) => compute(() => crossEntropy(l(begin, end, dtype), id(begin, end), { labelSmoothing: 0.1 })),
  linearCrossEntropy: (begin, end, dtype) => compute(() => linearCrossEntropy(x(begin, end, dtype), w(dtype), id(begin, end)).nll),
  selectiveLogSoftmax: (begin, end, dtype) => compute(() => selectiveLogSoftmax(l(begin, end, dtype), id(begin, end)).logprob),
  linearLogprob: (begin, end, dtype) => compute(() => linearLogprob(x(begin, end, dtype), w(dtype), id(begin, end)).logprob),
}
const x = (begin: number, end: number, dtype: DType): Tensor => Tensor.from(numbers.slice(begin * width, end * width), [end - begin, width], { dtype })
const l = (begin: number, end: number, dtype: DType): Tensor => Tensor.from(logits.slice(begin * vocabulary, end * vocabulary), [end - begin, vocabulary], { dtype })
const w = (dtype: DType): Tensor => Tensor.from(weights, [vocabulary, width], { dtype })
const id = (begin: number, end: number): Tensor => Tensor.from(Int32Array.from(ids.slice(begin, end)))

describe.each(cpu.isas)('%s', (name) => {
  describe.each(['float32', 'bfloat16'] as const)('%s', (dtype) => {
    test.each(Object.entries(operations))('%s', async (_, run) => {
      cpu.isa = name
      cpu.threads = 2
      const all = await run(0, rows, dtype)
      const perRow = all.length / rows
      for (const [begin, end] of [[0, 1], [149, 150], [7, 9], [3, 8], [10, 27], [60, 124], [1, 150]] as const) {
        cpu.threads = 1 + begin % 3
        expect(sameBits(await run(begin, end, dtype), all.slice(begin * perRow, end * perRow)), `rows ${begin} to ${end - 1}`).toBe(true)
      }
    })
  })
})
