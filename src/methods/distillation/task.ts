import { collate, createSampler, totals, type Dataset, type LoadedDataset } from '../../data/index.ts'
import type { CausalLanguageModel } from '../../models/index.ts'
import type { TrainingTask } from '../../train/task.ts'
import type { Tokenizer } from '../../tokenizers/index.ts'
import { modelKeeping } from '../model.ts'
import { StudentWithProjections } from './features.ts'
import { distillationLoss, type DistillBatch, type LossOptions } from './loss.ts'
import { chance, promptOf, sampledBatch, type SamplingOptions } from './onPolicy.ts'
import type { Recording } from './recording.ts'
import type { UniversalAligner } from './universalBatch.ts'

/** What a distillation task takes: student, live or recorded teacher, and data. */
export interface DistillationTaskOptions {
  student: CausalLanguageModel
  teacher?: CausalLanguageModel | undefined
  recording?: Recording | undefined
  /** Of a teacher with another tokenizer. */
  aligner?: UniversalAligner | undefined
  tokenizer?: Tokenizer
  data: Pick<LoadedDataset, 'train' | 'eval' | 'fingerprint'>
  loss: LossOptions
  /** Probability of the student's own completions. */
  lmbda: number
  /** Completions of the teacher where they are not the student's. */
  seqKd: boolean
  sampling: SamplingOptions
  perDeviceTrainBatchSize: number
  perDeviceEvalBatchSize: number
  gradientAccumulationSteps: number
  seed: number
  sample?: () => Promise<{ prompt: string; text: string }[]>
}

/** A dataset's examples as a batch, with what was recorded for them. `offset` is where the dataset's rows begin in the recording. */
function batchOf(dataset: Dataset, indices: Iterable<number>, recording: Recording | undefined, offset = 0): DistillBatch {
  const rows = [...indices]
  const batch = collate(rows.map((index) => dataset.get(index)))
  return recording ? { ...batch, recorded: rows.map((index) => recording.row(offset + index)) } : batch
}

/**
 * Distillation as a TrainingTask: batches of the data, or of completions that the student or the teacher writes for the data's prompts, and the
 * divergence from the teacher. With pairs of hidden layers the projections are trained and saved beside the student.
 */
export function distillationTask(options: DistillationTaskOptions): TrainingTask<DistillBatch> {
  const { student, teacher, recording, aligner, tokenizer, data, lmbda, seqKd, sampling, seed } = options
  const { perDeviceTrainBatchSize, perDeviceEvalBatchSize, gradientAccumulationSteps } = options
  const sampler = createSampler(data.train.length, { perDeviceTrainBatchSize, gradientAccumulationSteps, seed })
  const pairs = options.loss.hiddenLayers.length
  const wrapped = pairs > 0 && teacher ? new StudentWithProjections(student, teacher.config.hiddenSize, pairs, seed) : undefined
  const keeping = modelKeeping(student, tokenizer)
  const parts = { student, teacher, projections: wrapped?.projections ?? [] }

  async function microBatch(step: number, number: number, indices: Uint32Array): Promise<DistillBatch> {
    const writer = lmbda > 0 && chance(seed, step, number) < lmbda ? student : seqKd ? teacher! : undefined
    if (!writer) return batchOf(data.train, indices, recording)
    const prompts = Array.from(indices, (index) => promptOf(data.train.get(index)))
    return await sampledBatch(writer, prompts, seed + step * gradientAccumulationSteps + number, sampling)
  }

  const aligned = (batch: DistillBatch): DistillBatch => aligner ? { ...batch, universal: aligner.align(batch) } : batch

  return {
    name: 'distill', model: wrapped ?? student, fingerprint: data.fingerprint, stepsPerEpoch: sampler.stepsPerEpoch,
    ...keeping,
    ...(wrapped ? {
      async save(folder: string) {
        await keeping.save(folder)
        await wrapped.save(folder)
      },
      async load(folder: string) {
        await keeping.load(folder)
        await wrapped.load(folder)
      },
    } : {}),
    async batches(step) {
      await sampler.prepare(step)
      const microBatches: DistillBatch[] = []
      for (const [number, indices] of sampler.at(step).microBatches.entries()) microBatches.push(aligned(await microBatch(step, number, indices)))
      return { microBatches, ...totals(microBatches) }
    },
    loss: (batch, numItems) => distillationLoss(parts, batch, numItems, options.loss),
    ...(data.eval ? { evaluation: () => evaluation(data.eval!, perDeviceEvalBatchSize, (rows) => aligned(batchOf(data.eval!, rows, recording, data.train.length))) } : {}),
    ...(options.sample ? { sample: options.sample } : {}),
  }
}

function* evaluation({ length }: Dataset, size: number, batchAt: (rows: number[]) => DistillBatch): Generator<{ batch: DistillBatch, numItems: number }> {
  for (let start = 0; start < length; start += size) {
    const batch = batchAt(Array.from({ length: Math.min(size, length - start) }, (_, i) => start + i))
    yield { batch, numItems: batch.numItems }
  }
}
