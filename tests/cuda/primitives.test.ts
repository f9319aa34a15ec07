// Proves that every primitive, run by the CUDA kernels, computes what plain loops compute, and has the gradient that the CPU's has in float64.
import { describe, expect, test } from 'vitest'
import { mul, sum } from '../../src/ops/index.ts'
import { backward, cpu, scope, Tensor } from '../../src/tensor/index.ts'
import type { Device, DType, TypedArray } from '../../src/tensor/index.ts'
import { label, numbersOf } from '../cases/case.ts'
import { primitiveCases } from '../cases/primitives.ts'
import type { PrimitiveCase } from '../cases/primitives.ts'
import { randomNumbers } from '../cases/random.ts'
import { normalisedError } from '../ops/compare.ts'
import { on, tested } from './device.ts'

/** The result, and the gradients of the inputs for an arbitrary gradient of the result. */
function run(opCase: PrimitiveCase, values: readonly Float64Array[], dtype: DType, device: Device): Promise<TypedArray[]> {
  const pending: Promise<TypedArray>[] = []
  on(device, () => {
    scope(() => {
      const inputs = opCase.inputs.map((input, i) => {
        const tensor = Tensor.from(values[i]!, input.shape, { dtype: input.kind === 'integer' ? 'int32' : dtype })
        return input.kind === 'float' && input.gradient ? tensor.requiresGrad_() : tensor
      })
      const result = opCase.run(...inputs) as Tensor
      pending.push(result.data())
      if (!inputs.some(({ requiresGrad }) => requiresGrad)) return
      const random = randomNumbers(`weights ${label(opCase)}`)
      backward(sum(mul(result, Tensor.from(Array.from({ length: result.size }, () => 2 * random() - 1), result.shape, { dtype }))))
      for (const input of inputs) if (input.requiresGrad) pending.push(input.grad!.data())
    })
  })
  return Promise.all(pending)
}

describe.each(primitiveCases.map((opCase) => ({ name: label(opCase), opCase })))('$name', ({ opCase }) => {
  const values = opCase.inputs.map((input, i) => numbersOf(input, `${opCase.op} ${opCase.name} ${i}`))
  test.each([['float64', 1e-12], ['float32', 4e-6], ['bfloat16', 2e-2]] as const)('%s', async (dtype, tolerance) => {
    const reference = await run(opCase, values, 'float64', cpu)
    const actual = await run(opCase, values, dtype, tested)
    // A sum that nearly cancels is as far off on the CPU.
    const onCpu = await run(opCase, values, dtype, cpu)
    reference.forEach((numbers, i) => {
      expect(normalisedError(actual[i]!, numbers), i === 0 ? 'result' : `gradient ${i}`).toBeLessThanOrEqual(Math.max(tolerance, 1.5 * normalisedError(onCpu[i]!, numbers)))
    })
  })
})
