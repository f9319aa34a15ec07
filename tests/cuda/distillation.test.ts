// Proves that a distillation step through the CUDA kernels equals the CPU's: from a live teacher, recorded distributions, features, MiniLLM and a
// teacher of another tokenizer.
import { afterEach, expect, test } from 'vitest'
import { distillationLoss, type DistillBatch, type DistillationLossOptions } from '../../src/methods/index.ts'
import { collate } from '../../src/data/index.ts'
import { backward, cpu, scope, setDefaultDevice } from '../../src/tensor/index.ts'
import type { Device } from '../../src/tensor/index.ts'
import { placesOf, type UniversalBatch } from '../../src/methods/distillation/universalBatch.ts'
import { StudentWithProjections } from '../../src/methods/distillation/features.ts'
import { relative, tinyModel } from '../train/support.ts'
import { tested } from './device.ts'

const live: { dispose(): void }[] = []
const before = setDefaultDevice(cpu)
afterEach(() => {
  setDefaultDevice(before)
  for (const one of live.splice(0)) one.dispose()
})

const base: DistillationLossOptions = {
  objective: 'divergence', beta: 0, temperature: 1, scaleByTemperature: true, alpha: 0, tail: 'bucket', rklAdvantage: true, singleStepDecomposition: true, gamma: 0,
  lengthNormalization: true, vocabulary: 0, hiddenLayers: [], hiddenWeight: 1, hiddenLoss: 'mse', attentionLayers: [], attentionWeight: 1,
}
const example = (ids: readonly number[], prompt: number) => ({ inputIds: Int32Array.from(ids), labels: Int32Array.from(ids, (id, i) => i < prompt ? -100 : id) })
const examples = [example([1, 5, 2, 9, 4, 7, 3], 2), example([6, 2, 8], 1), example([3, 1, 4, 1, 5, 9, 2, 6, 5, 3], 4)]

/** What a teacher of k tokens says at each trained place. */
const recordedRows = (k: number) => examples.map(({ labels }, row) => {
  const places = labels.filter((label) => label !== -100).length
  return { topK: k, ids: Int32Array.from({ length: places * k }, (_, i) => (7 * row + 3 * Math.floor(i / k) + i % k) % 16), logprobs: Float32Array.from({ length: places * k }, (_, i) => -Math.log(k + 1) - 0.1 * (i % k)) }
})

/** The same rows in other tokens, some of which stand for two of the student's. */
function universal(strategy: 'bayesian' | 'observed'): UniversalBatch {
  const inputIds = Int32Array.of(4, 8, 1, 3, 11, 9, 7, 5)
  const [student, teacher] = [[[2, 3], [3, 5], [8, 10], [14, 17]], [[1, 3], [3, 4], [5, 6], [7, 8]]] as [[number, number][], [number, number][]]
  const own = collate(examples).inputIds
  return { inputIds, cuSeqlens: Int32Array.of(0, 4, 6, 8), student: placesOf(student, own, strategy), teacher: placesOf(teacher, inputIds, strategy), weights: Float32Array.of(2.5, 2.5, 2, 6) }
}

async function step(device: Device, options: Partial<DistillationLossOptions>, recorded: boolean, aligned?: UniversalBatch) {
  setDefaultDevice(device)
  const [student, teacher] = [tinyModel({ family: 'llama', seed: 1 }), tinyModel({ family: 'llama', seed: 2 })]
  const pairs = options.hiddenLayers?.length ?? 0
  const wrapped = new StudentWithProjections(student, teacher.config.hiddenSize, pairs, 7)
  live.push(student, teacher)
  const batch: DistillBatch = { ...collate(examples), ...(recorded ? { recorded: recordedRows(4) } : {}), ...(aligned ? { universal: aligned } : {}) }
  const pending: Promise<number>[] = []
  scope(() => {
    const { loss } = distillationLoss({ student, teacher: recorded ? undefined : teacher, projections: wrapped.projections }, batch, batch.numItems, { ...base, vocabulary: student.config.vocabSize, ...options })
    pending.push(loss.item())
    backward(loss)
  })
  const gradients = new Map<string, number[]>()
  for (const [name, parameter] of wrapped.namedParameters()) gradients.set(name, await parameter.grad!.toArray())
  return { loss: (await pending[0])!, gradients }
}

/** Both devices give the same loss and gradients. */
async function expectEqual(options: Partial<DistillationLossOptions>, recorded: boolean, aligned?: UniversalBatch): Promise<void> {
  const expected = await step(cpu, options, recorded, aligned)
  const actual = await step(tested, options, recorded, aligned)
  expect(Math.abs(actual.loss - expected.loss)).toBeLessThan(1e-5 * Math.max(1, Math.abs(expected.loss)))
  for (const [name, values] of expected.gradients) expect(relative(actual.gradients.get(name)!, values), name).toBeLessThan(1e-4)
}

test.each<[string, Partial<DistillationLossOptions>, boolean]>([
  ['forward KL with labels', { temperature: 2, alpha: 0.3 }, false],
  ['reverse KL', { beta: 1 }, false],
  ['generalised JSD', { beta: 0.4, temperature: 1.5 }, false],
  ['recorded, the tail as one token', { alpha: 0.2, beta: 0.4 }, true],
  ['recorded, made to sum to 1', { tail: 'renormalise' }, true],
  ['hidden states and attention maps', { hiddenLayers: [[1, 1], [2, 2]], attentionLayers: [[0, 1]], hiddenLoss: 'cosine' }, false],
  ['MiniLLM', { objective: 'minillm', gamma: 0.9 }, false],
])('%s', async (_, options, recorded) => { await expectEqual(options, recorded) })

test.each<[string, Partial<DistillationLossOptions>, 'bayesian' | 'observed']>([
  ['sorted distributions', { temperature: 1.5 }, 'bayesian'],
  ['sorted distributions as TRL merges them, with labels', { alpha: 0.3 }, 'observed'],
  ['the tokens both have one by one', { beta: 0.5, hybrid: { student: Int32Array.of(3, 1, 9), teacher: Int32Array.of(2, 5, 8), matchedWeight: 0.6, unmatchedWeight: 0.5 } }, 'bayesian'],
])('a teacher of another tokenizer: %s', async (_, options, strategy) => { await expectEqual(options, false, universal(strategy)) })
