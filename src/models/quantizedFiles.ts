import { ConfigError, FileFormatError } from '../errors.ts'
import type { CheckpointTensor, CheckpointWeights, JsonValue, TensorSource } from '../files/index.ts'
import { Conv1D, Linear, NestedScales, QuantizedLinear, RowMaxima } from '../nn/index.ts'
import type { Device, DType } from '../tensor/index.ts'
import type { PretrainedModel } from './pretrainedModel.ts'
import { readAwq } from './quantizedAwq.ts'
import { bitsandbytesConfig, bitsandbytesSources, isBitsandbytes, readBitsandbytes, type LayerTensors } from './quantizedBitsandbytes.ts'
import type { QuantizationConfig } from './quantizedConfig.ts'
import { gptqConfig, gptqSources, isPacked, readGptq } from './quantizedGptq.ts'
import { int8Config, int8Sources, isInt8, readInt8 } from './quantizedInt8.ts'
import { linearLayers, quantizedLayers, replaceByQuantized } from './quantizedLayers.ts'
import { headApart, headName } from './quantizedHead.ts'
import { findStoredHead, headSources, namesInFile, readStoredHead, type StoredHeadTensors } from './quantizedHeadFile.ts'
import type { StoredQuantization } from './quantizedStored.ts'

/** The layers of a checkpoint that lie there quantised. */
export interface StoredLayers {
  /** By the layer's name: its name in the file, and its tensors by their names after that. */
  readonly layers: ReadonlyMap<string, { readonly prefix: string, readonly tensors: LayerTensors }>
  /** The head, where anneal has saved it in a format of its own. */
  readonly head: StoredHeadTensors | undefined
  /** Names in the file that belong to them. */
  readonly claimed: ReadonlySet<string>
  /** Names of the parameters in whose place they stand. */
  readonly weights: ReadonlySet<string>
}

/** Finds them. Throws FileFormatError where config.json says nothing of them, or where a quantised layer of the model has no codes. */
export function findStoredLayers(model: PretrainedModel, weights: CheckpointWeights, stored: StoredQuantization | undefined): StoredLayers {
  const byPrefix = new Map<string, Map<string, CheckpointTensor>>()
  const modules = [...model.namedModules()].filter(([, module]) => module instanceof Linear || module instanceof Conv1D || module instanceof QuantizedLinear)
  const short = (name: string): string => (name.startsWith(`${model.baseModelPrefix}.`) ? name.slice(model.baseModelPrefix.length + 1) : name)
  const prefixes = new Map(modules.flatMap(([name]): [string, string][] => [[name, name], [short(name), name]]))
  for (const [inFile, entry] of weights.tensors) {
    const parts = inFile.split('.')
    // A tensor of a layer is named one to three parts below it: q_proj.weight.quant_state.bitsandbytes__nf4.
    for (let cut = parts.length - 1; cut >= Math.max(1, parts.length - 3); cut--) {
      const prefix = parts.slice(0, cut).join('.')
      if (!prefixes.has(prefix)) continue
      const tensors = byPrefix.get(prefix) ?? new Map<string, CheckpointTensor>()
      byPrefix.set(prefix, tensors.set(parts.slice(cut).join('.'), entry))
      break
    }
  }
  const layers = new Map<string, { prefix: string, tensors: LayerTensors }>()
  const claimed = new Set<string>()
  for (const [prefix, tensors] of byPrefix) {
    const kind = isBitsandbytes(tensors) || isInt8(tensors) ? 'bitsandbytes' : isPacked(tensors) ? 'gptq or awq' : undefined
    if (!kind) continue
    const method = stored?.layers?.method
    if (method === undefined || !kind.includes(method)) throw new FileFormatError(`${weights.folder}: layer ${JSON.stringify(prefix)} is quantised as ${kind} does it, but quantization_config of config.json says ${method ?? 'nothing'}; fetch the model again`)
    layers.set(prefixes.get(prefix)!, { prefix, tensors })
    for (const key of tensors.keys()) if (key !== 'bias') claimed.add(`${prefix}.${key}`)
  }
  const head = stored?.head && findStoredHead(model, weights, stored.head)
  if (head) for (const name of namesInFile(head)) claimed.add(name)
  for (const name of quantizedLayers(model).keys()) {
    if (!layers.has(name)) throw new FileFormatError(`${weights.folder}: no quantised weight for ${JSON.stringify(name)} in the checkpoint, which the model has quantised`)
  }
  const taken = [...layers.keys(), ...(head ? [headName] : [])].map((name) => `${name}.weight`)
  return { layers, head, claimed, weights: new Set(head ? [...taken, head.site.parameter] : taken) }
}

/** Reads the quantised layers one after another and puts them in place; `dtype` is that of embeddings that share a quantised head. */
export async function readStoredLayers(model: PretrainedModel, { layers, head }: StoredLayers, stored: StoredQuantization | undefined, dtype: DType | 'auto', device: Device): Promise<void> {
  const format = stored?.layers
  for (const [name, { prefix, tensors }] of format ? layers : []) {
    const layer = model.getModule(name) as Linear | Conv1D | QuantizedLinear
    const shape = [layer.outFeatures, layer.inFeatures] as const
    replaceByQuantized(model, name,
      format!.method === 'bitsandbytes' ? await (isInt8(tensors) ? readInt8 : readBitsandbytes)(prefix, tensors, shape, device)
        : format!.method === 'gptq' ? await readGptq(prefix, tensors, shape, format!, device)
          : await readAwq(prefix, tensors, shape, format!, device))
  }
  if (head) readStoredHead(model, head, dtype, device)
}

/** The names of the linear layers that are not quantised. */
const plainLayers = (model: PretrainedModel): string[] =>
  [...linearLayers(model)].filter(([, layer]) => !(layer instanceof QuantizedLinear)).map(([name]) => name)

/** The quantised layers but the head, by name; the head where there are no others. */
function bodyLayers(model: PretrainedModel): Map<string, QuantizedLinear> {
  const layers = quantizedLayers(model)
  if (layers.size > 1) layers.delete(headName)
  return layers
}

/** How a model that was read is quantised, from its layers. */
export function storedConfig(model: PretrainedModel): QuantizationConfig | undefined {
  const layers = [...bodyLayers(model).values()]
  const first = layers[0]
  if (!first) return undefined
  const { format, block } = first.weight
  const wholeRows = format.startsWith('int') && layers.every(({ weight, inFeatures }) => weight.block === inFeatures)
  const head = quantizedLayers(model).get(headName)?.weight
  return {
    format: format as QuantizationConfig['format'], block: wholeRows ? undefined : block,
    doubleQuant: first.nested instanceof NestedScales, zeroPoints: layers.some(({ weight }) => weight.zeros !== null), skipModules: plainLayers(model),
    ...(head ? { head: head.format as QuantizationConfig['format'], headBlock: head.format === 'int8' && head.block === head.shape[1] ? undefined : head.block } : {}),
  }
}

interface Sources { tensors: TensorSource[], config: { [key: string]: JsonValue } }

/**
 * What to write of the quantised layers and the head, and what config.json says of them: in the format of bitsandbytes or GPTQ, and where that cannot hold the
 * head, in anneal's around it. Throws ConfigError where formats are mixed that no file holds together.
 */
export async function quantizedSources(model: PretrainedModel, dtype: string): Promise<Sources> {
  const apart = headApart(model)
  const layers = new Map([...quantizedLayers(model)].filter(([, layer]) => layer !== apart))
  const own = layers.size ? await layerSources(model, layers, dtype) : undefined
  if (!apart) return own!
  const head = headSources(model, apart)
  return { tensors: [...own?.tensors ?? [], ...head.tensors], config: { quant_method: 'anneal', ...(own ? { layers: own.config } : {}), head: head.config } }
}

async function layerSources(model: PretrainedModel, layers: ReadonlyMap<string, QuantizedLinear>, dtype: string): Promise<Sources> {
  const config = storedConfig(model)!
  const withZeros = config.zeroPoints
  // A model that was read from LLM.int8() is written so again.
  const asInt8 = config.format === 'int8' && config.block === undefined && !withZeros && [...layers.values()].some(({ nested }) => nested instanceof RowMaxima)
  const tensors: TensorSource[] = []
  for (const [name, layer] of layers) {
    const { format, block } = layer.weight
    if (format !== config.format) throw new ConfigError(`${name}: expected format ${config.format}, as the layers before, got ${format}; layers of two formats cannot be saved together`)
    if (format === 'nf4' || format === 'fp4') tensors.push(...await bitsandbytesSources(name, layer, dtype))
    else if (asInt8) tensors.push(...await int8Sources(name, layer))
    else {
      if (block !== (config.block ?? layer.inFeatures)) throw new ConfigError(`${name}: expected blocks of ${config.block ?? layer.inFeatures}, as the layers before, got ${block}; GPTQ has one group_size`)
      tensors.push(...gptqSources(name, layer, withZeros))
    }
  }
  const skipped = plainLayers(model)
  const withHead = layers.has(headName)
  const bitsandbytes = config.format === 'nf4' || config.format === 'fp4'
  if (asInt8) return { tensors, config: int8Config(skipped, withHead) }
  return { tensors, config: bitsandbytes ? bitsandbytesConfig(config, dtype, skipped, withHead) : gptqConfig(config, withZeros, [...layers.values()].some(({ weight }) => weight.order !== null), skipped, withHead) }
}
