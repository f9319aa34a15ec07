import { ConfigError } from '../errors.ts'
import { createSampler, evalBatches, stepBatch } from '../data/index.ts'
import type { Batch, Dataset } from '../data/index.ts'
import { sum } from '../ops/index.ts'
import type { CausalLanguageModel } from '../models/index.ts'
import { scope, Tensor } from '../tensor/index.ts'
import type { Tokenizer } from '../tokenizers/index.ts'
import type { LossResult, TrainingTask } from '../train/task.ts'
import { modelKeeping } from './model.ts'

/**
 * A loss in place of the language model's. `numItems` is the trained tokens of the whole optimizer step, by which the sum over the batch's tokens is to be
 * divided, so that accumulated batches equal one large one; evaluation gives 1 and divides itself. Sums that come with the loss are logged as metrics.
 */
export type ComputeLoss = (model: CausalLanguageModel, batch: Batch, numItems: number) => Tensor | LossResult

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
  computeLoss?: ComputeLoss | undefined
}

/**
 * Next-token prediction over flat batches: pretraining and SFT differ in their data only. The loss is the sum of -log p over trained tokens
 * divided by their number in the whole optimizer step, so accumulating 8 × 1 rows equals 1 × 8.
 */
export function causalTask(options: CausalTaskOptions): TrainingTask<Batch> {
  const { name, model, tokenizer, trainDataset, evalDataset, fingerprint, labelSmoothingFactor, seed } = options
  const { perDeviceTrainBatchSize, perDeviceEvalBatchSize, gradientAccumulationSteps, computeLoss } = options
  if (computeLoss && labelSmoothingFactor > 0) throw new ConfigError('labelSmoothingFactor: computeLoss takes the place of the loss that it smooths; leave it at 0')
  const sampler = createSampler(trainDataset.length, { perDeviceTrainBatchSize, gradientAccumulationSteps, seed })
  return {
    name, model, fingerprint,
    ...modelKeeping(model, tokenizer),
    stepsPerEpoch: sampler.stepsPerEpoch,
    async batches(step) {
      await sampler.prepare(step)
      return stepBatch(trainDataset, sampler, step)
    },
    loss: (batch, numItems) => computeLoss ? ownLoss(computeLoss(model, batch, Math.max(numItems, 1))) : causalLoss(model, batch, numItems, model.training ? labelSmoothingFactor : 0),
    ...(evalDataset ? {
      *evaluation() { for (const batch of evalBatches(evalDataset, perDeviceEvalBatchSize)) yield { batch, numItems: batch.numItems } },
    } : {}),
    ...(options.sample ? { sample: options.sample } : {}),
    trace: (batch) => traceForward(model, batch),
  }
}

function ownLoss(result: Tensor | LossResult): LossResult {
  const { loss, ...rest } = result instanceof Tensor ? { loss: result } : result
  if (!(loss instanceof Tensor) || loss.size !== 1) throw new ConfigError(`computeLoss: expected a tensor of one number, got ${loss instanceof Tensor ? `[${loss.shape.join(', ')}]; sum it and divide by numItems` : `a value of type ${typeof loss}`}`)
  return { loss, ...rest }
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
