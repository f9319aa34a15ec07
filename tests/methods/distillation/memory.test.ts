// Proves that a distillation step at a vocabulary of 152k has less than 64 MiB beside the models, their gradients and the hidden states: logits of all tokens
// never exist, of neither side. What the allocator gave at most is counted, and what the kernels keep for themselves.
import { afterEach, expect, test } from 'vitest'
import { collate } from '../../../src/data/index.ts'
import { placesOf } from '../../../src/methods/distillation/universalBatch.ts'
import { distillationLoss, type DistillationLossOptions, type DistillBatch } from '../../../src/methods/index.ts'
import { AutoModelForCausalLM } from '../../../src/models/index.ts'
import type { CausalLanguageModel } from '../../../src/models/index.ts'
import { backward, cpu, scope } from '../../../src/tensor/index.ts'

const [vocabulary, width, tokens, limit] = [151_936, 16, 96, 64 * 2 ** 20]
const live: CausalLanguageModel[] = []
afterEach(() => { for (const model of live.splice(0)) model.dispose() })
const model = (vocabSize: number, seed: number): CausalLanguageModel => {
  const one = AutoModelForCausalLM.fromConfig({ modelType: 'llama', vocabSize, hiddenSize: width, intermediateSize: 32, numHiddenLayers: 1, numAttentionHeads: 2, numKeyValueHeads: 2, maxPositionEmbeddings: 256, tieWordEmbeddings: true }, { seed, device: 'cpu' })
  live.push(one)
  return one
}
const base: DistillationLossOptions = {
  objective: 'divergence', beta: 0.5, temperature: 2, scaleByTemperature: true, alpha: 0.3, tail: 'bucket', rklAdvantage: true, singleStepDecomposition: true, gamma: 0,
  lengthNormalization: true, vocabulary, hiddenLayers: [], hiddenWeight: 1, hiddenLoss: 'mse', attentionLayers: [], attentionWeight: 1,
}
const ids = Int32Array.from({ length: tokens }, (_, i) => (i * 7919) % vocabulary)
const batch = collate([{ inputIds: ids, labels: ids }])
const ranges = Array.from({ length: 40 }, (_, i) => [2 * i + 2, 2 * i + 4] as const)
const topK = 64
const recorded = [{ topK, ids: Int32Array.from({ length: (tokens - 1) * topK }, (_, i) => (i % topK) * 11), logprobs: new Float32Array((tokens - 1) * topK).fill(-5) }]
const universal = { inputIds: ids, cuSeqlens: Int32Array.of(0, tokens), student: placesOf(ranges, ids, 'bayesian'), teacher: placesOf(ranges, ids, 'bayesian'), weights: new Float32Array(ranges.length).fill(1) }

test.each<[string, DistillBatch, Partial<DistillationLossOptions>]>([
  ['from a live teacher', batch, {}],
  ['from recorded distributions', { ...batch, recorded }, {}],
  ['from a teacher of another tokenizer', { ...batch, universal }, { objective: 'uld' }],
])('%s', async (_, own, options) => {
  const [student, teacher] = [model(vocabulary, 1), model(vocabulary, 2)]
  teacher.requiresGrad_(false)
  const step = async (): Promise<void> => {
    scope(() => { backward(distillationLoss({ student, teacher: own.recorded ? undefined : teacher, projections: [] }, own, own.numItems, { ...base, ...options }).loss) })
    await cpu.fence()
  }
  // The first step makes the gradients.
  scope(() => { backward(student.forward({ inputIds: [ids.subarray(0, 4)], labels: [ids.subarray(0, 4)] }).loss!) })
  await cpu.fence()
  const [before, rss] = [cpu.memory().live, process.memoryUsage().rss]
  cpu.resetPeakMemory()
  await step()
  const weight = 4 * vocabulary * width
  // A gradient of the output layer on its way to the parameter's own.
  expect(cpu.memory().peak - before).toBeLessThan(limit + weight)
  expect(process.memoryUsage().rss - rss).toBeLessThan(limit + weight + 32 * 2 ** 20)
})
