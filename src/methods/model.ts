import { resolve } from 'node:path'
import { ConfigError } from '../errors.ts'
import { activeAdapters, addAdapter, hasAdapters, loadAdapter, loadAdapterWeights, saveAdapter } from '../adapters/index.ts'
import { AutoModelForCausalLM, AutoModelForMaskedLM, weightBytes } from '../models/index.ts'
import type { CausalLanguageModel, MaskedLanguageModel, PretrainedModel } from '../models/index.ts'
import { loadWeights } from '../models/weights.ts'
import { bytesOf } from '../tensor/index.ts'
import { Tokenizer } from '../tokenizers/index.ts'
import type { ModelArguments } from './options.ts'

type Freezing = Pick<ModelArguments, 'trainable' | 'freeze'>

type Loading = ModelArguments & { gradientCheckpointing: boolean, seed: number, outputDir?: string }

/** The causal language model of a folder, as a method's options say, ready to be trained. */
export async function loadModel(folder: string, args: Loading): Promise<CausalLanguageModel> {
  const { quantize } = args
  checkOutput(folder, args)
  checkAdapterChoice(args)
  return adapted(await AutoModelForCausalLM.fromPretrained(folder, { dtype: args.dtype, device: args.device, ...(quantize === undefined ? {} : { quantize }) }), folder, args)
}

/** The masked language model of a folder, ready to be trained. */
export async function loadMaskedModel(folder: string, args: Loading): Promise<MaskedLanguageModel> {
  checkOutput(folder, args)
  checkAdapterChoice(args)
  if (args.quantize !== undefined) throw new ConfigError('quantize: an encoder is trained in full precision; leave quantize out')
  return adapted(await AutoModelForMaskedLM.fromPretrained(folder, { dtype: args.dtype, device: args.device }), folder, args)
}

/** The trained model would take the place of the one it starts from; an adapter lies beside it. */
function checkOutput(folder: string, { outputDir, adapter, adapterPath }: Loading): void {
  if (outputDir === undefined || adapter || adapterPath !== undefined || resolve(outputDir) !== resolve(folder)) return
  throw new ConfigError(`outputDir: expected another folder than that of the model, ${folder}, which would be lost`)
}

function checkAdapterChoice({ adapter, adapterPath }: Pick<ModelArguments, 'adapter' | 'adapterPath'>): void {
  if (adapter && adapterPath !== undefined) throw new ConfigError('adapter, adapterPath: a new adapter, or one to go on with; not both')
}

/** The model with the adapter that the options name. */
async function adapted<M extends PretrainedModel>(model: M, folder: string, args: Loading): Promise<M> {
  const { adapter, adapterPath } = args
  try {
    if (adapter) await addAdapter(model, adapter, { seed: args.seed, baseModel: folder, ...await textEncoder(folder, args) })
    else if (adapterPath !== undefined) await loadAdapter(model, adapterPath, { isTrainable: true, baseModel: folder })
    if (model.quantizationConfig && !hasAdapters(model)) throw new ConfigError('quantize: quantised weights are not trained themselves; add an adapter, such as adapter: { type: "lora", targetModules: "all-linear" }')
    prepareModel(model, args)
    return model
  } catch (error) {
    model.dispose()
    throw error
  }
}

/** The tokenizer's encode, where an adapter starts from a text. */
async function textEncoder(folder: string, { adapter, tokenizer }: ModelArguments): Promise<{ encode?: (text: string) => number[] }> {
  if (adapter?.type !== 'prompt' || adapter.promptTuningInit !== 'TEXT') return {}
  const own = await Tokenizer.fromPretrained(tokenizer ?? folder)
  return { encode: (text) => own.encode(text) }
}

/** Sets what is trained, and whether layers are recomputed. */
export function prepareModel(model: PretrainedModel, args: Freezing & { gradientCheckpointing: boolean }): void {
  applyFreezing(model, args)
  if (args.gradientCheckpointing) model.gradientCheckpointingEnable()
}

/** Leaves only the parameters that are to be trained with requiresGrad. */
function applyFreezing(model: PretrainedModel, { trainable, freeze }: Freezing): void {
  if (hasAdapters(model) && (trainable || freeze.length)) throw new ConfigError('trainable, freeze: an adapter says itself what is trained; leave them out, or choose adapter: { type: "freeze" }')
  if (trainable) {
    model.requiresGrad_(false)
    for (const pattern of trainable) model.requiresGrad_(true, pattern)
  }
  for (const pattern of freeze) model.requiresGrad_(false, pattern)
  if (model.numParameters({ onlyTrainable: true }) === 0) throw new ConfigError('freeze: nothing is left to train')
}

/** How a task keeps its model, or of a model with adapters the active one: the parts of a TrainingTask that save, load and describe it. */
export function modelKeeping(model: PretrainedModel, tokenizer: Tokenizer | undefined): {
  description: string, saveBytes: number, save: (folder: string) => Promise<void>, load: (folder: string) => Promise<void>
} {
  const names = hasAdapters(model) ? activeAdapters(model) : undefined
  const kept = model.parameters().filter(({ requiresGrad }) => requiresGrad)
  return {
    description: `${model.config.architecture}, ${(model.numParameters() / 1e6).toFixed(1)}M parameters`,
    saveBytes: names ? kept.reduce((bytes, { size, dtype }) => bytes + size * bytesOf(dtype), 0) : weightBytes(model),
    async save(folder) {
      if (names) await saveAdapter(model, folder)
      else await model.savePretrained(folder)
      await tokenizer?.savePretrained(folder)
    },
    load: (folder) => names ? loadAdapterWeights(model, folder) : loadWeights(model, folder, model.dtype, model.device),
  }
}

/** The options of the model that decide a run's numbers. */
export const decisiveModelOptions = ({ dtype, freeze, trainable, adapter, quantize }: ModelArguments): Readonly<Record<string, unknown>> =>
  ({ dtype, freeze, trainable: trainable ?? null, adapter: adapter ?? null, quantize: quantize ?? null })
