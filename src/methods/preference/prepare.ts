import { ConfigError } from '../../errors.ts'
import { loadPreferences, type CompletionExample, type LoadedPreferences, type LoadPreferenceOptions } from '../../data/index.ts'
import { disableDropout, readConfig, type AnyModelConfig, type CausalLanguageModel, type PretrainedModel } from '../../models/index.ts'
import { Tokenizer } from '../../tokenizers/index.ts'
import { Trainer } from '../../train/trainer.ts'
import type { TrainResult } from '../../train/trainer.ts'
import type { TrainingTask } from '../../train/task.ts'
import { decisiveModelOptions, loadModel } from '../model.ts'
import { trainingPart } from '../options.ts'
import { Owned } from '../../owned.ts'
import { checkVocabulary, sampleTexts, type RowsInput } from '../prepare.ts'
import type { PreferenceArguments, RewardArguments } from './options.ts'
import type { Windowed } from './task.ts'
import { trainAndSave } from '../trainAndSave.ts'

/** A prepared run on preference data; dispose() releases everything but the model. */
export interface PreparedPreferenceRun<E = unknown, B = unknown, M extends PretrainedModel = CausalLanguageModel> {
  trainer: Trainer<Windowed<B>>
  model: M
  tokenizer: Tokenizer
  data: LoadedPreferences<E>
  /** Trains, and saves the final model and tokenizer into outputDir. */
  train: (options?: { signal?: AbortSignal }) => Promise<TrainResult>
  dispose: () => void
}

/** The options of a method on preference data, and rows that a program has. */
export type WithRows<Options> = Options & RowsInput

type DataOptions<E> = Pick<LoadPreferenceOptions<Tokenizer, E>, 'make' | 'tokensOf'>
type AnyArguments = PreferenceArguments | RewardArguments

/** Reads the tokenizer and the data that the options name, and checks both against the model's config. */
export async function loadTokenizerAndData<E extends object>(args: AnyArguments, options: DataOptions<E> & RowsInput & { longest: (example: E) => number, config?: AnyModelConfig }): Promise<{ tokenizer: Tokenizer, data: LoadedPreferences<E> }> {
  const { files, datasets, columns, evalSplit, evalFiles, truncationMode, onBadRow, maxLength, seed } = args
  const { rows, evalRows } = options
  if (!files && !datasets && !rows) throw new ConfigError('files: name the training data, such as files: data/*.jsonl, or give rows')
  const folder = args.tokenizer ?? args.model
  const config = options.config ?? await readConfig(args.model)
  const tokenizer = await Tokenizer.fromPretrained(folder)
  checkVocabulary(tokenizer, config, folder)
  const given = Object.fromEntries(Object.entries({ files, datasets, rows, columns, evalSplit, evalFiles, evalRows }).filter(([, value]) => value !== undefined))
  const data = await loadPreferences<Tokenizer, E>({ ...given, tokenizer, truncationMode, onBadRow, maxLength, seed, make: options.make, tokensOf: options.tokensOf })
  for (const example of [...data.train, ...data.eval ?? []]) {
    const length = options.longest(example)
    if (length > config.maxPositionEmbeddings) {
      throw new ConfigError(`maxLength: the data has a row of ${length} tokens, but the model has ${config.maxPositionEmbeddings} positions; set maxLength to at most ${config.maxPositionEmbeddings}`)
    }
  }
  return { tokenizer, data }
}

/** The policy of a folder, its dropout off unless the options want it. */
export async function loadPolicy(args: PreferenceArguments): Promise<CausalLanguageModel> {
  const model = await loadModel(args.model, args)
  if (args.disableDropout) disableDropout(model)
  return model
}

/** The part of a task that the options decide. */
export const taskArguments = ({ perDeviceTrainBatchSize, perDeviceEvalBatchSize, gradientAccumulationSteps, seed }: AnyArguments) =>
  ({ perDeviceTrainBatchSize, perDeviceEvalBatchSize, gradientAccumulationSteps, seed })

/** Options that decide the numbers of a run: the model's, and those named. */
export function decisive<A extends AnyArguments>(args: A, names: readonly (keyof A & string)[]): Readonly<Record<string, unknown>> {
  const model = decisiveModelOptions({ samplePrompts: [], ...args })
  return { ...model, ...Object.fromEntries((['disableDropout', ...names] as const).map((name) => [name, args[name as keyof A] ?? null])) }
}

/** What the model writes after each evaluation. */
export const sampling = (model: CausalLanguageModel, tokenizer: Tokenizer, prompts: readonly string[]): { sample?: () => Promise<{ prompt: string, text: string }[]> } =>
  (prompts.length > 0 ? { sample: () => sampleTexts(model, tokenizer, [...prompts]) } : {})

/** Puts model, tokenizer, data and task together into a trainer. The run releases what is owned, and the trainer with it. */
export function preparePreferenceRun<E, B, M extends PretrainedModel>(
  args: AnyArguments & { learningRate: number }, parts: { model: M, tokenizer: Tokenizer, data: LoadedPreferences<E>, task: TrainingTask<Windowed<B>>, final?: Pick<TrainingTask<unknown>, 'save'>, owned?: Owned },
): PreparedPreferenceRun<E, B, M> {
  const { model, tokenizer, data, task, owned = new Owned(), final = task } = parts
  const trainer = owned.add(new Trainer(task, trainingPart(args)))
  return {
    trainer, model, tokenizer, data,
    train: trainAndSave(trainer, () => final.save(args.outputDir)),
    dispose: () => { owned.dispose() },
  }
}

export const lengthOf = ({ inputIds }: CompletionExample): number => inputIds.length
