// Proves that online DPO through the CUDA kernels draws and ranks the answers that it does on the CPU, and updates the policy the same.
import { afterEach, expect, test } from 'vitest'
import { join } from 'node:path'
import { onlineDpo } from '../../src/methods/reinforcement/onlineDpo/onlineDpo.ts'
import { rewardEach } from '../../src/rewards/index.ts'
import { cpu, setDefaultDevice, type Device } from '../../src/tensor/index.ts'
import { temporaryFolder } from '../files/helpers.ts'
import { logOf } from '../methods/preference/support.ts'
import { makeModel } from '../methods/support.ts'
import { relative, weightsOf } from '../train/support.ts'
import { tested } from './device.ts'

const before = setDefaultDevice(cpu)
afterEach(() => { setDefaultDevice(before) })

test('two steps are the same on both devices', async () => {
  const folder = temporaryFolder()
  setDefaultDevice(cpu)
  await makeModel(join(folder, 'model'))
  const train = async (device: Device) => {
    setDefaultDevice(device)
    const answers: string[] = []
    const run = await onlineDpo({
      model: join(folder, 'model'), outputDir: temporaryFolder(), reportTo: [], saveStrategy: 'no', loggingSteps: 1, maxNewTokens: 4, perDeviceTrainBatchSize: 2, learningRate: 1e-2, adamEpsilon: 1e-3, maxSteps: 2, bf16: false,
      rows: ['the cat', 'a dog'].map((prompt) => ({ prompt })),
      rewards: [rewardEach('first', ({ completionIds }) => { answers.push(Array.from(completionIds).join()); return completionIds[0]! / 100 })],
    })
    expect(run.model.device).toBe(device)
    const logs = await logOf(run)
    const weights = await weightsOf(run.model)
    run.dispose()
    run.model.dispose()
    return { answers: answers.sort(), logs, weights }
  }
  const [expected, actual] = [await train(cpu), await train(tested)]
  expect(expected.answers).toHaveLength(8)
  expect(actual.answers).toEqual(expected.answers)
  // The first step begins at the reference; the second has margins to compare.
  expect(Math.abs(expected.logs[1]!['rewards/margins']!)).toBeGreaterThan(1e-3)
  expected.logs.forEach((log, step) => {
    for (const name of ['loss', 'gradNorm', 'rewards/chosen', 'rewards/rejected', 'logps/chosen', 'objective/kl', 'objective/scores']) {
      expect(Math.abs(actual.logs[step]![name]! - log[name]!), `${name} of step ${step}`).toBeLessThan(1e-4 * Math.max(1, Math.abs(log[name]!)))
    }
  })
  for (const [name, values] of actual.weights) expect(relative(values, expected.weights.get(name)!), name).toBeLessThan(1e-3)
})
