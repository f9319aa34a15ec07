// Output layers with vocabularies of several blocks: what is taken block by block equals what is taken of whole rows of logits.
import { describe, expect, test } from 'vitest'
import { add, crossEntropy, linear, linearCrossEntropy, linearLogprob, mul, selectiveLogSoftmax, sum, tanh, toDtype, topK } from '../../src/ops/index.ts'
import { autocast, backward, cpu, Tensor } from '../../src/tensor/index.ts'
import { randomNumbers } from '../cases/random.ts'

const [tokens, width, vocabulary] = [1100, 24, 9001]
const random = randomNumbers('linear head')
const floats = (count: number, scale: number, offset: (i: number) => number = () => 0): Float32Array => Float32Array.from({ length: count }, (_, i) => scale * (2 * random() - 1) + offset(i))
const hidden = floats(tokens * width, 1)
const weight = floats(vocabulary * width, 1)
// Logits that rise through the vocabulary, so that each block has a larger one than those before.
const rising = floats(vocabulary, 1, (v) => v / 1000)
const labels = Int32Array.from({ length: tokens }, (_, t) => t % 5 === 3 ? -100 : Math.floor(random() * vocabulary))
const counted = labels.filter((label) => label !== -100).length

type Dtype = 'float32' | 'bfloat16'
const inputs = (dtype: Dtype, bias: Float32Array | null, trainsWeight: boolean) => {
  const tensor = (values: Float32Array, shape: number[]) => toDtype(Tensor.from(values, shape, { device: cpu }), dtype)
  return {
    hidden: tensor(hidden, [tokens, width]).requiresGrad_(), weight: tensor(weight, [vocabulary, width]).requiresGrad_(trainsWeight),
    bias: bias && Tensor.from(bias, [vocabulary], { device: cpu }), labels: Tensor.from(labels, [tokens], { dtype: 'int32', device: cpu }),
  }
}
/** Whole logits, as float32. */
function logitsOf({ hidden, weight, bias }: ReturnType<typeof inputs>, softCap: number): Tensor {
  const plain = linear(toDtype(hidden, 'float32'), toDtype(weight, 'float32'), bias)
  return softCap > 0 ? mul(tanh(mul(plain, 1 / softCap)), softCap) : plain
}
const numbers = async (x: Tensor): Promise<number[]> => Array.from(await toDtype(x, 'float32').data(), Number)
const largest = (x: readonly number[]): number => x.reduce((most, value) => Math.max(most, Math.abs(value)), 0)
/** The largest difference beside the largest number. */
const apart = (x: readonly number[], y: readonly number[]): number => largest(x.map((value, i) => value - y[i]!)) / largest(y)

describe.each([
  { name: 'float32', dtype: 'float32', bias: null, softCap: 0, close: 2e-5 },
  { name: 'rising logits', dtype: 'float32', bias: rising, softCap: 0, close: 2e-5 },
  { name: 'a soft cap', dtype: 'float32', bias: rising, softCap: 4, close: 2e-5 },
  { name: 'bfloat16', dtype: 'bfloat16', bias: rising, softCap: 0, close: 1e-2 },
] as const)('$name', ({ dtype, bias, softCap, close }) => {
  test('cross-entropy with a frozen weight: loss, hits and gradient', async () => {
    const plain = inputs(dtype, bias, false)
    const logits = logitsOf(plain, softCap)
    const nll = crossEntropy(logits, plain.labels)
    backward(mul(sum(nll), 1 / counted))
    const expected = { nll: await numbers(nll), gradient: await numbers(plain.hidden.grad!) }
    const first = await numbers(topK(logits.detach(), 1).index)
    const hits = Array.from(labels, (label, t) => label === first[t] ? 1 : 0)
    const blocks = inputs(dtype, bias, false)
    const result = linearCrossEntropy(blocks.hidden, blocks.weight, blocks.labels, { bias: blocks.bias, softCap, numItems: counted })
    backward(result.loss)
    expect(apart(await numbers(result.nll), expected.nll)).toBeLessThan(close)
    expect(await numbers(result.correct)).toEqual(hits)
    expect(apart(await numbers(blocks.hidden.grad!), expected.gradient)).toBeLessThan(close)
    // Chunks of whole rows, which a trained weight needs, say the same.
    const chunks = inputs(dtype, bias, true)
    const whole = linearCrossEntropy(chunks.hidden, chunks.weight, chunks.labels, { bias: chunks.bias, softCap, numItems: counted })
    backward(whole.loss)
    expect(await numbers(whole.nll)).toEqual(await numbers(result.nll))
    expect(await numbers(whole.correct)).toEqual(hits)
    expect(apart(await numbers(chunks.hidden.grad!), expected.gradient)).toBeLessThan(close)
  })

  test('log-probabilities: to the bit in float32, and the gradients of all', async () => {
    const [plain, blocks] = [inputs(dtype, bias, true), inputs(dtype, bias, true)]
    const whole = selectiveLogSoftmax(logitsOf(plain, softCap), plain.labels, { temperature: 0.7 })
    const result = linearLogprob(blocks.hidden, blocks.weight, blocks.labels, { bias: blocks.bias, softCap, temperature: 0.7 })
    for (const kind of ['logprob', 'entropy'] as const) {
      const [got, wanted] = [await numbers(result[kind]), await numbers(whole[kind])]
      if (dtype === 'float32' && softCap === 0) expect(got.filter((_, t) => labels[t] !== -100)).toEqual(wanted.filter((_, t) => labels[t] !== -100))
      else expect(apart(got.map((x, t) => labels[t] === -100 ? 0 : x), wanted.map((x, t) => labels[t] === -100 ? 0 : x))).toBeLessThan(close)
    }
    const score = ({ logprob, entropy }: { logprob: Tensor, entropy: Tensor }) => add(sum(logprob), mul(sum(entropy), 0.3))
    backward(score(whole))
    backward(score(result))
    for (const name of ['hidden', 'weight'] as const) expect(apart(await numbers(blocks[name].grad!), await numbers(plain[name].grad!))).toBeLessThan(2 * close)
  })
})

test('the gradient of tokens that are certain, whose p - 1 is all there is of it', async () => {
  // Each token's hidden state points at its label's row, so that p is 1 but for 1e-5 or so.
  const certain = Tensor.from(Float32Array.from({ length: 40 * width }, (_, i) => {
    const label = 200 * Math.floor(i / width)
    return 3 * weight[label * width + i % width]!
  }), [40, width], { device: cpu })
  const target = Tensor.from(Int32Array.from({ length: 40 }, (_, t) => 200 * t), [40], { dtype: 'int32', device: cpu })
  const gradient = async (trainsWeight: boolean, softCap: number, dtype: Dtype): Promise<number[]> => {
    const [h, w] = [certain.detach().requiresGrad_(), toDtype(Tensor.from(weight, [vocabulary, width], { device: cpu }), dtype).requiresGrad_(trainsWeight)]
    autocast(dtype, () => { backward(linearCrossEntropy(h, w, target, { softCap, numItems: 40 }).loss) })
    return await numbers(h.grad!)
  }
  for (const softCap of [0, 30]) {
    expect(apart(await gradient(false, softCap, 'float32'), await gradient(true, softCap, 'float32'))).toBeLessThan(1e-4)
    expect(apart(await gradient(false, softCap, 'bfloat16'), await gradient(true, softCap, 'bfloat16'))).toBeLessThan(3e-2)
  }
})

test('a label that is suppressed has an infinite loss and a finite gradient', async () => {
  const bias = Tensor.from(Float32Array.from({ length: vocabulary }, (_, v) => v === 5000 ? -Infinity : 0), [vocabulary], { device: cpu })
  const target = Tensor.from(Int32Array.of(5000, 3), [2], { dtype: 'int32', device: cpu })
  const gradient = async (trainsWeight: boolean): Promise<number[]> => {
    const h = Tensor.from(hidden.slice(0, 2 * width), [2, width], { device: cpu }).requiresGrad_()
    const result = linearCrossEntropy(h, Tensor.from(weight, [vocabulary, width], { device: cpu }).requiresGrad_(trainsWeight), target, { bias })
    backward(result.loss)
    expect((await numbers(result.nll))[0]).toBe(Infinity)
    return await numbers(h.grad!)
  }
  expect(apart(await gradient(false), await gradient(true))).toBeLessThan(2e-5)
})

test('a bias that suppresses the first blocks leaves no mark', async () => {
  const suppressing = Float32Array.from({ length: vocabulary }, (_, v) => v < 8192 ? -Infinity : 0)
  const { hidden: h, weight: w, bias } = inputs('float32', suppressing, false)
  const target = Tensor.from(labels.map((label) => label === -100 ? -100 : 8192 + label % 800), [tokens], { dtype: 'int32', device: cpu })
  const result = linearCrossEntropy(h, w, target, { bias, numItems: counted })
  backward(result.loss)
  const rest = inputs('float32', null, false)
  const tail = Tensor.from(weight.slice(8192 * width), [vocabulary - 8192, width], { device: cpu })
  const alone = linearCrossEntropy(rest.hidden, tail, Tensor.from(labels.map((label) => label === -100 ? -100 : label % 800), [tokens], { dtype: 'int32', device: cpu }), { numItems: counted })
  backward(alone.loss)
  expect(apart(await numbers(result.nll), await numbers(alone.nll))).toBeLessThan(1e-6)
  expect(apart(await numbers(h.grad!), await numbers(rest.hidden.grad!))).toBeLessThan(1e-6)
})
