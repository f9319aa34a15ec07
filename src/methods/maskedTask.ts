import { createSampler, evalBatches, maskTokens, RandomSequence, stepBatch, totals } from '../data/index.ts'
import type { Batch, Masking } from '../data/index.ts'
import type { MaskedLanguageModel } from '../models/index.ts'
import { sum } from '../ops/index.ts'
import type { Tensor } from '../tensor/index.ts'
import { scope } from '../tensor/index.ts'
import type { Tokenizer } from '../tokenizers/index.ts'
import type { LossResult, TrainingTask } from '../train/task.ts'
import type { CausalTaskOptions } from './causalTask.ts'
import { modelKeeping } from './model.ts'

/** What `maskedTask` takes: a masked language model, tokenized data, and how tokens are masked. */
export interface MaskedTaskOptions extends Omit<CausalTaskOptions, 'model' | 'tokenizer'> {
  model: MaskedLanguageModel
  tokenizer: Tokenizer
  masking: Masking
}

/**
 * Prediction of masked tokens (Devlin et al. 2018). Each step masks anew, as a function of the seed, the step and a token's number in it: a resumed run
 * sees the same masks, and so do 8 × 1 and 1 × 8 rows. Held-out data is masked alike each time. The loss is the sum of -log p over the masked tokens
 * divided by their number in the whole optimizer step.
 */
export function maskedTask(options: MaskedTaskOptions): TrainingTask<Batch> {
  const { name, model, tokenizer, masking, trainDataset, evalDataset, fingerprint, labelSmoothingFactor, seed } = options
  const { perDeviceTrainBatchSize, perDeviceEvalBatchSize, gradientAccumulationSteps } = options
  const sampler = createSampler(trainDataset.length, { perDeviceTrainBatchSize, gradientAccumulationSteps, seed })
  return {
    name, model, fingerprint,
    ...modelKeeping(model, tokenizer),
    stepsPerEpoch: sampler.stepsPerEpoch,
    async batches(step) {
      await sampler.prepare(step)
      const plain = stepBatch(trainDataset, sampler, step)
      const microBatches = [...masked(plain.microBatches, masking, new RandomSequence(seed, 'masking', step))]
      return { ...plain, microBatches, ...totals(microBatches) }
    },
    loss: (batch, numItems) => maskedLoss(model, batch, numItems, model.training ? labelSmoothingFactor : 0),
    ...(evalDataset ? {
      *evaluation() {
        for (const batch of masked(evalBatches(evalDataset, perDeviceEvalBatchSize), masking, new RandomSequence(seed, 'evalMasking'))) yield { batch, numItems: batch.numItems }
      },
    } : {}),
    ...(options.sample ? { sample: options.sample } : {}),
    trace: (batch) => traceForward(model, batch),
  }
}

/** Batches one after another, their tokens numbered through. */
function* masked(batches: Iterable<Batch>, masking: Masking, random: RandomSequence): Generator<Batch> {
  let first = 0
  for (const batch of batches) {
    yield maskTokens(batch, masking, random, first)
    first += batch.inputIds.length
  }
}

function maskedLoss(model: MaskedLanguageModel, { inputIds, labels, cuSeqlens }: Batch, numItems: number, labelSmoothing: number): LossResult {
  const { loss, correct, numLabels } = model.forward({ inputIds, labels, cuSeqlens, numItems: Math.max(numItems, 1), labelSmoothing })
  return { loss: loss!, ...(correct ? { sums: { meanTokenAccuracy: { sum: sum(correct), count: numLabels! } } } : {}) }
}

/** What a forward pass computes, in order, by name. */
function* traceForward(model: MaskedLanguageModel, { inputIds, labels, cuSeqlens }: Batch): Generator<readonly [string, Tensor]> {
  const { hiddenStates, loss } = scope(() => model.forward({ inputIds, labels, cuSeqlens, outputHiddenStates: true, outputLogits: false }))
  for (const [i, hidden] of (hiddenStates ?? []).entries()) yield [i === 0 ? 'the embeddings' : `the output of layer ${i - 1}`, hidden]
  yield ['the loss', loss!]
}
