// Proves that the optimizer's kernels treat lists of parameters as calls of their own do, and that a step has few launches however many parameters there are.
import { afterEach, describe, expect, test } from 'vitest'
import { AdamW } from '../../src/optim/index.ts'
import { mul, sum } from '../../src/ops/index.ts'
import { ones, Parameter } from '../../src/nn/index.ts'
import { backward, scope } from '../../src/tensor/index.ts'
import type { DType } from '../../src/tensor/index.ts'
import { runOn } from '../ops/adapterKernels.ts'
import { describeParameterLists } from '../ops/parameterLists.ts'
import { on, tested } from './device.ts'

describeParameterLists(runOn((body) => { on(tested, body) }))

const live: { dispose(): void }[] = []
afterEach(() => { for (const one of live.splice(0)) one.dispose() })

describe('launches of a step', () => {
  /** Launches of the second step of AdamW over so many parameters. */
  async function launches(count: number, dtype: DType, stateBits: 32 | 8): Promise<number> {
    const parameters = Array.from({ length: count }, (_, i) => {
      const parameter = new Parameter(i % 2 ? [64, 80] : [80], ones)
      parameter.initialise(`p${i}`, 0, dtype, tested)
      return parameter
    })
    const optimizer = new AdamW(parameters.map((parameter, i) => [`p${i}`, parameter] as const), { stateBits })
    live.push(optimizer, ...parameters)
    let before = 0
    for (let step = 0; step < 2; step++) {
      for (const parameter of parameters) scope(() => { backward(sum(mul(parameter.tensor, 2))) })
      before = await tested.launches()
      await optimizer.step({ learningRate: 0.1, maxGradNorm: 1 })
    }
    return await tested.launches() - before
  }

  test.each([['float32', 32, 4], ['bfloat16', 32, 4], ['bfloat16', 8, 5]] as const)('%s parameters, %d-bit moments', async (dtype, bits, most) => {
    expect(await launches(20, dtype, bits)).toBe(most)
  })

  test('of 148 parameters, as GPT-2 has them', async () => {
    expect(await launches(148, 'float32', 32)).toBe(7)
  })
})
