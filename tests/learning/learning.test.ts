// Proves that models of each kind learn: their losses fall as they did when this was recorded.
import { afterEach, expect, test } from 'vitest'
import { AutoModelForCausalLM } from '../../src/models/index.ts'
import { cpu } from '../../src/tensor/index.ts'
import { temporaryFolder } from '../files/helpers.ts'
import { lossesOf, rows, runToEnd, tinyTrainer, vocabSize } from '../train/support.ts'

const live: { dispose(): void }[] = []
afterEach(() => { for (const one of live.splice(0)) one.dispose() })

const shape = { vocabSize, hiddenSize: 32, intermediateSize: 64, numHiddenLayers: 2, numAttentionHeads: 4, numKeyValueHeads: 2, maxPositionEmbeddings: 64, bosTokenId: 0, eosTokenId: 0 }
const gpt2 = { modelType: 'gpt2', vocabSize, nEmbd: 32, nLayer: 2, nHead: 4, nPositions: 64, bosTokenId: 0, eosTokenId: 0 }

/** [label, config, dtype, recorded losses of steps 1, 25, 50, 75 and 100 on AVX2, what the last must be below anywhere]. */
const cases: [string, Record<string, unknown>, 'float32' | 'bfloat16', number[], number][] = [
  ['llama', { modelType: 'llama', ...shape }, 'float32', [4.110, 1.541, 0.718, 0.127, 0.064], 0.5],
  ['qwen3, tied', { modelType: 'qwen3', ...shape, headDim: 8, tieWordEmbeddings: true }, 'float32', [4.136, 1.834, 1.201, 0.516, 0.430], 0.5],
  ['gpt2, dropout 0.1', gpt2, 'float32', [4.127, 2.123, 1.500, 0.827, 0.743], 1],
  ['llama, bfloat16 weights', { modelType: 'llama', ...shape }, 'bfloat16', [4.110, 1.542, 0.724, 0.126, 0.063], 0.5],
]

test.each(cases)('%s', async (_, config, dtype, recorded, bound) => {
  const model = AutoModelForCausalLM.fromConfig(config, { dtype, seed: 11 })
  const trainer = tinyTrainer({ model, rows: rows(40), outputDir: temporaryFolder(), perDeviceTrainBatchSize: 8, maxSteps: 100, learningRate: 1e-2, lrSchedulerType: 'cosine', warmupSteps: 5 })
  live.push(model, trainer)
  const losses = lossesOf(await runToEnd(trainer))
  expect(losses.at(-1)).toBeLessThan(bound)
  // Other instruction sets sum in another order, and bfloat16 rounds such differences up.
  if (cpu.isa !== 'avx2') return
  for (const [i, step] of [1, 25, 50, 75, 100].entries()) expect(Math.abs(losses[step - 1]! - recorded[i]!), `step ${step}`).toBeLessThan(1e-3)
})
