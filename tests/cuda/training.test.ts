// Proves that whole models train and generate through the CUDA kernels as they do on the CPU, with few launches.
import { afterEach, describe, expect, test } from 'vitest'
import { generate } from '../../src/generate/index.ts'
import { AutoModelForCausalLM, type CausalLanguageModel } from '../../src/models/index.ts'
import { backward, cpu, scope, setDefaultDevice } from '../../src/tensor/index.ts'
import type { Device } from '../../src/tensor/index.ts'
import { temporaryFolder } from '../files/helpers.ts'
import { lossesOf, relative, rows, runToEnd, tinyModel, tinyTrainer, weightsOf, type RunOptions, type TinyOptions } from '../train/support.ts'
import { on, tested } from './device.ts'

const live: { dispose(): void }[] = []
const before = setDefaultDevice(cpu)
afterEach(() => {
  setDefaultDevice(before)
  for (const one of live.splice(0)) one.dispose()
})

/** A trained tiny model, its losses, and the norms of its gradients. */
async function train(device: Device, tiny: TinyOptions, options: Omit<RunOptions, 'model' | 'outputDir'>) {
  setDefaultDevice(device)
  const model = tinyModel(tiny)
  expect(model.device).toBe(device)
  const trainer = tinyTrainer({ model, outputDir: temporaryFolder(), rows: rows(8), maxSteps: 4, ...options })
  live.push(model, trainer)
  return { losses: lossesOf(await runToEnd(trainer)), weights: await weightsOf(model) }
}

describe.each<[string, TinyOptions, Omit<RunOptions, 'model' | 'outputDir'>, number, number]>([
  ['GPT-2', { family: 'gpt2' }, {}, 1e-5, 1e-3],
  ['GPT-2 with dropout', { dropout: 0.2 }, {}, 1e-5, 1e-3],
  ['Llama', { family: 'llama' }, { weightDecay: 0.1 }, 1e-5, 1e-3],
  ['Llama, accumulating gradients and recomputing layers', {}, { gradientAccumulationSteps: 2, gradientCheckpointing: true }, 1e-5, 1e-3],
  ['Llama in bfloat16', {}, { bf16: true }, 1e-2, 1e-1],
  ['Llama with bfloat16 weights', { dtype: 'bfloat16' }, {}, 2e-2, 1e-1],
])('%s', (_, tiny, options, lossTolerance, weightTolerance) => {
  test('trains as on the CPU', async () => {
    // A large epsilon keeps AdamW from turning the sign of a tiny gradient into a whole step.
    const training = { adamEpsilon: 1e-3, bf16: false, ...options }
    const expected = await train(cpu, tiny, training)
    const actual = await train(tested, tiny, training)
    expect(expected.losses.length).toBe(4)
    expect(relative(actual.losses, expected.losses)).toBeLessThan(lossTolerance)
    for (const [name, values] of actual.weights) expect(relative(values, expected.weights.get(name)!), name).toBeLessThan(weightTolerance)
  })
})

test.each(['llama', 'gpt2'] as const)('%s generates the tokens that it generates on the CPU', async (family) => {
  const answers = []
  for (const device of [cpu, tested]) {
    setDefaultDevice(device)
    const model = tinyModel({ family, seed: 3 })
    live.push(model)
    const prompts = [[1, 2, 3], [7], [5, 9, 11, 13, 2]]
    const greedy = await generate(model, undefined, prompts, { maxNewTokens: 8, temperature: 0 })
    const sampled = await generate(model, undefined, prompts, { maxNewTokens: 8, temperature: 0.9, topK: 20, topP: 0.9, repetitionPenalty: 1.1, seed: 5 })
    answers.push([...greedy, ...sampled].map(({ tokenIds }) => tokenIds))
  }
  expect(answers[1]).toEqual(answers[0])
})

test('a model saved from one device loads on another', async () => {
  const folder = temporaryFolder()
  const model = on(tested, () => tinyModel({ seed: 5 }))
  await model.savePretrained(folder)
  const loaded = await AutoModelForCausalLM.fromPretrained(folder, { device: 'cpu' })
  live.push(model, loaded)
  expect(loaded.device).toBe(cpu)
  const saved = await weightsOf(model)
  for (const [name, values] of await weightsOf(loaded)) expect(values, name).toEqual(saved.get(name))
})

describe('launches of a decoder layer', () => {
  const layers = (count: number): CausalLanguageModel => on(tested, () => AutoModelForCausalLM.fromConfig({
    modelType: 'llama', vocabSize: 64, hiddenSize: 64, intermediateSize: 128, numHiddenLayers: count, numAttentionHeads: 4, numKeyValueHeads: 2, maxPositionEmbeddings: 64, bosTokenId: 0, eosTokenId: 0,
  }, { dtype: 'bfloat16' }))
  const inputIds = [Array.from({ length: 24 }, (_, i) => i)]

  /** Kernels launched by a forward pass, and by a backward pass, of a model with gradients in place. */
  async function count(model: CausalLanguageModel): Promise<[number, number]> {
    const step = async (): Promise<[number, number]> => {
      const start = await tested.launches()
      const loss = scope(() => model.forward({ inputIds, labels: inputIds }).loss!)
      const forward = await tested.launches()
      backward(loss)
      loss.dispose()
      return [forward - start, await tested.launches() - forward]
    }
    await step()
    return step()
  }

  test('forward at most 12, backward at most 20', async () => {
    const counts = []
    for (const n of [1, 2]) {
      const model = layers(n)
      counts.push(await count(model))
      model.dispose()
    }
    const [one, two] = counts as [[number, number], [number, number]]
    const [forward, back] = [two[0] - one[0], two[1] - one[1]]
    expect(forward).toBeGreaterThan(0)
    expect(forward).toBeLessThanOrEqual(12)
    expect(back).toBeGreaterThan(0)
    expect(back).toBeLessThanOrEqual(20)
  })
})
