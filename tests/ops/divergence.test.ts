// Proves the divergences against TRL's GKD in float64, and those from recorded distributions against the live ones and their stated bounds.
import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { ShapeError } from '../../src/errors.ts'
import { linearDivergence, linearTopDivergence, logitsDivergence, logitsTopDivergence } from '../../src/ops/index.ts'
import { backward, Tensor } from '../../src/tensor/index.ts'
import { randomNumbers } from '../cases/random.ts'

interface Golden {
  jsd: { student: number[], teacher: number[], labels: number[], shape: [number, number], cases: { beta: number, temperature: number, loss: number, gradient: number[] }[] }
}
const { jsd } = JSON.parse(readFileSync(new URL('../recorded/distillation/golden.json', import.meta.url), 'utf8')) as Golden
const float64 = { dtype: 'float64' } as const
const difference = (a: readonly number[], b: readonly number[]): number => Math.max(...a.map((x, i) => Math.abs(x - b[i]!)))

/** Random numbers of a shape. */
function draw(name: string, shape: readonly number[], scale = 2): Tensor {
  const random = randomNumbers(name)
  return Tensor.from(Float64Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => scale * (2 * random() - 1)), shape, float64)
}

const identity = (size: number): Tensor => Tensor.from(Float64Array.from({ length: size * size }, (_, i) => i % (size + 1) === 0 ? 1 : 0), [size, size], float64)

describe('against TRL', () => {
  // generalized_jsd_loss takes logits and labels that are aligned already.
  test.each(jsd.cases)('beta $beta, temperature $temperature', async ({ beta, temperature, loss, gradient }) => {
    const [rows, vocabulary] = jsd.shape
    const student = Tensor.from(jsd.student, [rows, vocabulary], float64).requiresGrad_()
    const teacher = Tensor.from(jsd.teacher, [rows, vocabulary], float64)
    const labels = Tensor.from(jsd.labels, [rows], { dtype: 'int32' })
    const count = jsd.labels.filter((label) => label !== -100).length
    const weight = identity(vocabulary)
    const result = linearDivergence({ hidden: student, weight }, { hidden: teacher, weight }, labels, { beta, temperature, softWeight: 1 / count })
    backward(result.loss)
    expect(Math.abs(await result.loss.item() - loss)).toBeLessThan(1e-12)
    expect(difference(await student.grad!.toArray(), gradient)).toBeLessThan(1e-12)
    const direct = logitsDivergence(student, teacher, labels, { beta, temperature })
    expect(difference(await direct.divergence.toArray(), await result.divergence.toArray())).toBeLessThan(1e-12)
  })
})

describe('from recorded distributions', () => {
  const [tokens, width, vocabulary] = [7, 5, 13]
  const labels = Tensor.from([3, -100, 0, 12, 5, 5, -100], [tokens], { dtype: 'int32' })
  const student = { hidden: draw('hidden', [tokens, width]), weight: draw('weight', [vocabulary, width]).requiresGrad_() }
  const teacher = { hidden: draw('teacher', [tokens, width]), weight: draw('teacher weight', [vocabulary, width]) }

  /** The teacher's k most probable tokens. */
  async function record(k: number, temperature: number) {
    const logits = await Tensor.from(await product(teacher.hidden, teacher.weight), [tokens, vocabulary], float64).toArray()
    const [ids, logprobs]: [number[], number[]] = [[], []]
    let outside = 0
    for (let t = 0; t < tokens; t++) {
      const row = logits.slice(t * vocabulary, (t + 1) * vocabulary).map((x) => x / temperature)
      const top = Math.max(...row)
      const lse = top + Math.log(row.reduce((total, x) => total + Math.exp(x - top), 0))
      const order = row.map((x, i) => [x - lse, i] as const).sort((a, b) => b[0] - a[0])
      outside = Math.max(outside, order.slice(k).reduce((total, [x]) => total + Math.exp(x), 0))
      for (const [x, i] of order.slice(0, k)) { ids.push(i); logprobs.push(x) }
    }
    return { outside, recorded: { ids: Tensor.from(ids, [tokens, k], { dtype: 'int32' }), logprobs: Tensor.from(logprobs, [tokens, k], float64) } }
  }

  async function product(a: Tensor, b: Tensor): Promise<number[]> {
    const [x, y] = [await a.toArray(), await b.toArray()]
    return Array.from({ length: tokens * vocabulary }, (_, i) => {
      const [row, column] = [Math.floor(i / vocabulary), i % vocabulary]
      return Array.from({ length: width }, (__, k) => x[row * width + k]! * y[column * width + k]!).reduce((p, q) => p + q, 0)
    })
  }

  /** The loss, the divergences and the gradient of the student's logits, which an identity as weight shows. */
  async function run(compute: (layer: { hidden: Tensor, weight: Tensor }) => ReturnType<typeof linearDivergence>) {
    const logits = Tensor.from(await product(student.hidden, student.weight), [tokens, vocabulary], float64).requiresGrad_()
    const { loss, divergence: each } = compute({ hidden: logits, weight: identity(vocabulary) })
    backward(loss)
    return { loss: await loss.item(), divergence: await each.toArray(), gradient: await logits.grad!.toArray() }
  }

  test.each([0, 0.1, 0.5, 1].flatMap((beta) => [1, 3].flatMap((temperature) => (['bucket', 'renormalise'] as const).map((tail) => ({ beta, temperature, tail })))))(
    'of the whole vocabulary they are the live ones: beta $beta, temperature $temperature, $tail', async ({ beta, temperature, tail }) => {
      const { recorded } = await record(vocabulary, temperature)
      const options = { beta, temperature, hardWeight: 0.25 }
      const live = await run((layer) => linearDivergence(layer, teacher, labels, options))
      const own = await run((layer) => linearTopDivergence(layer, recorded, labels, { ...options, tail }))
      expect(Math.abs(live.loss - own.loss)).toBeLessThan(1e-12)
      expect(difference(live.gradient, own.gradient)).toBeLessThan(1e-12)
    })

  test.each([1, 3, 8])('of the %i most probable tokens: within the stated bounds', async (k) => {
    const temperature = 1.5
    const { outside, recorded } = await record(k, temperature)
    for (const tail of ['bucket', 'renormalise'] as const) {
      const live = await run((layer) => linearDivergence(layer, teacher, labels, { temperature }))
      const own = await run((layer) => linearTopDivergence(layer, recorded, labels, { temperature, tail }))
      for (let t = 0; t < tokens; t++) {
        const row = (x: readonly number[]): readonly number[] => x.slice(t * vocabulary, (t + 1) * vocabulary)
        const distance = row(own.gradient).reduce((total, x, i) => total + Math.abs(x - row(live.gradient)[i]!), 0)
        expect(distance).toBeLessThanOrEqual(2 * outside / temperature + 1e-12)
        if (tail === 'bucket') expect(own.divergence[t]).toBeLessThanOrEqual(live.divergence[t]! + 1e-12)
      }
    }
  })

  test('logits do for an output layer', async () => {
    const { recorded } = await record(4, 1)
    const logits = Tensor.from(await product(student.hidden, student.weight), [tokens, vocabulary], float64)
    const options = { beta: 0.2, hardWeight: 0.5 }
    expect(await logitsTopDivergence(logits, recorded, labels, options).loss.item()).toBeCloseTo(await linearTopDivergence(student, recorded, labels, options).loss.item(), 12)
  })

  test('between the ends of beta the mixture is finite without mass on the tail', async () => {
    const { recorded } = await record(3, 1)
    const { loss, gradient } = await run((layer) => linearTopDivergence(layer, recorded, labels, { beta: 0.5, tail: 'renormalise' }))
    expect([loss, ...gradient].every(Number.isFinite)).toBe(true)
  })

  test('bad arguments are refused by name', async () => {
    const { recorded } = await record(3, 1)
    expect(() => linearDivergence(student, teacher, labels, { temperature: 0 })).toThrow(/temperature must be above 0/)
    expect(() => linearDivergence(student, teacher, labels, { beta: 1.5 })).toThrow(/beta must be from 0/)
    expect(() => linearTopDivergence(student, recorded, labels, { beta: 1, tail: 'renormalise' })).toThrow(/reverse KL is infinite/)
    expect(() => linearTopDivergence(student, recorded, labels, { vocabulary: 2 })).toThrow(ShapeError)
    expect(() => linearDivergence({ ...student, hidden: teacher.weight }, teacher, labels)).toThrow(/student\.hidden must have shape \[7/)
  })
})

test('rows of a vocabulary that only one has count for nothing', async () => {
  const [tokens, width] = [4, 6]
  const labels = Tensor.from([0, 3, -100, 8], [tokens], { dtype: 'int32' })
  const [hidden, weight, bias] = [draw('h', [tokens, width]), draw('w', [9, width]), draw('b', [9])]
  const teacher = { hidden: draw('th', [tokens, width]), weight: draw('tw', [9, width]) }
  const padded = Tensor.from([...await weight.toArray(), ...Array<number>(2 * width).fill(50)], [11, width], float64).requiresGrad_()
  const paddedBias = Tensor.from([...await bias.toArray(), 9, 9], [11], float64)
  const options = { beta: 0.3, temperature: 2, hardWeight: 0.5 }
  const plain = linearDivergence({ hidden, weight, bias }, teacher, labels, options)
  const wide = linearDivergence({ hidden, weight: padded, bias: paddedBias }, teacher, labels, options)
  expect(await wide.loss.item()).toBeCloseTo(await plain.loss.item(), 12)
  backward(wide.loss)
  expect((await padded.grad!.toArray()).slice(9 * width)).toEqual(Array<number>(2 * width).fill(0))
})
