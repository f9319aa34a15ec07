import { join } from 'node:path'
import { FileFormatError } from '../errors.ts'
import { givenOptions } from '../options.ts'
import { makeFolder, openSafetensors, readJsonObject, replaceFile, writeSafetensors, type SafetensorsDtype, type SafetensorsFile, type TensorSource } from '../files/index.ts'
import { floatDtypes, shapeText, tensorSource } from '../files/tensorFiles.ts'
import { CausalLanguageModel, PretrainedModel } from '../models/index.ts'
import { Conv1D, LinearLayer, type Module, type Parameter } from '../nn/index.ts'
import { didYouMean } from '../suggest.ts'
import { Tensor, unscoped } from '../tensor/index.ts'
import { activeAdapters, adapterOf, addAdapter, baseModelOf, deleteAdapter, noteChange, setAdapter } from './adapterSet.ts'
import { usualNormsOf } from './lnTuning.ts'
import { adapterSchema, type AdapterInput, type AdapterOptions } from './options.ts'
import { fromPeftConfig, toPeftConfig } from './peftConfig.ts'
import { innermost, resolveTargets, sites, usualTargetsOf } from './targets.ts'
import { virtualTokensConfig, type TrainedTokens } from './virtualTokens.ts'

const configName = 'adapter_config.json'
const weightsName = 'adapter_model.safetensors'
const prefix = 'base_model.model.'
/** Beside PEFT's two files, which do not have them: the parameters that make virtual tokens, so that training can go on. */
const encoderName = 'prompt_encoder.safetensors'
const virtualTokensName = 'prompt_embeddings'

/** The targets as PEFT writes them: names, or whole paths where "all-linear" was asked for. */
function writtenTargets(model: Module, options: AdapterOptions): AdapterOptions {
  if (options.type === 'lntuning') return { ...options, targetModules: options.targetModules ?? [...usualNormsOf(model)] }
  if (options.type !== 'lora' && options.type !== 'ia3') return options
  const { targetModules } = options
  const written = targetModules === 'all-linear' ? resolveTargets(model, options.type, options).map(([path]) => path) : targetModules ?? [...usualTargetsOf(model, options.type)]
  if (options.type === 'lora') return { ...options, targetModules: written }
  return { ...options, targetModules: written, feedforwardModules: options.feedforwardModules ?? (targetModules === undefined ? [...usualTargetsOf(model, 'feedforward')] : []) }
}

/** Whether the adapted layers keep their weight as [in, out], as GPT-2's do. */
const isFanInFanOut = (model: Module): boolean => [...sites(model)].some(([, module]) => module instanceof LinearLayer && innermost(module) instanceof Conv1D)

/** What `saveAdapter` takes beside the folder. */
export interface SaveAdapterOptions {
  /** Which of the model's adapters. Default: the active one. */
  name?: string
  /** Written as base_model_name_or_path: where the base model is found. Default: as it was given to addAdapter(). */
  baseModel?: string
  /** Written as task_type. Default: the model's, none for a masked language model. */
  taskType?: string | undefined
}

/** PEFT's name of what a model is for. */
function taskTypeOf(model: Module): string | undefined {
  if (!(model instanceof PretrainedModel)) return 'CAUSAL_LM'
  const { architecture } = model.config
  if (architecture.endsWith('ForSequenceClassification')) return 'SEQ_CLS'
  if (architecture.endsWith('ForTokenClassification')) return 'TOKEN_CLS'
  return model instanceof CausalLanguageModel ? 'CAUSAL_LM' : undefined
}

/** Writes adapter_config.json and adapter_model.safetensors, as PEFT's save_pretrained does and its from_pretrained reads. */
export async function saveAdapter(model: Module, folder: string, given: SaveAdapterOptions = {}): Promise<void> {
  const { name = activeAdapters(model)[0] ?? 'default', baseModel = baseModelOf(model), taskType = taskTypeOf(model) } = givenOptions('saveAdapter', given, "name: 'default'")
  const adapter = adapterOf(model, name)
  const { options, virtualTokens } = adapter
  const written = writtenTargets(model, options)
  await makeFolder(folder)
  const own = (start: string): TensorSource[] => [...adapter.parameters()].map(([key, parameter]) => tensorSource(`${start}${key}`, parameter.tensor))
  if (virtualTokens) {
    using values = virtualTokens.snapshot()
    await writeSafetensors(join(folder, weightsName), [tensorSource(virtualTokensName, values)], { format: 'pt' })
    if (virtualTokens.isEncoded) await writeSafetensors(join(folder, encoderName), own(''), { format: 'pt' })
  } else {
    await writeSafetensors(join(folder, weightsName), own(prefix), { format: 'pt' })
  }
  const config = toPeftConfig(written, {
    base_model_name_or_path: baseModel ?? null, task_type: taskType ?? null, ...virtualTokensConfig(model, options, baseModel), ...(written.type === 'lora' || written.type === 'ia3' ? { fan_in_fan_out: isFanInFanOut(model) } : {}),
  })
  await replaceFile(join(folder, configName), `${JSON.stringify(config, undefined, 2)}\n`)
}

/** The file's name of a parameter, as any PEFT wrote it: one of an adapted embedding repeats the base's table, which is passed over. */
function storedName(file: SafetensorsFile, key: string, virtualTokens: TrainedTokens | undefined): string {
  if (virtualTokens) return virtualTokens.isEncoded ? key : virtualTokensName
  return file.tensors.has(`${prefix}${key}`) || !file.tensors.has(key) ? `${prefix}${key}` : key
}

/** Reads the values of an adapter's parameters from a folder that saveAdapter() or PEFT wrote. Throws FileFormatError naming what does not fit. */
export async function loadAdapterWeights(model: Module, folder: string, name = activeAdapters(model)[0] ?? 'default'): Promise<void> {
  const adapter = adapterOf(model, name)
  const { virtualTokens } = adapter
  const path = join(folder, virtualTokens?.isEncoded ? encoderName : weightsName)
  const file = await openSafetensors(path)
  try {
    const wanted = new Map([...adapter.parameters()].map(([key, parameter]) => [storedName(file, key, virtualTokens), parameter]))
    const found = [...wanted].map(([key, parameter]) => [parameter, checked(file, path, key, parameter)] as const)
    const extra = [...file.tensors.keys()].find((key) => !wanted.has(key) && !key.endsWith('.base_layer.weight'))
    if (extra !== undefined) throw new FileFormatError(`${path}: tensor ${JSON.stringify(extra)}: the adapter has no such parameter in this model${didYouMean(extra, wanted.keys())}; it was made for another base, or with other targets than ${configName} says`)
    noteChange(model, name)
    for (const [parameter, { dtype, byteOffset }] of found) {
      using stored = unscoped(() => Tensor.empty(parameter.shape, { dtype: floatDtypes[dtype]!, device: parameter.device }))
      stored.device.native.readFile(stored.handle, file.fd, byteOffset, path)
      stored.device.kernels.convert(parameter.tensor.handle, stored.handle)
    }
    await model.parameters()[0]!.device.fence()
  } finally {
    await file.close()
  }
}

function checked(file: SafetensorsFile, path: string, key: string, parameter: Parameter): { dtype: SafetensorsDtype, byteOffset: number } {
  const entry = file.tensors.get(key)
  if (!entry) throw new FileFormatError(`${path}: no tensor ${JSON.stringify(key)}, which ${configName} asks for${didYouMean(key, file.tensors.keys())}`)
  if (entry.shape.join() !== parameter.shape.join()) throw new FileFormatError(`${path}: tensor ${JSON.stringify(key)}: expected shape ${shapeText(parameter.shape)}, as the model and ${configName} say, got ${shapeText(entry.shape)}; the adapter was made for another base`)
  if (!floatDtypes[entry.dtype]) throw new FileFormatError(`${path}: tensor ${JSON.stringify(key)}: expected dtype ${Object.keys(floatDtypes).join(', ')}, got ${entry.dtype}`)
  return entry
}

/** What `loadAdapter` takes beside the folder. */
export interface LoadAdapterOptions {
  /** Names it among the model's adapters. Default "default". */
  name?: string
  /** Whether it is to be trained further. Default false, as in PEFT. */
  isTrainable?: boolean
  /** Where the base model is found; saved with the adapter. Default: what the file says. */
  baseModel?: string
}

/** The option names of a type of adapter. */
const namesOf = (type: string): string[] => Object.keys(adapterSchema.options.find((schema) => schema.shape.type.value === type)!.shape)

/**
 * Adds an adapter from a folder that PEFT's save_pretrained or saveAdapter() wrote, and makes it the active one. Returns warnings about keys of
 * adapter_config.json that are unknown. Throws FileFormatError where it does not fit the model, which is then as before.
 */
export async function loadAdapter(model: Module, folder: string, options: LoadAdapterOptions = {}): Promise<{ warnings: string[] }> {
  const { name = 'default', isTrainable = false, baseModel } = givenOptions('loadAdapter', options, "name: 'default'")
  const before = [...activeAdapters(model)]
  const config = await readJsonObject(join(folder, configName))
  const { input, warnings } = fromPeftConfig(config, join(folder, configName), namesOf)
  const named = config['base_model_name_or_path']
  await addAdapter(model, input as AdapterInput, { name, isLoaded: true, baseModel: baseModel ?? (typeof named === 'string' ? named : undefined) })
  try {
    await loadAdapterWeights(model, folder, name)
  } catch (error) {
    deleteAdapter(model, name)
    if (before.length) setAdapter(model, before)
    throw error
  }
  for (const parameter of adapterOf(model, name).parameters().values()) parameter.requiresGrad = isTrainable
  return { warnings }
}
