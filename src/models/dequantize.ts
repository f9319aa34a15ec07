import { ConfigError } from '../errors.ts'
import { Conv1D, Linear, type QuantizedLinear } from '../nn/index.ts'
import { transpose } from '../ops/index.ts'
import { noGrad, unscoped, type DType } from '../tensor/index.ts'
import type { CausalLanguageModel } from './causal.ts'
import { quantizedLayers } from './quantizedLayers.ts'

/** Puts plain linear layers with the numbers that the codes stand for in the place of quantised ones, in `dtype`, the model's own by default. */
export function dequantizeModel(model: CausalLanguageModel, { dtype = model.dtype }: { dtype?: DType } = {}): void {
  const layers = quantizedLayers(model)
  if (!layers.size) throw new ConfigError('dequantizeModel: the model has no quantised layers')
  for (const [name, layer] of layers) {
    const plain = plainLayer(model, layer, dtype)
    model.replaceModule(name, plain)
    layer.weight.dispose()
  }
  model.quantizationConfig = undefined
}

/** @internal A layer of the kind that the model has in full. The bias moves over. */
export function plainLayer(model: CausalLanguageModel, layer: QuantizedLinear, dtype: DType): Linear | Conv1D {
  const weight = unscoped(() => layer.dequantize(dtype))
  if (model.config.kind === 'gpt2') {
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
