// Proves that blocks which walk over many rows, several at a time and each row that of several warps, compute what the CPU does: with more rows than all
// blocks of a launch take in their first round.
import { beforeAll, test } from 'vitest'
import { addLayerNorm, addRmsNorm, layerNorm, rmsNorm } from '../../src/ops/index.ts'
import { cpu, device, setDefaultDevice } from '../../src/tensor/index.ts'
import type { Device } from '../../src/tensor/index.ts'
import { float } from '../cases/case.ts'
import type { OpCase } from '../cases/case.ts'
import { evaluate, expectClose } from '../ops/compare.ts'

let simt: Device
beforeAll(() => { simt = device('simt') })

const [rows, width] = [1060, 1032]
const [x, residual, weight, bias] = [float([rows, width], { low: -2, high: 3 }), float([rows, width]), float([width], { low: 0.5, high: 1.5 }), float([width])]
const cases: OpCase[] = [
  { op: 'rmsNorm', name: 'rows', inputs: [x, weight], run: (x, weight) => rmsNorm(x, weight), forward: {} },
  { op: 'addRmsNorm', name: 'rows', inputs: [x, residual, weight], run: (x, residual, weight) => addRmsNorm(x, residual, weight), forward: {} },
  { op: 'layerNorm', name: 'rows', inputs: [x, weight, bias], run: (x, weight, bias) => layerNorm(x, weight, bias), forward: {} },
  { op: 'addLayerNorm', name: 'rows', inputs: [x, residual, weight, bias], run: (x, residual, weight, bias) => addLayerNorm(x, residual, weight, bias), forward: {} },
]

test.each(cases.map((opCase) => ({ op: opCase.op, opCase })))('$op', async ({ opCase }) => {
  setDefaultDevice(cpu)
  const reference = await evaluate(opCase, 'float32')
  try {
    setDefaultDevice(simt)
    expectClose(await evaluate(opCase, 'float32'), reference, 1e-5)
    expectClose(await evaluate(opCase, 'bfloat16'), reference, 2e-2)
  } finally {
    setDefaultDevice(cpu)
  }
})
