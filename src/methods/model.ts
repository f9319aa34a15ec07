import { ConfigError } from '../errors.ts'
import { AutoModelForCausalLM } from '../models/index.ts'
import type { CausalLanguageModel } from '../models/index.ts'
import { loadWeights } from '../models/weights.ts'
import { bytesOf } from '../tensor/index.ts'
import type { Tokenizer } from '../tokenizers/index.ts'
import type { ModelArguments } from './options.ts'

type Freezing = Pick<ModelArguments, 'trainable' | 'freeze'>

/** The model of a folder, as a method's options say, ready to be trained. */
export async function loadModel(folder: string, args: ModelArguments & { gradientCheckpointing: boolean }): Promise<CausalLanguageModel> {
  const model = await AutoModelForCausalLM.fromPretrained(folder, { dtype: args.dtype, device: args.device })
  try {
    prepareModel(model, args)
    return model
  } catch (error) {
    model.dispose()
    throw error
  }
}

/** Sets what is trained, and whether layers are recomputed. */
export function prepareModel(model: CausalLanguageModel, args: Freezing & { gradientCheckpointing: boolean }): void {
  applyFreezing(model, args)
  if (args.gradientCheckpointing) model.gradientCheckpointingEnable()
}

/** Leaves only the parameters that are to be trained with requiresGrad. */
export function applyFreezing(model: CausalLanguageModel, { trainable, freeze }: Freezing): void {
  if (trainable) {
    model.requiresGrad_(false)
    for (const pattern of trainable) model.requiresGrad_(true, pattern)
  }
  for (const pattern of freeze) model.requiresGrad_(false, pattern)
  if (model.numParameters({ onlyTrainable: true }) === 0) throw new ConfigError('freeze: nothing is left to train')
}

/** How a task keeps its model: the parts of a TrainingTask that save, load and describe it. */
export function modelKeeping(model: CausalLanguageModel, tokenizer: Tokenizer | undefined): {
  description: string, saveBytes: number, save: (folder: string) => Promise<void>, load: (folder: string) => Promise<void>
} {
  return {
    description: `${model.config.architecture}, ${(model.numParameters() / 1e6).toFixed(1)}M parameters`,
    saveBytes: model.parameters().reduce((bytes, { size, dtype }) => bytes + size * bytesOf(dtype), 0),
    async save(folder) {
      await model.savePretrained(folder)
      await tokenizer?.savePretrained(folder)
    },
    load: (folder) => loadWeights(model, folder, model.dtype, model.device),
  }
}

/** The options of the model that decide a run's numbers. */
export const decisiveModelOptions = ({ dtype, freeze, trainable }: ModelArguments): Readonly<Record<string, unknown>> => ({ dtype, freeze, trainable: trainable ?? null })
