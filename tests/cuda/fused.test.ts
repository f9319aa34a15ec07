// Proves that every fused operation, run by the CUDA kernels, equals its definition in float64 on the CPU, forward and backward, and that running it
// again gives the same bits.
import { beforeAll, describe, expect, test } from 'vitest'
import { autocast } from '../../src/tensor/autocast.ts'
import { rmsNorm, sum } from '../../src/ops/index.ts'
import { backward, cpu, scope, Tensor } from '../../src/tensor/index.ts'
import { label } from '../cases/case.ts'
import { fusedCases } from '../cases/index.ts'
import { evaluate, expectClose, expectSameBits } from '../ops/compare.ts'
import type { Result } from '../ops/compare.ts'
import { on, tested } from './device.ts'

const small = fusedCases.filter(({ benchOnly }) => !benchOnly)
const halved = new Set(['linear', 'linearCrossEntropy', 'linearLogprob', 'attention'])

describe.each(small.map((opCase) => ({ name: label(opCase), opCase })))('$name', ({ opCase }) => {
  let reference: Result[]
  beforeAll(async () => { reference = await on(cpu, () => evaluate(opCase, 'float64')) })
  const { float32 = 1e-5, bfloat16 = 2e-2 } = opCase.tolerance ?? {}
  const modes = [
    { mode: 'float32', dtype: 'float32', tolerance: float32, around: undefined },
    { mode: 'bfloat16', dtype: 'bfloat16', tolerance: bfloat16, around: undefined },
    ...halved.has(opCase.op) ? [{ mode: 'float32 under autocast', dtype: 'float32', tolerance: bfloat16, around: (body: () => void) => { autocast('bfloat16', body) } } as const] : [],
  ] as const
  test.each(modes)('$mode', async ({ dtype, tolerance, around }) => {
    const before = tested.memory().live
    const first = await on(tested, () => evaluate(opCase, dtype, around))
    expectClose(first, reference, tolerance)
    expectSameBits(await on(tested, () => evaluate(opCase, dtype, around)), first)
    expect(tested.memory().live).toBe(before)
  })
})

test('the gradient of many rows through a norm whose weight is frozen', async () => {
  // A row has a block of its own then, and there are more blocks than counters for them.
  const rows = 61_504
  const gradient = await on(tested, async () => {
    const x = Tensor.full([rows, 4], 1).requiresGrad_()
    scope(() => { backward(sum(rmsNorm(x, Tensor.from([1, 2, 3, 4], [4]), { eps: 0 }))) })
    const numbers = await x.grad!.data()
    for (const one of [x.grad!, x]) one.dispose()
    return numbers
  })
  const expected = [-1.5, -0.5, 0.5, 1.5]
  expect(gradient.length).toBe(4 * rows)
  expect(Array.from(gradient, Number).findIndex((value, i) => !(Math.abs(value - expected[i % 4]!) < 1e-5))).toBe(-1)
})
