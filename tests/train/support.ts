// What the tests of training share: a tiny model, rows of made-up tokens, a trainer over them, and what a run left behind.
import { createHash } from 'node:crypto'
import { createSampler, memoryDataset, RandomSequence, stepBatch, type Batch, type Example } from '../../src/data/index.ts'
import { causalTask } from '../../src/methods/index.ts'
import { AutoModelForCausalLM, type CausalLanguageModel } from '../../src/models/index.ts'
import type { Module } from '../../src/nn/index.ts'
import { Trainer, type TrainerEvent, type TrainingOptions, type TrainingTask } from '../../src/train/index.ts'

export const vocabSize = 61

export interface TinyOptions { dropout?: number, dtype?: 'float32' | 'bfloat16', seed?: number, family?: 'llama' | 'gpt2' }

/** Two layers, 32 wide. GPT-2 has dropout in every place, and biases; Llama has none. */
export function tinyModel({ dropout = 0, dtype = 'float32', seed = 1, family = dropout > 0 ? 'gpt2' : 'llama' }: TinyOptions = {}): CausalLanguageModel {
  const config = family === 'gpt2'
    ? { modelType: 'gpt2', vocabSize, nEmbd: 32, nLayer: 2, nHead: 4, nPositions: 64, residPdrop: dropout, embdPdrop: dropout, attnPdrop: dropout, bosTokenId: 0, eosTokenId: 0 }
    : { modelType: 'llama', vocabSize, hiddenSize: 32, intermediateSize: 64, numHiddenLayers: 2, numAttentionHeads: 4, numKeyValueHeads: 2, maxPositionEmbeddings: 64, bosTokenId: 0, eosTokenId: 0 }
  return AutoModelForCausalLM.fromConfig(config, { dtype, seed })
}

/** `count` rows of 4 to 23 tokens that count upwards by a step of their own; the first tokens of each are not trained. */
export function rows(count: number, seed = 1): Example[] {
  const random = new RandomSequence(seed, 'shuffle')
  return Array.from({ length: count }, (_, row) => {
    const [length, start, stride] = [4 + random.below(4 * row, 20), random.below(4 * row + 1, vocabSize), 1 + random.below(4 * row + 2, 3)]
    const inputIds = Int32Array.from({ length }, (_, i) => (start + i * stride) % vocabSize)
    const masked = random.below(4 * row + 3, length - 2)
    return { inputIds, labels: inputIds.map((id, i) => (i < masked ? -100 : id)) }
  })
}

export interface RunOptions extends TrainingOptions {
  model: CausalLanguageModel
  rows?: readonly Example[]
  evalRows?: readonly Example[]
  task?: Partial<TrainingTask<Batch>>
}

/** A trainer over made-up rows, as sft() and pretrain() make one over real ones. */
export function tinyTrainer({ model, rows: trainRows = rows(20), evalRows, task: overrides = {}, ...options }: RunOptions): Trainer<Batch> {
  const { perDeviceTrainBatchSize = 4, gradientAccumulationSteps = 1, labelSmoothingFactor = 0, seed = 42, gradientCheckpointing = false } = options
  if (gradientCheckpointing) model.gradientCheckpointingEnable()
  const task = causalTask({
    name: 'sft', model, trainDataset: memoryDataset(trainRows), fingerprint: 'made-up rows', ...evalRows && { evalDataset: memoryDataset(evalRows) },
    perDeviceTrainBatchSize, perDeviceEvalBatchSize: 4, gradientAccumulationSteps, labelSmoothingFactor, seed,
  })
  return new Trainer({ ...task, ...overrides }, { reportTo: [], saveStrategy: 'no', loggingSteps: 1, learningRate: 1e-2, perDeviceTrainBatchSize, ...options })
}

/** The part of a task that takes `all` rows in their own order, not shuffled. */
export function inOrder(all: readonly Example[], options: Partial<TrainingOptions>): Pick<TrainingTask<Batch>, 'batches' | 'stepsPerEpoch'> {
  const { perDeviceTrainBatchSize = 4, gradientAccumulationSteps = 1 } = options
  const sampler = createSampler(all.length, { perDeviceTrainBatchSize, gradientAccumulationSteps, shuffle: false })
  return { batches: (step) => stepBatch(memoryDataset(all), sampler, step), stepsPerEpoch: sampler.stepsPerEpoch }
}

/** Every parameter's numbers, by name. */
export async function weightsOf(model: Module): Promise<Map<string, Float32Array>> {
  const weights = new Map<string, Float32Array>()
  for (const [name, parameter] of model.namedParameters()) weights.set(name, Float32Array.from(await parameter.tensor.toArray()))
  return weights
}

const digest = (arrays: Iterable<readonly [string, Float32Array]>): string => {
  const hash = createHash('sha256')
  for (const [name, values] of arrays) hash.update(name).update(new Uint8Array(values.buffer, values.byteOffset, values.byteLength))
  return hash.digest('hex')
}

/** The SHA-256 of a model's weights. */
export const weightsHash = async (model: Module): Promise<string> => digest(await weightsOf(model))

/** The SHA-256 of the weights and of everything the optimizer keeps. */
export async function trainerHash({ task: { model }, optimizer }: Trainer<Batch>): Promise<string> {
  const all: [string, Float32Array][] = [...await weightsOf(model)]
  for (const [name] of model.namedParameters()) {
    const state = optimizer.state(name)
    if (state) all.push([`${name}.m`, Float32Array.from(await state.expAvg.toArray())], [`${name}.v`, Float32Array.from(await state.expAvgSq.toArray())])
  }
  for (const [name, master] of optimizer.masters()) all.push([`${name}.master`, Float32Array.from(await master.toArray())])
  return `${digest(all)} after ${optimizer.steps} updates`
}

/** Trains to the end; returns all events. */
export async function runToEnd(trainer: Trainer<Batch>, options: { signal?: AbortSignal } = {}): Promise<TrainerEvent[]> {
  const events: TrainerEvent[] = []
  trainer.on((event) => { events.push(event) })
  await trainer.train(options)
  return events
}

/** The metrics that a log holds of each step, without times. */
export const metricsOf = (events: readonly TrainerEvent[]): [number, Record<string, number>][] =>
  events.flatMap((event) => (event.type === 'log' ? [[event.step, event.metrics]] : []))

export const lossesOf = (events: readonly TrainerEvent[]): number[] => metricsOf(events).map(([, metrics]) => metrics['loss']!)

/** The largest difference, as a part of the largest number. */
export function relative(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let [most, scale] = [0, 1e-30]
  for (let i = 0; i < b.length; i++) { most = Math.max(most, Math.abs(a[i]! - b[i]!)); scale = Math.max(scale, Math.abs(b[i]!)) }
  return a.length === b.length ? most / scale : Infinity
}
