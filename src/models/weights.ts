import { access } from 'node:fs/promises'
import { join } from 'node:path'
import { during } from '../activity.ts'
import { ConfigError, FileFormatError } from '../errors.ts'
import { givenOptions } from '../options.ts'
import {
  makeFolder, openCheckpoint, readJsonObject, replaceFile, requireFreeSpace, safetensorsDtypes, writeCheckpoint, type CheckpointTensor, type CheckpointWeights, type TensorSource,
} from '../files/index.ts'
import { didYouMean } from '../suggest.ts'
import type { Device, DType, Tensor } from '../tensor/index.ts'
import { AdapterPart } from '../nn/index.ts'
import { configToJson } from './config.ts'
import type { PretrainedModel } from './pretrainedModel.ts'
import type { RawConfig } from './configs/common.ts'
import type { QuantizationConfig } from './quantizedConfig.ts'
import { headConfig, headToQuantize, replaceHead, withBlocks } from './quantizedHead.ts'
import { layersToQuantize, outputsFirst, quantizeWeight, quantizedLayers, replaceByQuantized } from './quantizedLayers.ts'
import { findStoredLayers, quantizedSources, readStoredLayers, storedConfig, type StoredLayers } from './quantizedFiles.ts'
import { parseStoredQuantization, type StoredQuantization } from './quantizedStored.ts'
import { floatDtypes, placeOfTensor, readTensor, shapeText, tensorSource } from '../files/tensorFiles.ts'

/** LayerNorm's parameters as TensorFlow calls them, in BERT's first checkpoints. */
const oldNames: readonly (readonly [RegExp, string])[] = [[/(?<=(?:^|\.)LayerNorm\.)gamma$/, 'weight'], [/(?<=(?:^|\.)LayerNorm\.)beta$/, 'bias']]

/**
 * The parameter name a checkpoint means: base-model checkpoints leave `model.` or `transformer.` out, and base models read those that have it.
 * undefined: nothing of use.
 */
function parameterName(model: PretrainedModel, inFile: string, names: ReadonlyMap<string, unknown>): string | undefined {
  const stored = oldNames.reduce((name, [old, now]) => name.replace(old, now), inFile)
  const prefix = `${model.baseModelPrefix}.`
  const known = [stored, stored.startsWith(prefix) ? stored.slice(prefix.length) : prefix + stored].find((name) => names.has(name))
  return known ?? (model.ignoredTensors.test(stored) ? undefined : stored)
}

/**
 * Pairs each parameter with its tensor in the file, but for those of layers that lie there quantised. Nothing is allocated before every name, shape
 * and dtype fits.
 */
function matchTensors(model: PretrainedModel, weights: CheckpointWeights, stored: StoredLayers, mayBeNew: RegExp | undefined): { found: Map<string, CheckpointTensor>, fresh: string[] } {
  const names = new Map([...model.everyName()].filter(([name]) => !stored.weights.has(name)))
  const unique = new Map([...model.namedParameters()].filter(([name]) => names.has(name)).map(([name, parameter]) => [parameter, name]))
  const found = new Map<string, CheckpointTensor>()
  for (const [inFile, entry] of weights.tensors) {
    if (stored.claimed.has(inFile)) continue
    const name = parameterName(model, inFile, names)
    if (name === undefined) continue
    const parameter = names.get(name)
    if (!parameter) {
      throw new FileFormatError(`${placeOfTensor(entry, inFile)}: ${model.config.architecture} has no such parameter${didYouMean(inFile, names.keys())}`)
    }
    // A tied parameter's second name, such as lm_head.weight, is the same tensor again.
    if (unique.get(parameter) !== name) continue
    if (entry.shape.join() !== parameter.shape.join()) {
      throw new FileFormatError(`${placeOfTensor(entry, inFile)}: expected shape ${shapeText(parameter.shape)}, as config.json says, got ${shapeText(entry.shape)}`)
    }
    if (!floatDtypes[entry.dtype]) {
      throw new FileFormatError(`${placeOfTensor(entry, inFile)}: expected dtype ${Object.keys(floatDtypes).join(', ')}, got ${entry.dtype}; quantized weights need quantization_config in config.json`)
    }
    if (found.has(name)) throw new FileFormatError(`${weights.folder}: tensor ${JSON.stringify(name)} is there twice, with and without "${model.baseModelPrefix}."`)
    found.set(name, entry)
  }
  const absent = [...unique.values()].filter((name) => !found.has(name))
  const missing = absent.filter((name) => !mayBeNew?.test(name))
  if (missing.length) {
    const more = missing.length > 1 ? ` and ${missing.length - 1} more` : ''
    throw new FileFormatError(`${weights.folder}: no tensor ${JSON.stringify(missing[0])}${more} in the checkpoint, which ${model.config.architecture} needs${didYouMean(missing[0]!, weights.tensors.keys())}`)
  }
  return { found, fresh: absent }
}

/** float16 is for storage only. */
const ownDtype = (entry: CheckpointTensor): DType => (entry.dtype === 'F16' ? 'float32' : floatDtypes[entry.dtype]!)

/** The config of the folder's own weights, where they are quantised. */
async function readStored(folder: string): Promise<StoredQuantization | undefined> {
  const path = join(folder, 'config.json')
  if (!await access(path).then(() => true, () => false)) return undefined
  const { quantization_config: raw } = await readJsonObject(path)
  return raw ? parseStoredQuantization(raw as RawConfig, path) : undefined
}

/** The dtype in which a weight is read to be rounded to codes: as stored, but not finer than the model's, as a model loaded in full has it. */
function dtypeToQuantize(entry: CheckpointTensor, dtype: DType | 'auto'): DType {
  const own = floatDtypes[entry.dtype]!
  if (dtype === 'bfloat16') return dtype
  return own === 'float64' ? 'float32' : own
}

/**
 * Fills the parameters from a model folder, tensor by tensor: at no time are there more than the weights and one tensor of the file.
 * `dtype` 'auto' keeps each tensor's own, with float32 for float16. With `given` the linear layers, and the head where it says so, are rounded to codes as they are read. Layers that
 * lie in the folder quantised, as bitsandbytes, GPTQ or AWQ write them, are read as they are. Parameters whose names `fresh` has, those of a new head,
 * may be missing and get initial values. Throws FileFormatError naming the tensor that is missing, unknown or of another shape.
 */
export function loadWeights(
  model: PretrainedModel, folder: string, dtype: DType | 'auto', device: Device, given?: QuantizationConfig, fresh?: { names: RegExp, seed: number },
): Promise<void> {
  return during({ what: `loading the model ${folder}` }, () => readWeights(model, folder, dtype, device, given, fresh))
}

async function readWeights(...[model, folder, dtype, device, given, fresh]: Parameters<typeof loadWeights>): Promise<void> {
  const stored = await readStored(folder)
  if (given && stored) throw new ConfigError(`quantize: the weights of ${folder} are quantised already, by ${stored.layers?.method ?? 'anneal'}; leave quantize out, or start from the model before it was quantised`)
  const weights = await openCheckpoint(folder)
  try {
    const quantize = given && withBlocks(model, given)
    const layers = findStoredLayers(model, weights, stored)
    const parameters = new Map(model.namedParameters())
    const chosen = new Map([...quantize ? layersToQuantize(model, quantize) : []].map(([name, layer]) => [`${name}.weight`, { name, layer }]))
    const head = quantize?.head === undefined ? undefined : headToQuantize(model, quantize)
    const matched = matchTensors(model, weights, layers, fresh?.names)
    for (const [name, entry] of matched.found) {
      if (name === head?.parameter) {
        const read = readTensor(entry, dtypeToQuantize(entry, dtype), device)
        try {
          replaceHead(model, head, await quantizeWeight(read, headConfig(model, quantize!), placeOfTensor(entry, name)), dtype === 'auto' ? ownDtype(entry) : dtype)
        } finally {
          read.dispose()
        }
        continue
      }
      const target = chosen.get(name)
      if (!target) {
        parameters.get(name)!.replace(readTensor(entry, dtype === 'auto' ? ownDtype(entry) : dtype, device))
        continue
      }
      const read = readTensor(entry, dtypeToQuantize(entry, dtype), device)
      const weight = outputsFirst(target.layer, read)
      if (weight !== read) read.dispose()
      try {
        replaceByQuantized(model, target.name, await quantizeWeight(weight, quantize!, placeOfTensor(entry, name)))
      } finally {
        weight.dispose()
      }
    }
    for (const name of matched.fresh) parameters.get(name)!.initialise(name, fresh!.seed, dtype === 'auto' ? model.dtype : dtype, device)
    await readStoredLayers(model, layers, stored, dtype, device)
    await device.fence()
    if (quantize) model.quantizationConfig = quantize
    else if (stored) model.quantizationConfig = storedConfig(model)
  } catch (error) {
    // What is still being read needs its file.
    await device.fence().catch(() => undefined)
    model.dispose()
    throw error
  } finally {
    await weights.close()
  }
}

/** How a model is written: size of shards, dtype. */
export interface SaveOptions {
  /** Largest file, such as '5GB'; larger models are written in shards. Default 50GB. */
  maxShardSize?: number | string
  /** Default: that of the parameters. */
  dtype?: DType
  /** Values to write instead of the model's, by parameter name: float32 masters of a bfloat16 model, or an average over steps. */
  stateDict?: ReadonlyMap<string, Tensor>
}

/** The values of the parameters to write, in the model's order; converted ones live for their own turn only. */
function parameterSources(model: PretrainedModel, { dtype, stateDict }: SaveOptions): TensorSource[] {
  const names = new Map(model.everyName())
  for (const name of stateDict?.keys() ?? []) if (!names.has(name)) throw new ConfigError(`stateDict: the model has no parameter ${JSON.stringify(name)}${didYouMean(name, names.keys())}`)
  return [...model.namedParameters()].map(([name, parameter]) => {
    const tensor = stateDict?.get(name) ?? parameter.tensor
    if (tensor.shape.join() !== parameter.shape.join()) throw new ConfigError(`stateDict: ${name}: expected shape ${shapeText(parameter.shape)}, got ${shapeText(tensor.shape)}`)
    const wanted = dtype ?? tensor.dtype
    if (!Object.values(floatDtypes).includes(wanted)) throw new ConfigError(`dtype: expected ${Object.values(floatDtypes).join(', ')}, got ${wanted}`)
    return tensorSource(name, tensor, wanted)
  })
}

const json = (value: unknown): string => `${JSON.stringify(value, undefined, 2)}\n`

/**
 * Writes config.json, generation_config.json and the weights into a folder; each file appears complete or not at all. Quantised layers are written as
 * bitsandbytes (nf4, fp4) or GPTQ (int4, int8) has them, so that transformers loads them; a quantised head that those cannot hold makes it a folder
 * that only anneal reads.
 */
export async function savePretrained(model: PretrainedModel, folder: string, options: SaveOptions = {}): Promise<void> {
  givenOptions('savePretrained', options, "dtype: 'bfloat16'")
  if (model.virtualTokens || [...model.namedModules()].some(([, module]) => module instanceof AdapterPart)) {
    throw new ConfigError('savePretrained: the model carries adapters, which a model folder has no place for; write them with saveAdapter(), or put them into the weights with mergeAndUnload() first')
  }
  const dtype = options.dtype ?? model.dtype
  const quantized = quantizedLayers(model).size ? await quantizedSources(model, dtype) : undefined
  const tensors = [...parameterSources(model, options), ...quantized?.tensors ?? []]
  const bytesNeeded = tensors.reduce((sum, { dtype, shape }) => sum + shape.reduce((a, b) => a * b, 1) * safetensorsDtypes[dtype] / 8, 0)
  await makeFolder(folder)
  await requireFreeSpace(join(folder, 'model.safetensors'), bytesNeeded)
  await writeCheckpoint(folder, tensors, { ...(options.maxShardSize === undefined ? {} : { maxShardSize: options.maxShardSize }), totalParameters: model.numParameters() })
  const { quantization_config: _, ...config } = configToJson(model.config, dtype)
  await replaceFile(join(folder, 'config.json'), json(quantized ? { ...config, quantization_config: quantized.config } : config))
  if (model.generationConfig) await replaceFile(join(folder, 'generation_config.json'), json(model.generationConfig))
}
