// Proves that steps of DPO through the CUDA kernels, with a reference in memory, give the losses, rewards and weights that they give on the CPU.
import { afterEach, expect, test } from 'vitest'
import { dpo, type DpoOptions } from '../../src/methods/preference/index.ts'
import { cpu, setDefaultDevice, type Device } from '../../src/tensor/index.ts'
import { temporaryFolder } from '../files/helpers.ts'
import { logOf, preferences, setting } from '../methods/preference/support.ts'
import { relative, weightsOf } from '../train/support.ts'
import { tested } from './device.ts'

const before = setDefaultDevice(cpu)
afterEach(() => { setDefaultDevice(before) })

test.each<[string, Partial<DpoOptions>]>([
  ['the sigmoid loss', {}],
  ['a mixture of losses, desensitised to lengths', { lossType: ['sigmoid', 'sft'], lossWeights: [1, 0.5], ldAlpha: 0.5 }],
])('DPO with %s is the same on both devices', async (_, options) => {
  setDefaultDevice(cpu)
  const { model, files } = await setting(preferences.slice(0, 8))
  const train = async (device: Device) => {
    setDefaultDevice(device)
    const run = await dpo({
      model, files, outputDir: temporaryFolder(), reportTo: [], saveStrategy: 'no', loggingSteps: 1, maxLength: 60, perDeviceTrainBatchSize: 4, learningRate: 1e-2, adamEpsilon: 1e-3, beta: 0.5,
      maxSteps: 2, bf16: false, ...options,
    })
    expect(run.model.device).toBe(device)
    const logs = await logOf(run)
    const weights = await weightsOf(run.model)
    run.dispose()
    run.model.dispose()
    return { logs, weights }
  }
  const [expected, actual] = [await train(cpu), await train(tested)]
  expect(expected.logs).toHaveLength(2)
  // The first step begins at the reference; the second has margins to compare.
  expect(Math.abs(expected.logs[1]!['rewards/margins']!)).toBeGreaterThan(1e-2)
  expected.logs.forEach((log, step) => {
    for (const name of ['loss', 'gradNorm', 'rewards/margins', 'rewards/chosen', 'logps/rejected', 'entropy']) {
      expect(Math.abs(actual.logs[step]![name]! - log[name]!), `${name} of step ${step}`).toBeLessThan(1e-4 * Math.max(1, Math.abs(log[name]!)))
    }
  })
  for (const [name, values] of actual.weights) expect(relative(values, expected.weights.get(name)!), name).toBeLessThan(1e-3)
})
