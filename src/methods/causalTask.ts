import { createSampler, evalBatches, stepBatch } from '../data/index.ts'
import type { Batch, Dataset } from '../data/index.ts'
import { sum } from '../ops/index.ts'
import type { CausalLanguageModel } from '../models/index.ts'
import type { Tensor } from '../tensor/index.ts'
import { scope } from '../tensor/index.ts'
import type { Tokenizer } from '../tokenizers/index.ts'
import type { LossResult, TrainingTask } from '../train/task.ts'
import { modelKeeping } from './model.ts'

/** What `causalTask` takes: a model and tokenized data. */
export interface CausalTaskOptions {
  name: string
  model: CausalLanguageModel
  /** Saved with the model. */
  tokenizer?: Tokenizer
  trainDataset: Dataset
  evalDataset?: Dataset
  /** Names the data; a run resumes only with the same. */
  fingerprint: string
  perDeviceTrainBatchSize: number
  perDeviceEvalBatchSize: number
  gradientAccumulationSteps: number
  labelSmoothingFactor: number
  seed: number
  sample?: () => Promise<{ prompt: string; text: string }[]>
}

/**
 * Next-token prediction over flat batches: pretraining and SFT differ in their data only. The loss is the sum of -log p over trained tokens
 * divided by their number in the whole optimizer step, so accumulating 8 × 1 rows equals 1 × 8.
 */
export function causalTask(options: CausalTaskOptions): TrainingTask<Batch> {
  const { name, model, tokenizer, trainDataset, evalDataset, fingerprint, labelSmoothingFactor, seed } = options
  const { perDeviceTrainBatchSize, perDeviceEvalBatchSize, gradientAccumulationSteps } = options
  const sampler = createSampler(trainDataset.length, { perDeviceTrainBatchSize, gradientAccumulationSteps, seed })
  return {
    name, model, fingerprint,
    ...modelKeeping(model, tokenizer),
    stepsPerEpoch: sampler.stepsPerEpoch,
    batches: (step) => stepBatch(trainDataset, sampler, step),
    loss: (batch, numItems) => causalLoss(model, batch, numItems, model.training ? labelSmoothingFactor : 0),
    ...(evalDataset ? {
      *evaluation() { for (const batch of evalBatches(evalDataset, perDeviceEvalBatchSize)) yield { batch, numItems: batch.numItems } },
    } : {}),
    ...(options.sample ? { sample: options.sample } : {}),
    trace: (batch) => traceForward(model, batch),
  }
}

function causalLoss(model: CausalLanguageModel, batch: Batch, numItems: number, labelSmoothing: number): LossResult {
  const { inputIds, labels, cuSeqlens } = batch
  const { loss, correct } = model.forward({ inputIds, labels, cuSeqlens, numItems: Math.max(numItems, 1), labelSmoothing })
  return { loss: loss!, ...(correct ? { sums: { meanTokenAccuracy: { sum: sum(correct), count: batch.numItems } } } : {}) }
}

/** What a forward pass computes, in order, by name. */
function* traceForward(model: CausalLanguageModel, { inputIds, labels, cuSeqlens }: Batch): Generator<readonly [string, Tensor]> {
  const { hiddenStates, loss } = scope(() => model.forward({ inputIds, labels, cuSeqlens, outputHiddenStates: true, outputLogits: false }))
  for (const [i, hidden] of (hiddenStates ?? []).entries()) {
    yield [i === 0 ? 'the token embeddings' : i === hiddenStates!.length - 1 ? 'the output of the last layer and norm' : `the output of layer ${i - 1}`, hidden]
  }
  yield ['the loss', loss!]
}
