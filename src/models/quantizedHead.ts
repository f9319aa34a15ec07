import { ConfigError } from '../errors.ts'
import { Embedding, Linear, QuantizedEmbedding, QuantizedLinear, RowMaxima, type Module } from '../nn/index.ts'
import type { DType } from '../tensor/index.ts'
import type { PretrainedModel } from './pretrainedModel.ts'
import type { QuantizationConfig } from './quantizedConfig.ts'
import { blockOfInt4, quantizedLayers, quantizeWeight, withBlock, type QuantizedWeight } from './quantizedLayers.ts'

/** A language model's output layer, by the name of the parameter that holds its weight in a file: the embeddings', where it is tied to them. */
export interface HeadSite { readonly parameter: string, readonly head: Linear, readonly embeddings: { readonly name: string, readonly layer: Embedding } | undefined }

export const headName = 'lm_head'

/** The name of the module that gives a model's embeddings. */
export function embeddingsName(model: PretrainedModel): string {
  const embeddings = model.getInputEmbeddings()
  return [...model.namedModules()].find(([, module]) => module === embeddings)![0]
}

/** Finds the layer that a config's `head` means. Throws ConfigError where the model has none that can be quantised, or the block does not fit. */
export function headToQuantize(model: PretrainedModel, config: HeadChoice): HeadSite {
  const refuse = (problem: string): never => { throw new ConfigError(`quantize.head: ${problem}`) }
  const layer = model.getOutputEmbeddings()
  if (model.config.kind === 'encoder' || layer === undefined) return refuse(`expected a causal language model, got ${model.config.architecture}; leave head out`)
  if (layer instanceof QuantizedLinear) return refuse(`${headName} is quantised already, as ${layer.weight.format}; leave head out, or call dequantizeModel() first`)
  const embeddings = model.getInputEmbeddings()
  if (!(layer instanceof Linear)) return refuse(`${headName} carries an adapter; quantise the model before adapters are added`)
  const isTied = embeddings instanceof Embedding && embeddings.weight === layer.weight
  if (isTied && embeddings.constructor !== Embedding) return refuse('the embeddings carry an adapter; quantise the model before adapters are added')
  const { block } = headConfig(model, config)
  if (block !== undefined && layer.inFeatures % block !== 0) {
    throw new ConfigError(`quantize.headBlock: expected a divisor of the ${layer.inFeatures} numbers in a row of ${headName}, got ${block}; choose another, or head: 'int8', which has a scale for each row`)
  }
  const name = embeddingsName(model)
  return { head: layer, ...(isTied ? { parameter: `${name}.weight`, embeddings: { name, layer: embeddings } } : { parameter: `${headName}.weight`, embeddings: undefined }) }
}

type HeadChoice = Pick<QuantizationConfig, 'head' | 'headBlock'>

/** The block that the head has; int4 takes one that divides its width where none was given. Throws ConfigError where no usual one does. */
const headBlockOf = (model: PretrainedModel, { head, headBlock }: HeadChoice): number | undefined =>
  head === 'int4' && headBlock === undefined ? blockOfInt4([[headName, model.config.hiddenSize]], 'headBlock') : headBlock

/** How the head is quantised: by itself, without zero points and double quantisation. */
export const headConfig = (model: PretrainedModel, config: HeadChoice): QuantizationConfig =>
  ({ format: config.head!, block: headBlockOf(model, config), doubleQuant: false, zeroPoints: false, skipModules: [] })

/** The config with the blocks that int4 takes where none were given. Throws ConfigError naming the layer that no usual one divides. */
export function withBlocks(model: PretrainedModel, given: QuantizationConfig): QuantizationConfig {
  const config = withBlock(model, given)
  return config.head === undefined ? config : { ...config, headBlock: headBlockOf(model, config) }
}

/** Puts a quantised weight in the place of the output layer's, and of the embeddings' that are tied to it; the plain one is released. */
export function replaceHead(model: PretrainedModel, { head, embeddings }: HeadSite, { weight, nested }: QuantizedWeight, dtype: DType): void {
  model.replaceModule(headName, new QuantizedLinear(weight, head.bias, nested))
  if (embeddings) model.replaceModule(embeddings.name, new QuantizedEmbedding(weight, dtype))
  if (head.weight.isMaterialised) head.weight.dispose()
}

/** Rounds the output layer of a loaded model, and the embeddings tied to it, to the nearest codes of the config's `head`. */
export async function quantizeHeadOf(model: PretrainedModel, config: HeadChoice): Promise<void> {
  const site = headToQuantize(model, config)
  const { dtype } = model
  replaceHead(model, site, await quantizeWeight(site.head.weight.tensor, headConfig(model, config), site.parameter), dtype)
}

/** Whether the embeddings below a module share the output layer's quantised weight. */
export const sharesEmbeddings = (module: Module, { weight }: QuantizedLinear): boolean =>
  [...module.namedModules()].some(([, one]) => one instanceof QuantizedEmbedding && one.weight === weight)

/** The quantised output layer, where no other library's format holds it beside the layers: it is tied to the embeddings, or in another format or block. */
export function headApart(module: Module): QuantizedLinear | undefined {
  const layers = quantizedLayers(module)
  const head = layers.get(headName)
  if (!head) return undefined
  layers.delete(headName)
  return layers.size > 0 && !sharesEmbeddings(module, head) && [...layers.values()].every((layer) => isAlike(head, layer)) ? undefined : head
}

/** Whether one file format holds both. */
function isAlike(head: QuantizedLinear, layer: QuantizedLinear): boolean {
  const [own, other] = [head.weight, layer.weight]
  if (own.format !== other.format || head.nested instanceof RowMaxima !== layer.nested instanceof RowMaxima) return false
  if (own.format === 'nf4' || own.format === 'fp4') return true
  const perWord = own.format === 'int8' ? 4 : 8
  const isPacked = head.outFeatures % perWord === 0 && head.inFeatures % perWord === 0
  return (isPacked || head.nested instanceof RowMaxima) && (own.block === other.block || (own.block === head.inFeatures && other.block === layer.inFeatures))
}
