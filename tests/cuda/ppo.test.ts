// Proves that PPO through the CUDA kernels draws the answers that it draws on the CPU, and updates policy and value model the same.
import { afterEach, expect, test } from 'vitest'
import { join } from 'node:path'
import { ppo } from '../../src/methods/reinforcement/ppo/ppo.ts'
import { rewardEach } from '../../src/rewards/index.ts'
import { cpu, setDefaultDevice, type Device } from '../../src/tensor/index.ts'
import { temporaryFolder } from '../files/helpers.ts'
import { logOf } from '../methods/preference/support.ts'
import { makeModel } from '../methods/support.ts'
import { relative, weightsOf } from '../train/support.ts'
import { tested } from './device.ts'

const before = setDefaultDevice(cpu)
afterEach(() => { setDefaultDevice(before) })

test.each([['a value model of its own', {}], ['values on the policy\'s layers', { valueModel: 'shared' }]])('PPO with %s is the same on both devices', async (_, options) => {
  const folder = temporaryFolder()
  setDefaultDevice(cpu)
  await makeModel(join(folder, 'model'))
  const train = async (device: Device) => {
    setDefaultDevice(device)
    const answers: string[] = []
    const run = await ppo({
      model: join(folder, 'model'), outputDir: temporaryFolder(), reportTo: [], saveStrategy: 'no', loggingSteps: 1, responseLength: 4, temperature: 0.9, perDeviceTrainBatchSize: 4, numPpoEpochs: 2,
      learningRate: 1e-2, adamEpsilon: 1e-3, klCoef: 0.1, maxSteps: 2, bf16: false, ...options,
      rows: ['the cat', 'a dog', 'my friend', 'one bird'].map((prompt) => ({ prompt })),
      rewards: [rewardEach('first', ({ completionIds }) => { answers.push(Array.from(completionIds).join()); return completionIds[0]! / 100 })],
    })
    expect(run.model.device).toBe(device)
    // The trainer's model is policy and value model together.
    const { model } = run.trainer.task
    const logs = await logOf(run)
    const weights = await weightsOf(model)
    run.dispose()
    run.model.dispose()
    return { answers: answers.sort(), logs, weights }
  }
  const [expected, actual] = [await train(cpu), await train(tested)]
  expect(expected.answers).toHaveLength(4)
  expect(actual.answers).toEqual(expected.answers)
  // The second pass over the same answers is off-policy.
  expect(Math.abs(expected.logs[1]!['approxKl']!)).toBeGreaterThan(1e-4)
  expected.logs.forEach((log, step) => {
    for (const name of ['loss', 'policyLoss', 'valueLoss', 'gradNorm', 'entropy', 'reward', 'kl', 'ratio', 'approxKl']) {
      expect(Math.abs(actual.logs[step]![name]! - log[name]!), `${name} of step ${step}`).toBeLessThan(1e-4 * Math.max(1, Math.abs(log[name]!)))
    }
  })
  expect([...actual.weights.keys()].some((name) => name.includes('value'))).toBe(true)
  for (const [name, values] of actual.weights) expect(relative(values, expected.weights.get(name)!), name).toBeLessThan(1e-3)
})
