// Proves that every kernel runs where a block has the 99 KB of shared memory that sm_86, sm_89 and sm_120 give it, not the 163 KB of sm_80 or the 227 KB of
// sm_90; that the operation is named where even less is given; and that a GPU that is too old is refused. The emulator refuses what exceeds its block.
import { beforeAll, describe, expect, test } from 'vitest'
import { label } from '../cases/case.ts'
import { fusedCases } from '../cases/index.ts'
import { attention, Spans } from '../../src/ops/index.ts'
import { autocast } from '../../src/tensor/autocast.ts'
import { cpu, device, scope, setDefaultDevice, Tensor } from '../../src/tensor/index.ts'
import type { Device } from '../../src/tensor/index.ts'
import { evaluate, expectClose } from '../ops/compare.ts'

let small: Device
beforeAll(() => {
  setDefaultDevice(cpu)
  Object.assign(process.env, { ANNEAL_SIMT_DEVICES: '2', ANNEAL_SIMT_SHARED: String(99 * 1024), ANNEAL_SIMT_COMPUTE: '75' })
  expect(() => device('simt')).toThrow(expect.objectContaining({ code: 'ERR_DEVICE', message: 'emulator has compute capability 7.5; the kernels need 8.0 (Ampere) or newer' }) as Error)
  process.env.ANNEAL_SIMT_COMPUTE = '86'
  small = device('simt')
})

/** The operations whose kernels choose or have large tiles in dynamic shared memory. */
const large = new Set(['attention', 'linear', 'linearCrossEntropy', 'quantizedMatmul', 'topK'])
const cases = fusedCases.filter(({ op, benchOnly }) => !benchOnly && large.has(op))

describe('99 KB a block', () => {
  test.each(cases.map((opCase) => ({ name: label(opCase), opCase })))('$name', async ({ opCase }) => {
    const { float32 = 1e-5, bfloat16 = 2e-2 } = opCase.tolerance ?? {}
    const reference = await evaluate(opCase, 'float64')
    try {
      setDefaultDevice(small)
      expectClose(await evaluate(opCase, 'float32'), reference, float32)
      expectClose(await evaluate(opCase, 'bfloat16'), reference, bfloat16)
      if (opCase.op === 'attention' || opCase.op === 'linear') expectClose(await evaluate(opCase, 'float32', (body) => { autocast('bfloat16', body) }), reference, bfloat16)
    } finally {
      setDefaultDevice(cpu)
    }
  })
})

test('less than a kernel needs: an error with the operation and both sizes', async () => {
  process.env.ANNEAL_SIMT_SHARED = String(64 * 1024)
  const tiny = device('simt:1')
  setDefaultDevice(tiny)
  scope(() => {
    const [q, k, v] = [0, 1, 2].map(() => Tensor.ones([20, 1, 256], { dtype: 'bfloat16' })) as [Tensor, Tensor, Tensor]
    attention(q, k, v, new Spans([{ queryBegin: 0, queryLength: 20, keyBegin: 0, keyLength: 20 }]))
  })
  setDefaultDevice(cpu)
  await expect(tiny.fence()).rejects.toMatchObject({ code: 'ERR_KERNEL', message: expect.stringMatching(/^attention: the kernel needs 98304 bytes of shared memory, but this GPU gives a block 65536$/) as string })
  await tiny.fence()
})
