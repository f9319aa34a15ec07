// Proves that models with virtual tokens train and generate through the CUDA kernels as they do on the CPU.
import { afterEach, expect, test } from 'vitest'
import { addAdapter, type AdapterInput } from '../../src/adapters/index.ts'
import { generate } from '../../src/generate/index.ts'
import { cpu, setDefaultDevice } from '../../src/tensor/index.ts'
import { temporaryFolder } from '../files/helpers.ts'
import { lossesOf, relative, rows, runToEnd, tinyModel, tinyTrainer, weightsOf } from '../train/support.ts'
import { tested } from './device.ts'

const live: { dispose(): void }[] = []
const before = setDefaultDevice(cpu)
afterEach(() => {
  setDefaultDevice(before)
  for (const one of live.splice(0)) one.dispose()
})

test.each<[string, AdapterInput, boolean]>([
  ['a prefix', { type: 'prefix', numVirtualTokens: 3 }, false],
  ['a projected prefix, recomputing layers', { type: 'prefix', numVirtualTokens: 3, prefixProjection: true }, true],
  ['P-tuning', { type: 'ptuning', numVirtualTokens: 3 }, false],
])('%s', async (_, adapter, gradientCheckpointing) => {
  const results = []
  for (const device of [cpu, tested]) {
    setDefaultDevice(device)
    const model = tinyModel({ family: 'llama', seed: 3 })
    await addAdapter(model, adapter)
    const trainer = tinyTrainer({ model, outputDir: temporaryFolder(), rows: rows(8), maxSteps: 3, adamEpsilon: 1e-3, bf16: false, gradientCheckpointing })
    live.push(model, trainer)
    const losses = lossesOf(await runToEnd(trainer))
    const answers = await generate(model, undefined, [[1, 2, 3], [7], [5, 9, 11, 13, 2], [5, 9, 11, 13, 2]], { maxNewTokens: 8, temperature: 0 })
    results.push({ losses, answers: answers.map(({ tokenIds }) => tokenIds), weights: await weightsOf(model) })
  }
  const [expected, actual] = results
  expect(expected!.losses.length).toBe(3)
  expect(relative(actual!.losses, expected!.losses)).toBeLessThan(1e-5)
  expect(actual!.answers).toEqual(expected!.answers)
  for (const [name, values] of actual!.weights) expect(relative(values, expected!.weights.get(name)!), name).toBeLessThan(1e-3)
})
