// Proves that steps of DPO and TPO through the CUDA kernels, with a reference in memory, give the losses, rewards and weights that they give on the CPU.
import { afterEach, expect, test } from 'vitest'
import { dpo, tpo, type TpoOptions } from '../../src/methods/preference/index.ts'
import { cpu, setDefaultDevice, type Device } from '../../src/tensor/index.ts'
import { temporaryFolder } from '../files/helpers.ts'
import { logOf, preferences, setting } from '../methods/preference/support.ts'
import { relative, weightsOf } from '../train/support.ts'
import { tested } from './device.ts'

const triples = preferences.slice(0, 8).map((row) => ({ ...row, reference: row.chosen }))

const before = setDefaultDevice(cpu)
afterEach(() => { setDefaultDevice(before) })

type Common = Omit<TpoOptions, 'lossType' | 'tpoAlpha' | 'tpoLGamma'>

test.each([
  ['DPO with the sigmoid loss', (options: Common) => dpo(options), ['entropy']],
  ['DPO with a mixture of losses, desensitised to lengths', (options: Common) => dpo({ ...options, lossType: ['sigmoid', 'sft'], lossWeights: [1, 0.5], ldAlpha: 0.5 }), ['entropy']],
  ['TPO', (options: Common) => tpo(options), ['nll_loss']],
] as const)('%s is the same on both devices', async (_, method, own) => {
  setDefaultDevice(cpu)
  const { model, files } = await setting(triples)
  const train = async (device: Device) => {
    setDefaultDevice(device)
    const run = await method({
      model, files, outputDir: temporaryFolder(), reportTo: [], saveStrategy: 'no', loggingSteps: 1, maxLength: 60, perDeviceTrainBatchSize: 4, learningRate: 1e-2, adamEpsilon: 1e-3, beta: 0.5,
      maxSteps: 2, bf16: false,
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
    for (const name of ['loss', 'gradNorm', 'rewards/margins', 'rewards/chosen', 'logps/rejected', ...own]) {
      expect(Math.abs(actual.logs[step]![name]! - log[name]!), `${name} of step ${step}`).toBeLessThan(1e-4 * Math.max(1, Math.abs(log[name]!)))
    }
  })
  for (const [name, values] of actual.weights) expect(relative(values, expected.weights.get(name)!), name).toBeLessThan(1e-3)
})
