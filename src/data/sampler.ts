import { ConfigError } from '../errors.ts'
import { atOnce, Turns } from '../turns.ts'
import { collate, type Batch } from './collate.ts'
import { numbersPerTurn, permuting } from './random.ts'
import type { Dataset } from './types.ts'

export interface SamplerOptions {
  /** Examples in a micro-batch. Default 8. */
  perDeviceTrainBatchSize?: number
  /** Micro-batches in an optimizer step. Default 1. */
  gradientAccumulationSteps?: number
  /** A whole number below 2^53. Default 42. */
  seed?: number
  /** Another order in each epoch (default), or the dataset's own. */
  shuffle?: boolean
  /** Leave out the last micro-batch of an epoch when it is not full. Default false. */
  dropLast?: boolean
}

/** 0 … n-1. */
function* counting(n: number): Generator<undefined, Uint32Array> {
  const order = new Uint32Array(n)
  for (let i = 0; i < n; i++) {
    order[i] = i
    if (i % numbersPerTurn === 0) yield
  }
  return order
}

/** What one optimizer step trains on. */
export interface StepIndices {
  /** From 0. */
  epoch: number
  /** The step's number in its epoch, from 0. */
  stepInEpoch: number
  /** Indices of examples, one list a micro-batch. The last step of an epoch may have fewer or shorter ones. */
  microBatches: Uint32Array[]
}

/** Says which examples each optimizer step takes, as a pure function of (seed, step), so that a run can go on from any step. */
export interface Sampler {
  readonly stepsPerEpoch: number
  /** Makes the order of the step's epoch, if it is not there, giving way to the event loop now and then; at() would make it at once. */
  prepare(step: number): Promise<void>
  at(step: number): StepIndices
}

/** Checks an option that must be a whole number from 1. */
export const wholeFrom1 = (name: string, value: number): number => {
  if (!Number.isInteger(value) || value < 1) throw new ConfigError(`${name}: expected a whole number from 1, got ${value}`)
  return value
}

/** The sampler of a dataset of `length` examples. Steps never cross the end of an epoch, as in transformers' Trainer. */
export function createSampler(length: number, options: SamplerOptions = {}): Sampler {
  const { seed = 42, shuffle = true, dropLast = false } = options
  const batchSize = wholeFrom1('perDeviceTrainBatchSize', options.perDeviceTrainBatchSize ?? 8)
  const accumulation = wholeFrom1('gradientAccumulationSteps', options.gradientAccumulationSteps ?? 1)
  if (!Number.isSafeInteger(seed) || seed < 0) throw new ConfigError(`seed: expected a whole number from 0 to 2^53 - 1, got ${seed}`)
  const batchesPerEpoch = dropLast ? Math.floor(length / batchSize) : Math.ceil(length / batchSize)
  if (batchesPerEpoch === 0) throw new ConfigError(`the dataset has ${length} examples, too few for one batch of ${batchSize}; add data, lower perDeviceTrainBatchSize or leave out dropLast`)
  const stepsPerEpoch = Math.ceil(batchesPerEpoch / accumulation)
  let known = -1
  let order: Uint32Array = new Uint32Array(0)
  function* ordering(epoch: number): Generator<undefined, void> {
    if (epoch === known) return
    order = yield* shuffle ? permuting(length, seed, 'shuffle', epoch) : counting(length)
    known = epoch
  }
  const epochOf = (step: number): number => {
    if (!Number.isInteger(step) || step < 0) throw new ConfigError(`step: expected a whole number from 0, got ${step}`)
    return Math.floor(step / stepsPerEpoch)
  }
  return {
    stepsPerEpoch,
    prepare: async (step) => new Turns().run(ordering(epochOf(step))),
    at(step) {
      const epoch = epochOf(step)
      const stepInEpoch = step % stepsPerEpoch
      const first = stepInEpoch * accumulation
      const last = Math.min(first + accumulation, batchesPerEpoch)
      atOnce(ordering(epoch))
      const microBatches = Array.from({ length: last - first }, (_, i) => order.slice((first + i) * batchSize, Math.min(length, (first + i + 1) * batchSize)))
      return { epoch, stepInEpoch, microBatches }
    },
  }
}

/** The batches of one optimizer step. The loss of each micro-batch is a sum divided by `numItems` of the whole step. */
export interface StepBatch {
  epoch: number
  stepInEpoch: number
  microBatches: Batch[]
  /** Trained tokens of all micro-batches together. */
  numItems: number
  /** Tokens of all micro-batches together. */
  tokens: number
}

/** Reads and collates what `sampler` gives for `step`. */
export function stepBatch(dataset: Dataset, sampler: Sampler, step: number): StepBatch {
  const { epoch, stepInEpoch, microBatches } = sampler.at(step)
  const batches = microBatches.map((indices) => collate(Array.from(indices, (index) => dataset.get(index))))
  return { epoch, stepInEpoch, microBatches: batches, ...totals(batches) }
}

/** What a step's micro-batches add up to. */
export function totals(batches: readonly Batch[]): { numItems: number, tokens: number } {
  return {
    numItems: batches.reduce((sum, batch) => sum + batch.numItems, 0),
    tokens: batches.reduce((sum, batch) => sum + batch.inputIds.length, 0),
  }
}

/** The whole dataset in order, in batches of `batchSize` examples, for evaluation. */
export function* evalBatches(dataset: Dataset, batchSize = 8): Generator<Batch> {
  wholeFrom1('perDeviceEvalBatchSize', batchSize)
  for (let start = 0; start < dataset.length; start += batchSize) {
    yield collate(Array.from({ length: Math.min(batchSize, dataset.length - start) }, (_, i) => dataset.get(start + i)))
  }
}
