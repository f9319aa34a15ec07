import { linearLayers, type CausalLanguageModel, type QuantizationConfig } from '../models/index.ts'
import { outputsFirst, quantizeWeight } from '../models/quantizedLayers.ts'
import { Conv1D, LayerNorm, Linear, RMSNorm, type LinearLayer } from '../nn/index.ts'
import { add, dequantize, div, matmul, mul, sub, sum, toDtype } from '../ops/index.ts'
import { noGrad, scope, Tensor, unscoped } from '../tensor/index.ts'
import type { InputStatistics } from './layerwise.ts'

/** How many exponents the search tries, from 0 on. */
const steps = 20

/** Layers that take the same input, and what gives it: its result is divided by what the layers' inputs are multiplied by. */
interface Pair { readonly layers: readonly string[], readonly before: LinearLayer | RMSNorm | LayerNorm }

/**
 * The pairs of a layer in which scales can be folded without changing what the model computes: a norm and the projections after it; values and the
 * output projection, where each head has values of its own; and the gated MLP's up and down projections, as the gate multiplies what up gives.
 */
function pairsOf(model: CausalLanguageModel, names: readonly string[]): Pair[] {
  const linear = linearLayers(model)
  const prefix = /^.*?\.\d+/.exec(names[0]!)![0]
  const pairs: Pair[] = []
  const pair = (before: string, after: readonly string[], sameSize = false): void => {
    const layers = after.map((name) => `${prefix}.${name}`)
    if (!layers.every((name) => names.includes(name))) return
    const source = linear.get(`${prefix}.${before}`) ?? model.getModule(`${prefix}.${before}`)
    if (!(source instanceof Linear || source instanceof RMSNorm || source instanceof LayerNorm)) return
    if (sameSize && source instanceof Linear && source.outFeatures !== linear.get(layers[0]!)!.inFeatures) return
    pairs.push({ layers, before: source })
  }
  if (model.config.kind === 'gpt2') {
    pair('ln_1', ['attn.c_attn'])
    pair('ln_2', ['mlp.c_fc'])
    return pairs
  }
  pair('input_layernorm', ['self_attn.q_proj', 'self_attn.k_proj', 'self_attn.v_proj'])
  pair('self_attn.v_proj', ['self_attn.o_proj'], true)
  pair(model.config.postNorms ? 'pre_feedforward_layernorm' : 'post_attention_layernorm', ['mlp.gate_proj', 'mlp.up_proj'])
  pair('mlp.up_proj', ['mlp.down_proj'])
  return pairs
}

/** mean|x|^ratio, scaled so that the largest and the smallest are about as far from 1. */
function scalesFor(magnitude: Float32Array, ratio: number): Float32Array {
  const scales = magnitude.map((value) => Math.max(value ** ratio, 1e-4))
  let [low, high] = [Infinity, 0]
  for (const scale of scales) {
    low = Math.min(low, scale)
    high = Math.max(high, scale)
  }
  const middle = Math.sqrt(low * high)
  return scales.map((scale) => scale / middle)
}

/** Σ over tokens and outputs of (x Wᵀ - x Q(W s)ᵀ / s)², from Xᵀ X: the trace of D Xᵀ X Dᵀ with the weights' difference D. */
async function outputError(weight: Tensor, gram: Tensor, scales: Tensor, config: QuantizationConfig, name: string): Promise<number> {
  const scaled = unscoped(() => noGrad(() => mul(weight, scales)))
  try {
    const { weight: rounded } = await quantizeWeight(scaled, { ...config, doubleQuant: false }, name)
    const error = unscoped(() => noGrad(() => scope(() => {
      const difference = sub(weight, div(dequantize(rounded), scales))
      return sum(mul(matmul(difference, gram), difference))
    })))
    rounded.dispose()
    try {
      return await error.item()
    } finally {
      error.dispose()
    }
  } finally {
    scaled.dispose()
  }
}

/** The best scales of a group of layers with one input, or null where none are better than 1. */
async function searchScales(model: CausalLanguageModel, names: readonly string[], { gram, magnitude }: InputStatistics, config: QuantizationConfig): Promise<Float32Array | null> {
  const layers = linearLayers(model)
  const weights = names.map((name) => {
    const layer = layers.get(name) as Linear | Conv1D
    return unscoped(() => noGrad(() => scope(() => toDtype(outputsFirst(layer, layer.weight.tensor), 'float32').alias())))
  })
  const { device } = gram
  const sums = await magnitude.data() as Float32Array
  let [best, least]: [Float32Array | null, number] = [null, Infinity]
  try {
    for (let step = 0; step < steps; step++) {
      const values = scalesFor(sums, step / steps)
      const scales = unscoped(() => Tensor.from(values, [values.length], { device }))
      let error = 0
      for (const [i, weight] of weights.entries()) error += await outputError(weight, gram, scales, config, names[i]!)
      scales.dispose()
      if (error < least) [best, least] = [step === 0 ? null : values, error]
    }
  } finally {
    for (const weight of weights) weight.dispose()
  }
  return best
}

/** Changes a parameter's numbers by a function of its own and `scales`. */
function change(parameter: { tensor: Tensor, replace(tensor: Tensor): void }, scales: Tensor, by: (tensor: Tensor, scales: Tensor) => Tensor): void {
  const { dtype } = parameter.tensor
  parameter.replace(unscoped(() => noGrad(() => scope(() => toDtype(by(toDtype(parameter.tensor, 'float32'), scales), dtype).alias()))))
}

/** Multiplies the inputs of layers by `values` and divides what gives them. */
function fold(model: CausalLanguageModel, { layers, before }: Pair, values: Float32Array): void {
  const linear = linearLayers(model)
  const { device } = model
  const [across, down] = unscoped(() => [Tensor.from(values, [values.length], { device }), Tensor.from(values, [values.length, 1], { device })] as const)
  for (const name of layers) {
    const layer = linear.get(name) as Linear | Conv1D
    change(layer.weight, layer instanceof Conv1D ? down : across, mul)
  }
  const source = before as Linear | RMSNorm | LayerNorm
  const offset = source instanceof RMSNorm ? source.offset : 0
  change(source.weight, source instanceof Linear ? down : across, (weight, by) => (offset ? sub(div(add(weight, offset), by), offset) : div(weight, by)))
  if (!(source instanceof RMSNorm) && source.bias) change(source.bias, across, div)
  across.dispose()
  down.dispose()
}

/**
 * Finds the scales of a layer's inputs that keep its outputs closest when rounded, a power of the inputs' mean magnitude, and folds them into what
 * comes before (AWQ, Lin et al. 2023). What the model computes in full stays the same.
 */
export async function foldAwqScales(model: CausalLanguageModel, inputs: ReadonlyMap<string, InputStatistics>, config: QuantizationConfig): Promise<void> {
  for (const pair of pairsOf(model, [...inputs.keys()])) {
    const scales = await searchScales(model, pair.layers, inputs.get(pair.layers[0]!)!, config)
    if (scales) fold(model, pair, scales)
  }
}
