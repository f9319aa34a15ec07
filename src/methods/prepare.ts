import { ConfigError } from '../errors.ts'
import { loadDataset } from '../data/index.ts'
import type { LoadDatasetOptions, LoadedDataset, Rows } from '../data/index.ts'
import { generate } from '../generate/index.ts'
import type { AnyModelConfig, CausalLanguageModel, PretrainedModel } from '../models/index.ts'
import { Tokenizer } from '../tokenizers/index.ts'
import { Turns } from '../turns.ts'
import { Trainer } from '../train/trainer.ts'
import type { Batch } from '../data/index.ts'
import { causalTask, type ComputeLoss } from './causalTask.ts'
import { decisiveModelOptions, prepareModel } from './model.ts'
import { trainingPart } from './options.ts'
import type { dataShape, PretrainArguments, SftArguments } from './options.ts'
import { trainAndSave } from './trainAndSave.ts'

type Arguments = SftArguments | PretrainArguments

/** The options that say which data is read, and how. */
export type DataArguments = Pick<SftArguments, keyof typeof dataShape | 'maxLength' | 'packing' | 'seed'>

/** Rows that a program gives beside the options that a file can hold. */
export interface RowsInput {
  /** Rows in memory, instead of files: an array, or an iterable, also an async one, that is read to its end before training. */
  rows?: Rows | undefined
  /** Rows for evaluation, instead of evalFiles or evalSplit. */
  evalRows?: Rows | undefined
}

/** A vocabulary that the embedding does not cover would read past its end. */
export function checkVocabulary(tokenizer: Tokenizer, config: AnyModelConfig, where: string): void {
  if (tokenizer.embeddingRows > config.vocabSize) {
    throw new ConfigError(`${where}: the tokenizer has ids up to ${tokenizer.embeddingRows - 1}, but the model's embedding has ${config.vocabSize} rows; use the model's own tokenizer or a model with a larger vocabulary`)
  }
}

/** Reads and tokenizes the data that the options name, or that is given. */
export async function loadData(args: DataArguments, tokenizer: Tokenizer, { rows, evalRows, ...extra }: Partial<Omit<LoadDatasetOptions<Tokenizer>, 'rows' | 'evalRows'>> & RowsInput): Promise<LoadedDataset> {
  const { files, datasets, mixStrategy, format, columns, evalSplit, evalFiles, truncationMode, cacheDir, workers, onBadRow, maxLength, packing, seed } = args
  if (!files && !datasets && !rows) throw new ConfigError('files: name the training data, such as files: data/*.jsonl, or give rows')
  const given = Object.entries({ files, datasets, rows, mixStrategy, format, columns, evalSplit, evalFiles, evalRows, cacheDir, workers }).filter(([, value]) => value !== undefined)
  return loadDataset({
    ...Object.fromEntries(given), tokenizer, truncationMode, onBadRow, maxLength, packing, seed, ...extra,
  })
}

/** A row longer than the model's positions, less those of virtual tokens, would fail in the middle of a run. */
export async function checkLengths({ train, eval: held }: LoadedDataset, { maxPositionEmbeddings }: AnyModelConfig, virtualTokens = 0): Promise<void> {
  const turns = new Turns()
  const room = maxPositionEmbeddings - virtualTokens
  for (const dataset of held ? [train, held] : [train]) {
    for (let i = 0; i < dataset.length; i++) {
      if (i % 4096 === 0 && turns.due) await turns.take()
      const { sequenceLengths } = dataset.lengthOf(i) > room ? dataset.get(i) : {}
      const longest = sequenceLengths ? Math.max(...sequenceLengths) : dataset.lengthOf(i)
      if (longest > room) {
        const taken = virtualTokens ? `, ${virtualTokens} of them for virtual tokens` : ''
        throw new ConfigError(`maxLength: the data has a row of ${longest} tokens, but the model has ${maxPositionEmbeddings} positions${taken}; set maxLength to at most ${room}`)
      }
    }
  }
}

/** What a prepared run holds; dispose() releases everything but the model. */
export interface PreparedRun<M extends PretrainedModel = CausalLanguageModel> {
  trainer: Trainer<Batch>
  model: M
  tokenizer: Tokenizer
  data: LoadedDataset
  /** Trains, and saves the final model and tokenizer into outputDir. */
  train: (options?: { signal?: AbortSignal }) => ReturnType<Trainer<Batch>['train']>
  dispose: () => void
}

/** Puts model, tokenizer and data together into a trainer. */
export function prepareRun(name: string, args: Arguments, model: CausalLanguageModel, tokenizer: Tokenizer, data: LoadedDataset, computeLoss?: ComputeLoss): PreparedRun {
  const { samplePrompts } = args
  const task = causalTask({
    name, model, tokenizer, ...datasetPart(args, data), computeLoss,
    ...(samplePrompts.length > 0 ? { sample: () => sampleTexts(model, tokenizer, samplePrompts) } : {}),
  })
  const trainer = new Trainer({ ...task, decisiveOptions: decisiveModelOptions(args) }, trainingPart(args))
  return runOf(trainer, { model, tokenizer, data }, () => task.save(args.outputDir))
}

/** What tasks take of the data, the batches and the seed. */
export const datasetPart = ({ perDeviceTrainBatchSize, perDeviceEvalBatchSize, gradientAccumulationSteps, labelSmoothingFactor, seed }: Arguments, data: LoadedDataset) => ({
  trainDataset: data.train, ...(data.eval ? { evalDataset: data.eval } : {}), fingerprint: data.fingerprint,
  perDeviceTrainBatchSize, perDeviceEvalBatchSize, gradientAccumulationSteps, labelSmoothingFactor, seed,
})

/** A trainer with what it trains and reads, as a run that saves its result with `save`; `release` frees what else it holds. */
export function runOf<M extends PretrainedModel>(
  trainer: Trainer<Batch>, { model, tokenizer, data }: Pick<PreparedRun<M>, 'model' | 'tokenizer' | 'data'>, save: () => Promise<void>, release?: () => void,
): PreparedRun<M> {
  return {
    trainer, model, tokenizer, data, train: trainAndSave(trainer, save),
    dispose() {
      trainer.dispose()
      data.close()
      release?.()
    },
  }
}

interface Pretraining<M extends PretrainedModel> {
  create: () => M
  load: (folder: string) => Promise<M>
  run: (model: M, data: LoadedDataset) => PreparedRun<M>
}

/** Pretraining's data, and its model: a new one, or one to continue. */
export async function pretrainingRun<M extends PretrainedModel>(
  args: PretrainArguments, given: RowsInput, tokenizer: Tokenizer, config: AnyModelConfig, { create, load, run }: Pretraining<M>,
): Promise<PreparedRun<M>> {
  checkVocabulary(tokenizer, config, (args.tokenizer ?? args.model)!)
  if (args.maxLength > config.maxPositionEmbeddings) throw new ConfigError(`maxLength: ${args.maxLength} is more than the model's ${config.maxPositionEmbeddings} positions`)
  const data = await loadData(args, tokenizer, { ...given, sampleBy: args.sampleBy })
  let model: M | undefined
  try {
    if (args.model === undefined) {
      if (args.adapter ?? args.adapterPath) throw new ConfigError('adapter: a new model has nothing to adapt; give model')
      model = create()
      prepareModel(model, args)
    } else {
      model = await load(args.model)
    }
    return run(model, data)
  } catch (error) {
    model?.dispose()
    data.close()
    throw error
  }
}

/** What a model makes of prompts, for the log. */
export async function sampleTexts(model: CausalLanguageModel, tokenizer: Tokenizer, prompts: string[]): Promise<{ prompt: string; text: string }[]> {
  const wasTraining = model.training
  model.eval()
  try {
    const outputs = await generate(model, tokenizer, prompts, { maxNewTokens: 60 })
    return prompts.map((prompt, i) => ({ prompt, text: outputs[i]!.text }))
  } finally {
    model.train(wasTraining)
  }
}
