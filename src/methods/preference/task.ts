import { createSampler } from '../../data/index.ts'
import type { PretrainedModel } from '../../models/index.ts'
import { mul, sum } from '../../ops/index.ts'
import type { Tensor } from '../../tensor/index.ts'
import type { Tokenizer } from '../../tokenizers/index.ts'
import type { Sum, TrainingTask } from '../../train/task.ts'
import { modelKeeping } from '../model.ts'

/** What every batch says of itself. */
export interface Countable {
  /** Pairs, rows or prompts: what the loss is a mean over. */
  items: number
  /** Tokens that a language-model term is a mean over. */
  labelled: number
  /** Input tokens. */
  tokens: number
}

/** The micro-batches of an optimizer step together, or one evaluation batch. */
export interface Window { items: number, labelled: number }

/** A batch, and what its step adds up to. */
export interface Windowed<B> { batch: B, window: Window }

export interface PreferenceLoss {
  /** The sum over the batch's items, []. */
  loss: Tensor
  sums: Record<string, Sum>
}

export interface PreferenceTaskOptions<E, B extends Countable> {
  name: string
  model: PretrainedModel
  tokenizer: Tokenizer
  train: readonly E[]
  eval?: readonly E[] | undefined
  fingerprint: string
  perDeviceTrainBatchSize: number
  perDeviceEvalBatchSize: number
  gradientAccumulationSteps: number
  seed: number
  /** Another order in each epoch (default), or the rows' own in each. */
  shuffle?: boolean
  collate: (examples: readonly E[]) => B
  loss: (batch: B, window: Window) => PreferenceLoss
  /** The options that decide the numbers, besides the trainer's own. */
  decisiveOptions: Readonly<Record<string, unknown>>
  sample?: () => Promise<{ prompt: string, text: string }[]>
}

/**
 * Training on preference data: a mean over pairs (or rows, or prompts) of the whole optimizer step, so that accumulating 4 × 1 equals 1 × 4 for losses
 * that look at one pair at a time. 'aot' and the KL of 'kto' look at a micro-batch.
 */
export function preferenceTask<E, B extends Countable>(options: PreferenceTaskOptions<E, B>): TrainingTask<Windowed<B>> {
  const { name, model, tokenizer, train, fingerprint, seed, perDeviceTrainBatchSize, gradientAccumulationSteps, perDeviceEvalBatchSize, collate } = options
  const sampler = createSampler(train.length, { perDeviceTrainBatchSize, gradientAccumulationSteps, seed, shuffle: options.shuffle ?? true })
  const held = options.eval
  return {
    name, model, fingerprint, decisiveOptions: options.decisiveOptions,
    ...modelKeeping(model, tokenizer),
    stepsPerEpoch: sampler.stepsPerEpoch,
    async batches(step) {
      await sampler.prepare(step)
      const batches = sampler.at(step).microBatches.map((indices) => collate(Array.from(indices, (index) => train[index]!)))
      const window = windowOf(batches)
      return { microBatches: batches.map((batch) => ({ batch, window })), numItems: window.items, tokens: batches.reduce((total, { tokens }) => total + tokens, 0) }
    },
    loss({ batch, window }, numItems) {
      const { loss, sums } = options.loss(batch, window)
      return { loss: mul(loss, 1 / numItems), sums }
    },
    ...held ? {
      *evaluation() {
        for (const examples of batchesInOrder(held, perDeviceEvalBatchSize)) {
          const batch = collate(examples)
          yield { batch: { batch, window: windowOf([batch]) }, numItems: batch.items }
        }
      },
    } : {},
    ...options.sample ? { sample: options.sample } : {},
  }
}

const windowOf = (batches: readonly Countable[]): Window => ({
  items: batches.reduce((total, { items }) => total + items, 0), labelled: batches.reduce((total, { labelled }) => total + labelled, 0),
})

/** All examples in their order, `size` at a time. */
export function* batchesInOrder<E>(examples: readonly E[], size: number): Generator<readonly E[]> {
  for (let start = 0; start < examples.length; start += size) yield examples.slice(start, start + size)
}

/** The mean of a language-model loss over the labelled tokens of the window, in the unit of a sum over its items. */
export const perItem = (nll: Tensor, { items, labelled }: Window): Tensor => mul(nll, items / Math.max(labelled, 1))

/** A metric that is a mean over the entries of `values`. */
export const meanOf = (values: Tensor): Sum => ({ sum: sum(values.detach()), count: values.size })
