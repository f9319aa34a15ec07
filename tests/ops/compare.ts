// Running an operation forward and backward, and comparing tensors.
import { expect } from 'vitest'
import { backwardAll, defaultDevice, scope, Tensor } from '../../src/tensor/index.ts'
import type { DType, TypedArray } from '../../src/tensor/index.ts'
import { makeInputs, roundToBfloat16 } from '../cases/case.ts'
import type { OpCase } from '../cases/case.ts'
import { randomNumbers } from '../cases/random.ts'

export interface Result { readonly what: string; readonly shape: readonly number[]; readonly numbers: TypedArray }

/** The results of a case in a dtype, and the gradients of its inputs for one arbitrary gradient of the results. */
export async function evaluate(opCase: OpCase, dtype: DType, around: (body: () => void) => void = (body) => { body() }): Promise<Result[]> {
  const inputs = makeInputs(opCase, dtype)
  const device = defaultDevice()
  const pending: Promise<Result>[] = []
  const read = (what: string, tensor: Tensor): void => { pending.push(tensor.data().then((numbers) => ({ what, shape: tensor.shape, numbers }))) }
  scope(() => {
    around(() => {
      const result = opCase.run(...inputs)
      const outputs = result instanceof Tensor ? [result] : result
      outputs.forEach((output, i) => { read(`result ${i}`, output) })
      const differentiable = outputs.filter((output) => output.node)
      if (differentiable.length === 0) return
      backwardAll(differentiable, differentiable.map((output, i) => {
        const random = randomNumbers(`gradient of ${opCase.op} ${opCase.name} ${i}`)
        const numbers = Float64Array.from({ length: output.size }, () => roundToBfloat16(2 * random() - 1))
        return Tensor.from(numbers, output.shape, { dtype: output.dtype })
      }))
    })
    inputs.forEach((input, i) => { if (input.requiresGrad) read(`gradient ${i}`, input.grad!) })
  })
  for (const input of inputs) input.dispose()
  try {
    return await Promise.all(pending)
  } finally {
    // A failure is reported by one reading; the next test starts afresh.
    await device.fence().catch(() => undefined)
  }
}

export const toNumbers = (array: TypedArray): number[] => Array.from(array as ArrayLike<number | bigint>, Number)

/** The numbers of a tensor that `body` makes; everything made is released. */
export async function compute(body: () => Tensor): Promise<TypedArray> {
  const pending: Promise<TypedArray>[] = []
  scope(() => { pending.push(body().data()) })
  return pending[0]!
}

/** The largest difference over the largest number of the reference; over 0.1 where that is less, as the inputs are about 1 and may cancel. */
export function normalisedError(actual: TypedArray, reference: TypedArray): number {
  let [difference, largest] = [0, 0.1]
  for (let i = 0; i < reference.length; i++) {
    const [a, b] = [Number(actual[i]), Number(reference[i])]
    if (Object.is(a, b) || a === b) continue
    difference = Math.max(difference, Number.isNaN(a - b) ? Infinity : Math.abs(a - b))
    largest = Math.max(largest, Math.abs(b))
  }
  return difference / largest
}

export function expectClose(actual: readonly Result[], reference: readonly Result[], tolerance: number): void {
  expect(actual.map(({ what }) => what)).toEqual(reference.map(({ what }) => what))
  reference.forEach(({ what, shape, numbers }, i) => {
    expect(actual[i]!.shape, `shape of ${what}`).toEqual(shape)
    expect(normalisedError(actual[i]!.numbers, numbers), what).toBeLessThanOrEqual(tolerance)
  })
}

/** Whether two arrays hold the same bits, NaN and -0 included. */
export const sameBits = (a: TypedArray, b: TypedArray): boolean =>
  a.byteLength === b.byteLength && Buffer.compare(Buffer.from(a.buffer, a.byteOffset, a.byteLength), Buffer.from(b.buffer, b.byteOffset, b.byteLength)) === 0

export function expectSameBits(actual: readonly Result[], reference: readonly Result[]): void {
  reference.forEach(({ what, numbers }, i) => { expect(sameBits(actual[i]!.numbers, numbers), `${what} has the same bits`).toBe(true) })
}
