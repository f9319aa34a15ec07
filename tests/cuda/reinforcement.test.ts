// Proves that a step of GRPO through the CUDA kernels draws the answers that it draws on the CPU, and trains on them the same.
import { afterEach, expect, test } from 'vitest'
import { join } from 'node:path'
import { grpo } from '../../src/methods/reinforcement/policy/grpo.ts'
import { rewardEach } from '../../src/rewards/index.ts'
import { cpu, setDefaultDevice, type Device } from '../../src/tensor/index.ts'
import { temporaryFolder } from '../files/helpers.ts'
import { makeModel } from '../methods/support.ts'
import { relative, weightsOf } from '../train/support.ts'
import { tested } from './device.ts'

const before = setDefaultDevice(cpu)
afterEach(() => { setDefaultDevice(before) })

test('a GRPO step with a reference is the same on both devices', async () => {
  const folder = temporaryFolder()
  setDefaultDevice(cpu)
  await makeModel(join(folder, 'model'))
  const train = async (device: Device) => {
    setDefaultDevice(device)
    const answers: number[][] = []
    const run = await grpo({
      model: join(folder, 'model'), outputDir: temporaryFolder(), reportTo: [], saveStrategy: 'no', numGenerations: 2, perDeviceTrainBatchSize: 4, maxCompletionLength: 3, learningRate: 1e-2, adamEpsilon: 1e-3,
      maxSteps: 1, beta: 0.1, bf16: false,
      rows: [{ prompt: 'the cat' }, { prompt: 'a dog' }],
      rewards: [rewardEach('first', ({ completionIds }) => { answers.push(Array.from(completionIds)); return completionIds[0]! / 100 })],
    })
    expect(run.model.device).toBe(device)
    const logs: Record<string, number>[] = []
    run.trainer.on((event) => { if (event.type === 'log') logs.push(event.metrics) })
    await run.train()
    const weights = await weightsOf(run.model)
    run.dispose()
    run.model.dispose()
    return { answers: answers.map((one) => one.join()).sort(), log: logs[0]!, weights }
  }
  const [expected, actual] = [await train(cpu), await train(tested)]
  expect(actual.answers).toEqual(expected.answers)
  for (const name of ['reward', 'entropy', 'loss', 'gradNorm']) expect(Math.abs(actual.log[name]! - expected.log[name]!), name).toBeLessThan(1e-4 * Math.max(1, Math.abs(expected.log[name]!)))
  for (const [name, values] of actual.weights) expect(relative(values, expected.weights.get(name)!), name).toBeLessThan(1e-3)
})
