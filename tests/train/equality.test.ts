// Proves that the same training done in another way gives the same numbers: accumulation, packing, threads, checkpointing, repetition, and by transformers.
import { afterEach, describe, expect, test } from 'vitest'
import { memoryDataset, packDataset, type Batch } from '../../src/data/index.ts'
import { AutoModelForCausalLM, type CausalLanguageModel } from '../../src/models/index.ts'
import { cpu } from '../../src/tensor/index.ts'
import type { Trainer, TrainingOptions } from '../../src/train/index.ts'
import { recorded as recordedNumbers, temporaryFolder } from '../files/helpers.ts'
import { everyModel, folderOf } from '../models/recorded.ts'
import { inOrder, lossesOf, metricsOf, relative, rows, runToEnd, tinyModel, tinyTrainer, trainerHash, weightsOf, type RunOptions, type TinyOptions } from './support.ts'

const live: { dispose(): void }[] = []
afterEach(() => { for (const one of live.splice(0)) one.dispose() })

/** A trained tiny model and its losses. */
async function train(options: Omit<RunOptions, 'model' | 'outputDir'> & { tiny?: TinyOptions } = {}): Promise<{ model: CausalLanguageModel, trainer: Trainer<Batch>, losses: number[] }> {
  const { tiny, ...rest } = options
  const model = tinyModel(tiny)
  const trainer = tinyTrainer({ model, outputDir: temporaryFolder(), ...rest })
  live.push(model, trainer)
  return { model, trainer, losses: lossesOf(await runToEnd(trainer)) }
}

describe('accumulation', () => {
  test('8 rows at once, 2 × 4 and 8 × 1 train alike, however many tokens each row has', async () => {
    const trainings = []
    for (const perDeviceTrainBatchSize of [8, 4, 2, 1]) {
      trainings.push(await train({ rows: rows(44), perDeviceTrainBatchSize, gradientAccumulationSteps: 8 / perDeviceTrainBatchSize, numTrainEpochs: 3, weightDecay: 0.1, adamEpsilon: 1e-4 }))
    }
    const [whole, ...parts] = trainings as [typeof trainings[0], ...typeof trainings]
    expect(whole.losses).toHaveLength(18)
    const expected = await weightsOf(whole.model)
    for (const part of parts) {
      expect(relative(part.losses, whole.losses)).toBeLessThan(1e-5)
      for (const [name, values] of await weightsOf(part.model)) expect(relative(values, expected.get(name)!), name).toBeLessThan(1e-5)
    }
  })
})

describe('packing', () => {
  test('packed rows have the loss of the rows alone', async () => {
    const all = rows(24)
    const packed = packDataset(memoryDataset(all), { maxLength: 64, strategy: 'bfd' })
    expect(packed.length).toBeLessThan(12)
    const alone = await train({ rows: all, perDeviceTrainBatchSize: 24, maxSteps: 6 })
    const together = await train({ rows: Array.from({ length: packed.length }, (_, i) => packed.get(i)), perDeviceTrainBatchSize: packed.length, maxSteps: 6 })
    expect(relative(together.losses, alone.losses)).toBeLessThan(1e-5)
  })
})

describe('bit for bit', () => {
  const hashOf = async (options: Parameters<typeof train>[0]): Promise<string> => {
    const { trainer, losses } = await train({ rows: rows(22), gradientAccumulationSteps: 2, numTrainEpochs: 2, ...options })
    return `${await trainerHash(trainer)}; losses ${losses.join()}`
  }

  test.each<[string, TinyOptions]>([
    ['dropout', { dropout: 0.1 }], ['bfloat16 weights', { dtype: 'bfloat16' }],
  ])('two runs are equal, with %s', async (_, tiny) => {
    expect(await hashOf({ tiny })).toBe(await hashOf({ tiny }))
  })

  test('another seed gives other numbers', async () => {
    expect(await hashOf({ tiny: { dropout: 0.1 }, seed: 1 })).not.toBe(await hashOf({ tiny: { dropout: 0.1 }, seed: 2 }))
  })

  test.each<[string, TinyOptions]>([['GPT-2 with dropout', { dropout: 0.1 }], ['Llama', {}]])('1 and 2 threads are equal: %s', async (_, tiny) => {
    const before = cpu.threads
    try {
      cpu.threads = 1
      const one = await hashOf({ tiny })
      cpu.threads = 2
      expect(await hashOf({ tiny })).toBe(one)
    } finally {
      cpu.threads = before
    }
  })
})

// A recomputed layer hands one tensor on, so its residual sum is no longer fused with the next norm: the same numbers, summed in another order.
describe.each<[string, TinyOptions]>([['GPT-2 with dropout', { dropout: 0.1 }], ['Llama', {}]])('gradient checkpointing of %s', (_, tiny) => {
  const options = { tiny, rows: rows(22), gradientAccumulationSteps: 2, maxSteps: 6, learningRate: 1e-3, adamEpsilon: 1e-4 }

  test('changes nothing but the rounding of the last bit', async () => {
    const [kept, recomputed] = [await train(options), await train({ ...options, gradientCheckpointing: true })]
    expect(recomputed.losses[0]).toBe(kept.losses[0])
    expect(relative(recomputed.losses, kept.losses)).toBeLessThan(1e-6)
    const expected = await weightsOf(kept.model)
    for (const [name, values] of await weightsOf(recomputed.model)) expect(relative(values, expected.get(name)!), name).toBeLessThan(1e-5)
  })

  test('is itself equal from run to run, bit for bit', async () => {
    const hashes = []
    for (let i = 0; i < 2; i++) hashes.push(await trainerHash((await train({ ...options, gradientCheckpointing: true })).trainer))
    expect(hashes[1]).toBe(hashes[0])
  })
})

describe('transformers', () => {
  interface RecordedRun { model: string, options: Partial<TrainingOptions>, rows: { inputIds: number[], labels: number[] }[], losses: number[], gradNorms: number[], learningRates: number[], weights: Record<string, [number, number]> }
  const { runs } = recordedNumbers('train') as { runs: Record<string, RecordedRun> }
  const toExample = ({ inputIds, labels }: { inputIds: number[], labels: number[] }) => ({ inputIds: Int32Array.from(inputIds), labels: Int32Array.from(labels) })
  const noDropout = { resid_pdrop: 0, embd_pdrop: 0, attn_pdrop: 0 }

  test.each(Object.entries(runs))('its Trainer logs the same losses, gradient norms and learning rates, and ends with the same weights: %s', async (_, run) => {
    const model = await AutoModelForCausalLM.fromPretrained(folderOf(run.model), { config: run.model === 'gpt2' ? noDropout : {} })
    const trainer = tinyTrainer({ model, outputDir: temporaryFolder(), ...run.options, task: inOrder(run.rows.map(toExample), run.options) })
    live.push(model, trainer)
    const logged = metricsOf(await runToEnd(trainer)).map(([, metrics]) => metrics)
    expect(logged).toHaveLength(12)
    logged.forEach(({ loss, gradNorm, learningRate }, i) => {
      expect(Math.abs(loss! / run.losses[i]! - 1), `loss ${i}`).toBeLessThan(2e-5)
      expect(Math.abs(gradNorm! / run.gradNorms[i]! - 1), `gradient norm ${i}`).toBeLessThan(2e-4)
      expect(learningRate, `learning rate ${i}`).toBeCloseTo(run.learningRates[i]!, 10)
    })
    for (const [name, values] of await weightsOf(model)) {
      // The bias of the keys cancels in the softmax: its gradient is rounding alone, which Adam makes as large as any other.
      if (/k_proj\.bias|c_attn\.bias/.test(name)) continue
      const squares = values.reduce((sum, x) => sum + x * x, 0)
      expect(Math.abs(squares / run.weights[name]![1] - 1), name).toBeLessThan(1e-4)
    }
  })

  test.each(everyModel)('20 steps of AdamW on %s lose what it lost', async (_, folder, recorded) => {
    const model = await AutoModelForCausalLM.fromPretrained(folder, { config: { ...recorded.config, ...folder.endsWith('gpt2') ? noDropout : {} } })
    // The recorded optimizer decays every parameter; Trainer spares those of rank 1, as transformers' does, which shows in the fourth digit.
    const trainer = tinyTrainer({
      model, outputDir: temporaryFolder(), rows: recorded.inputIds.map((inputIds, i) => toExample({ inputIds, labels: recorded.labels[i]! })),
      perDeviceTrainBatchSize: recorded.inputIds.length, maxSteps: 20, learningRate: 1e-3, lrSchedulerType: 'constant', weightDecay: 0.01, maxGradNorm: 0,
    })
    live.push(model, trainer)
    const losses = lossesOf(await runToEnd(trainer))
    losses.forEach((loss, i) => { expect(Math.abs(loss / recorded.adamwLosses[i]! - 1), `step ${i}`).toBeLessThan(5e-4) })
  })
})
