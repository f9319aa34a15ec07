// Proves that every fused operation equals its definition in float64, forward and backward, in each dtype, on each instruction set of this machine,
// and that the number of threads never changes a bit.
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { autocast } from '../../src/tensor/autocast.ts'
import { noBackward } from '../../src/ops/noBackward.ts'
import { cpu } from '../../src/tensor/index.ts'
import { label } from '../cases/case.ts'
import { fusedCases } from '../cases/index.ts'
import { evaluate, expectClose, expectSameBits } from './compare.ts'
import type { Result } from './compare.ts'

const [threads, isa] = [cpu.threads, cpu.isa]
afterAll(() => {
  cpu.threads = threads
  cpu.isa = isa
})

const small = fusedCases.filter(({ benchOnly }) => !benchOnly)
const halved = new Set(['linear', 'linearCrossEntropy', 'linearLogprob', 'attention', 'attentionDropout', 'quantizedMatmul', 'loraLinear'])

describe.each(small.map((opCase) => ({ name: label(opCase), opCase })))('$name', ({ opCase }) => {
  let reference: Result[]
  beforeAll(async () => { reference = await evaluate(opCase, 'float64') })
  const { float32 = 1e-5, bfloat16 = 2e-2 } = opCase.tolerance ?? {}
  const modes = [
    { mode: 'float32', dtype: 'float32', tolerance: float32, around: undefined },
    { mode: 'bfloat16', dtype: 'bfloat16', tolerance: bfloat16, around: undefined },
    ...halved.has(opCase.op) ? [{ mode: 'float32 under autocast', dtype: 'float32', tolerance: bfloat16, around: (body: () => void) => { autocast('bfloat16', body) } } as const] : [],
  ] as const
  describe.each(cpu.isas)('%s', (isa) => {
    test.each(modes)('$mode', async ({ dtype, tolerance, around }) => {
      cpu.isa = isa
      cpu.threads = 1
      const single = await evaluate(opCase, dtype, around)
      expectClose(single, reference, tolerance)
      for (const count of [2, 3]) {
        cpu.threads = count
        expectSameBits(await evaluate(opCase, dtype, around), single)
      }
    })
  })
})

test('every kernel with a gradient has a case', () => {
  const names = new Set(fusedCases.map(({ op }) => op.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)))
  const paired = Object.keys(cpu.kernels).filter((name) => !name.endsWith('_backward') && !(name in noBackward))
  expect(paired.filter((name) => !names.has(name))).toEqual([])
})
