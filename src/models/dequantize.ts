import { ConfigError } from '../errors.ts'
import { AdapterLayer, Conv1D, Embedding, Linear, type Parameter, type QuantizedLinear } from '../nn/index.ts'
import { transpose } from '../ops/index.ts'
import { noGrad, unscoped, type DType } from '../tensor/index.ts'
import type { CausalLanguageModel } from './causal.ts'
import { embeddingsName, sharesEmbeddings } from './quantizedHead.ts'
import { quantizedLayers } from './quantizedLayers.ts'

/** Puts plain linear layers with the numbers that the codes stand for in the place of quantised ones, in `dtype`, the model's own by default. */
export function dequantizeModel(model: CausalLanguageModel, { dtype = model.dtype }: { dtype?: DType } = {}): void {
  const layers = quantizedLayers(model)
  if (!layers.size) throw new ConfigError('dequantizeModel: the model has no quantised layers')
  for (const [name, layer] of layers) {
    const plain = plainLayer(model, layer, dtype)
    if (plain instanceof Linear && sharesEmbeddings(model, layer)) model.replaceModule(embeddingsName(model), embeddingOf(plain.weight))
    model.replaceModule(name, plain)
    layer.weight.dispose()
  }
  model.quantizationConfig = undefined
}

/** @internal A layer of the kind that the model has in full. The bias moves over. */
export function plainLayer(model: CausalLanguageModel, layer: QuantizedLinear, dtype: DType): Linear | Conv1D {
  const weight = unscoped(() => layer.dequantize(dtype))
  if (model.config.kind === 'gpt2' && !isHead(model, layer)) {
    const plain = new Conv1D(layer.inFeatures, layer.outFeatures)
    plain.weight.replace(unscoped(() => noGrad(() => transpose(weight))))
    weight.dispose()
    plain.bias = layer.bias!
    return plain
  }
  const plain = new Linear(layer.inFeatures, layer.outFeatures)
  plain.weight.replace(weight)
  plain.bias = layer.bias
  return plain
}

function embeddingOf(weight: Parameter): Embedding {
  const embeddings = new Embedding(weight.shape[0]!, weight.shape[1]!)
  embeddings.weight = weight
  return embeddings
}

/** @internal Gives embeddings that share the output layer's quantised weight a plain table of their own, in the model's dtype. */
export function untieEmbeddings(model: CausalLanguageModel, head: QuantizedLinear): void {
  if (!sharesEmbeddings(model, head)) return
  const embeddings = new Embedding(head.outFeatures, head.inFeatures)
  embeddings.weight.replace(unscoped(() => head.dequantize(model.dtype)))
  model.replaceModule(embeddingsName(model), embeddings)
  const { config } = model
  model.config = { ...config, tieWordEmbeddings: false, raw: { ...config.raw, tie_word_embeddings: false } }
}

/** Whether it is the output layer, within whatever adapters. */
function isHead(model: CausalLanguageModel, layer: QuantizedLinear): boolean {
  let head = model.getOutputEmbeddings()
  while (head instanceof AdapterLayer) head = head.base_layer
  return head === layer
}
