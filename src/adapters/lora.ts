import { ConfigError } from '../errors.ts'
import { type Conv1D, Embedding, EmbeddingLayer, type Linear, type LinearLayer, type Module, type Parameter, QuantizedLinear } from '../nn/index.ts'
import { CausalLanguageModel } from '../models/index.ts'
import { plainLayer, untieEmbeddings } from '../models/dequantize.ts'
import { sharesEmbeddings } from '../models/quantizedHead.ts'
import { unscoped, type Device } from '../tensor/index.ts'
import type { Adapter, QuantizedMerge } from './adapter.ts'
import { LoraEmbedding, LoraEmbeddingPart } from './loraEmbedding.ts'
import { LoraLinear, LoraPart, type LoraPartOptions } from './loraLayer.ts'
import type { LoraOptions } from './options.ts'
import { OwnParameters } from './ownParameters.ts'
import { takeSingularVectors } from './pissa.ts'
import { displace, place, substitute } from './placement.ts'
import { createTrainableTokens, tokenTables } from './trainableTokens.ts'
import { byPattern, innermost, modulesOwning, resolveTargets, sites } from './targets.ts'

interface LinearSite { path: string, layer: LoraLinear, part: LoraPart }
interface EmbeddingSite { path: string, layer: LoraEmbedding, part: LoraEmbeddingPart }

/** @internal The rank, scale and start of the update at a path. */
export const partOptions = (path: string, { r, loraAlpha, rankPattern, alphaPattern, useRslora, useDora, loraDropout, initLoraWeights }: LoraOptions): LoraPartOptions => {
  const rank = byPattern(rankPattern, path, r)
  if (!Number.isInteger(rank)) throw new ConfigError(`rankPattern: expected whole ranks from 1, got ${rank} for ${path}`)
  const alpha = byPattern(alphaPattern, path, loraAlpha)
  return { rank, scale: alpha / (useRslora ? Math.sqrt(rank) : rank), dropout: loraDropout, useDora, init: initLoraWeights }
}

/** The embedding at a path, ready to take updates. */
function loraEmbeddingAt(model: Module, path: string, embedding: Embedding): LoraEmbedding {
  if (embedding instanceof LoraEmbedding) return embedding
  const layer = new LoraEmbedding(embedding)
  Object.assign(parentOf(model, path), { [path.split('.').at(-1)!]: layer })
  return layer
}

function parentOf(model: Module, path: string): Module {
  const at = path.lastIndexOf('.')
  return at < 0 ? model : [...sites(model)].find(([name]) => name === path.slice(0, at))![1]
}

/** The biases that `bias` means: all of the model, or those of the adapted layers. */
function biases(model: Module, bias: LoraOptions['bias'], paths: ReadonlySet<string>): OwnParameters | undefined {
  if (bias === 'none') return undefined
  return new OwnParameters(model, (name) => name.endsWith('.bias') && (bias === 'all' || paths.has(name.slice(0, -'.bias'.length))))
}

/** Throws ConfigError where nothing says how to merge into a quantised layer, or that would change another. */
function checkMerge(model: Module, path: string, base: LinearLayer, quantized: QuantizedMerge | undefined): void {
  if (!(base instanceof QuantizedLinear)) return
  if (quantized === undefined) throw new ConfigError('quantized: the base is quantised; say whether a merge rounds to its format again ("requantize") or widens it first ("dequantize")')
  if (quantized === 'requantize' && sharesEmbeddings(model, base)) throw new ConfigError(`quantized: the embeddings share the quantised weight of ${path}, so that a merge with "requantize" would change them too; use "dequantize", which gives each a weight of its own`)
}

/** A plain float32 layer in the place of a quantised one, where that is wanted. */
function widenedLayer(model: Module, path: string, base: QuantizedLinear, quantized: QuantizedMerge | undefined): Linear | Conv1D | undefined {
  if (quantized === 'requantize' || !(model instanceof CausalLanguageModel)) return undefined
  const plain = plainLayer(model, base, 'float32')
  untieEmbeddings(model, base)
  substitute(model, path, base, plain)
  base.weight.dispose()
  return plain
}

/** LoRA over the layers that the options name. Nothing is active yet. */
export async function createLora(model: Module, name: string, options: LoraOptions, { seed, device }: { seed: number, device: Device }): Promise<Adapter> {
  const targets = resolveTargets(model, 'lora', options)
  const wanted = modulesOwning(model, options.modulesToSave)
  const tables = options.trainableTokenIndices ? tokenTables(model, options.trainableTokenIndices, new Set(targets.map(([path]) => path))) : []
  const linears: LinearSite[] = []
  const embeddings: EmbeddingSite[] = []
  for (const [path, target] of targets) {
    const own = partOptions(path, options)
    if (target instanceof EmbeddingLayer) {
      if (!(target instanceof Embedding)) throw new ConfigError(`targetModules: ${path} shares the head's quantised weight, which takes no LoRA update as an embedding; leave it out, or leave head out of quantize`)
      if (own.useDora || own.init === 'pissa') throw new ConfigError(`targetModules: ${path} is an embedding, which takes plain LoRA only; leave it out, or use neither useDora nor "pissa"`)
      const part = new LoraEmbeddingPart(target.weight.shape as [number, number], own.rank, own.scale)
      const layer = loraEmbeddingAt(model, path, target)
      layer.set(name, part)
      embeddings.push({ path, layer, part })
      continue
    }
    const part = new LoraPart(target.inFeatures, target.outFeatures, own)
    if (options.loraplusLrRatio !== undefined) part.lora_B.learningRateScale = options.loraplusLrRatio
    linears.push({ path, part, layer: place(model, path, LoraLinear, name, part) })
  }
  const parameters = (): Map<string, Parameter> => new Map([
    ...linears.flatMap(({ path, part }): [string, Parameter][] => [
      [`${path}.lora_A.weight`, part.lora_A], [`${path}.lora_B.weight`, part.lora_B],
      ...(part.lora_magnitude_vector ? [[`${path}.lora_magnitude_vector`, part.lora_magnitude_vector] as [string, Parameter]] : []),
    ]),
    ...embeddings.flatMap(({ path, part }): [string, Parameter][] => [[`${path}.lora_embedding_A`, part.lora_embedding_A], [`${path}.lora_embedding_B`, part.lora_embedding_B]]),
  ])
  for (const [key, parameter] of parameters()) parameter.initialise(key, seed, 'float32', device)
  for (const { path, layer, part } of linears) {
    if (part.options.init === 'pissa') await takeSingularVectors(path, layer, part)
    if (part.lora_magnitude_vector) part.lora_magnitude_vector.replace(unscoped(() => layer.rowNorms(part)))
  }
  const adapted = new Set(linears.map(({ path }) => path))
  const ownBiases = biases(model, options.bias, adapted)
  const saved = options.modulesToSave.length ? new OwnParameters(model, wanted) : undefined
  const tokens = tables.length ? createTrainableTokens(model, name, tables, device) : undefined
  return {
    options,
    parameters: () => new Map([
      ...parameters(),
      // PEFT's name of an adapted layer's bias says that the layer is wrapped.
      ...(ownBiases?.parameters ?? []).map(([key, parameter]): [string, Parameter] => {
        const path = key.slice(0, -'.bias'.length)
        return [adapted.has(path) ? `${path}.base_layer.bias` : key, parameter]
      }),
      ...saved?.parameters ?? [],
      ...tokens?.parameters ?? [],
    ]),
    activate(on) {
      for (const { part } of [...linears, ...embeddings]) part.active = on
      ownBiases?.activate(on)
      saved?.activate(on)
      tokens?.activate(on)
    },
    merge(quantized: QuantizedMerge | undefined) {
      for (const { path, layer } of linears) checkMerge(model, path, innermost(layer), quantized)
      for (const { path, layer, part } of linears) {
        const base = innermost(layer)
        const widened = base instanceof QuantizedLinear ? widenedLayer(model, path, base, quantized) : undefined
        layer.merge(part)
        if (model instanceof CausalLanguageModel) widened?.weight.to(model.dtype)
      }
      for (const { layer, part } of embeddings) layer.merge(part)
      ownBiases?.merge(model)
      saved?.merge(model)
      tokens?.merge()
    },
    remove() {
      for (const { path, layer } of linears) displace(model, path, layer, name)
      for (const { path, layer } of embeddings) {
        layer.delete(name)
        if (layer.parts.size === 0) Object.assign(parentOf(model, path), { [path.split('.').at(-1)!]: layer.base_layer })
      }
      ownBiases?.dispose()
      saved?.dispose()
      tokens?.remove()
    },
  }
}
