import { ConfigError } from '../errors.ts'
import { AdapterLayer, AdapterPart, Conv1D, Linear, Parameter, QuantizedLinear, uniform, normal, zeros, ones, type LinearLayer } from '../nn/index.ts'
import {
  activation as activate, add, dequantize, div, dropout, linear, loraLinear, matmul, mergeLora, mergeLoraQuantized, mul, quantize, quantizedMatmul, reshape, sqrt, square, sub, sum, toDtype, transpose,
  type QuantizedTensor,
} from '../ops/index.ts'
import { autocast } from '../tensor/autocast.ts'
import { noGrad, scope, Tensor, unscoped } from '../tensor/index.ts'
import type { Activation } from '../nn/linear.ts'
import { innermost } from './targets.ts'

export interface LoraPartOptions {
  rank: number
  /** loraAlpha / rank, or what rsLoRA makes of it. */
  scale: number
  dropout: number
  useDora: boolean
  init: boolean | 'gaussian' | 'pissa'
}

/** A [rank, in] and B [out, rank] of one layer, and DoRA's row lengths [out]. */
export class LoraPart extends AdapterPart {
  readonly lora_A: Parameter
  readonly lora_B: Parameter
  readonly lora_magnitude_vector: Parameter | null
  readonly options: LoraPartOptions

  constructor(inFeatures: number, outFeatures: number, options: LoraPartOptions) {
    super()
    const { rank, useDora, init } = options
    this.options = options
    this.lora_A = new Parameter([rank, inFeatures], init === 'gaussian' ? normal(1 / rank) : uniform(1 / Math.sqrt(inFeatures)))
    this.lora_B = new Parameter([outFeatures, rank], init === false ? uniform(1 / Math.sqrt(rank)) : zeros)
    this.lora_magnitude_vector = useDora ? new Parameter([outFeatures], ones) : null
  }
}

type Weight = { readonly weight: Tensor | QuantizedTensor, readonly bias: Tensor | null, readonly transposedWeight: boolean }

/** The weight of a plain layer; undefined where another adapter stands between. */
function weightOf(layer: LinearLayer): Weight | undefined {
  if (layer instanceof Conv1D) return { weight: layer.weight.tensor, bias: layer.bias.tensor, transposedWeight: true }
  if (layer instanceof Linear) return { weight: layer.weight.tensor, bias: layer.bias?.tensor ?? null, transposedWeight: false }
  // What no kernel multiplies with is widened at each use.
  if (layer instanceof QuantizedLinear) return { weight: layer.weight.multiplies ? layer.weight : layer.dequantize(), bias: layer.bias?.tensor ?? null, transposedWeight: false }
  return undefined
}

/** A layer with LoRA or DoRA updates around it: y = x Wᵀ + bias + Σ scale (x Aᵀ) Bᵀ. Equals PEFT's lora.Linear. */
export class LoraLinear extends AdapterLayer<LoraPart> {
  /** Sums of squares of the base's rows, float32 [out], while the base does not change. */
  #rowSquares: Tensor | undefined

  forward(x: Tensor, activation: Activation = 'none'): Tensor {
    const parts = this.active
    if (parts.length === 0) return this.base_layer.forward(x, activation)
    const y = scope(() => this.#product(x, parts))
    return activation === 'none' ? y : activate(y, activation)
  }

  #product(x: Tensor, parts: readonly LoraPart[]): Tensor {
    const base = weightOf(this.base_layer)
    const [only] = parts
    if (base && only && parts.length === 1 && (!only.lora_magnitude_vector || this.#rate(only) === 0)) {
      const fused = this.#fused(x, x, only, base, only.lora_magnitude_vector ? null : base.bias)
      if (!only.lora_magnitude_vector) return fused
      const scaled = this.#stretched(fused, only, base)
      return base.bias ? add(scaled, toDtype(base.bias, scaled.dtype)) : scaled
    }
    return parts.reduce((y, part) => add(y, part.lora_magnitude_vector ? this.#doraUpdate(x, part) : update(this.#dropped(x, part), part)), this.base_layer.forward(x))
  }

  #rate({ options }: LoraPart): number { return this.training ? options.dropout : 0 }
  #dropped(x: Tensor, part: LoraPart): Tensor { return dropout(x, this.#rate(part)) }

  #fused(x: Tensor, input: Tensor, part: LoraPart, { weight, transposedWeight }: Weight, bias: Tensor | null): Tensor {
    const dropped = this.#dropped(input, part)
    return loraLinear(x, weight, part.lora_A.tensor, part.lora_B.tensor, { bias, scale: part.options.scale, transposedWeight, adapterInput: dropped === x ? null : dropped })
  }

  /** What DoRA adds to x Wᵀ: with dropout the base's share is that of what was dropped, as in PEFT. */
  #doraUpdate(x: Tensor, part: LoraPart): Tensor {
    const base = weightOf(this.base_layer)
    if (!base) throw new ConfigError('useDora: DoRA cannot stand around a layer that another kind of adapter is on; add the DoRA adapter first')
    const dropped = this.#dropped(x, part)
    const { weight, transposedWeight } = base
    const { lora_A: a, lora_B: b, options: { scale } } = part
    const full = loraLinear(dropped, weight, a.tensor, b.tensor, { scale, transposedWeight })
    const plain = weight instanceof Tensor ? linear(dropped, weight, null, { transposedWeight }) : quantizedMatmul(dropped, weight)
    return sub(this.#stretched(full, part, base), plain)
  }

  /** y with its columns scaled by the trained length over that of W + scale B A, which is a constant to the gradient (section 4.3 of the paper). */
  #stretched(y: Tensor, part: LoraPart, base: Weight): Tensor {
    return mul(y, toDtype(div(part.lora_magnitude_vector!.tensor, this.rowNorms(part, base)), y.dtype))
  }

  /** ‖W + scale B A‖ of each row, float32 [out], from products with the factors alone: the sum itself is never made. */
  rowNorms(part: LoraPart, base: Weight = this.#plainBase()): Tensor {
    return noGrad(() => autocast('float32', () => scope(() => {
      const { lora_A: { tensor: a }, lora_B: { tensor: b }, options: { scale } } = part
      const { weight, transposedWeight } = base
      const factor = weight instanceof Tensor ? toDtype(a, weight.dtype) : a
      const product = weight instanceof Tensor ? linear(factor, weight, null, { transposedWeight }) : quantizedMatmul(a, weight)
      const cross = sum(mul(toDtype(product, 'float32'), transpose(b)), [0])
      const own = sum(mul(matmul(b, matmul(a, a, { transposeB: true })), b), [1])
      return sqrt(add(add(this.#squares(base), mul(cross, 2 * scale)), mul(own, scale * scale)))
    })))
  }

  #plainBase(): Weight {
    return weightOf(this.base_layer) ?? (() => { throw new ConfigError('useDora: the layer already carries another kind of adapter; add the DoRA adapter first') })()
  }

  #squares({ weight, transposedWeight }: Weight): Tensor {
    this.#rowSquares ??= unscoped(() => scope(() => {
      const dense = weight instanceof Tensor ? toDtype(weight, 'float32') : dequantize(weight)
      return sum(square(dense), [transposedWeight ? 0 : 1])
    }))
    return this.#rowSquares
  }

  /** To be called when the base's weight has changed. */
  forgetBase(): void {
    this.#rowSquares?.dispose()
    this.#rowSquares = undefined
  }

  /** Adds the part's update to the base's weight, in float32 and rounded once; a quantised weight is rounded to its format again. */
  merge(part: LoraPart): void {
    const inner = innermost(this)
    if (inner instanceof QuantizedLinear) this.#mergeQuantized(inner, part)
    else this.#mergeDense(inner as Linear | Conv1D, part)
    this.forgetBase()
  }

  #mergeDense(layer: Linear | Conv1D, part: LoraPart): void {
    const { lora_A: { tensor: a }, lora_B: { tensor: b }, lora_magnitude_vector: magnitude, options: { scale } } = part
    const transposedWeight = layer instanceof Conv1D
    const { weight } = layer
    if (!magnitude) {
      mergeLora(weight.tensor, a, b, scale, { transposedWeight })
      return
    }
    // In float32 throughout, rounded once.
    weight.replace(unscoped(() => noGrad(() => scope(() => {
      const stretch = div(magnitude.tensor, this.rowNorms(part))
      const dense = weight.tensor.copyAs('float32')
      mergeLora(dense, a, b, scale, { transposedWeight })
      return toDtype(mul(dense, reshape(stretch, transposedWeight ? [1, -1] : [-1, 1])), weight.dtype)
    }))))
  }

  #mergeQuantized(layer: QuantizedLinear, part: LoraPart): void {
    const { lora_A: { tensor: a }, lora_B: { tensor: b }, lora_magnitude_vector: magnitude, options: { scale } } = part
    if (magnitude) throw new ConfigError('quantized: a DoRA adapter is merged into a quantised base with "dequantize" only')
    if (layer.weight.multiplies) {
      mergeLoraQuantized(layer.weight, a, b, scale).dispose()
      layer.replaceWeight(layer.weight)
    } else {
      layer.replaceWeight(unscoped(() => requantised(layer, part)))
    }
  }

  override dispose(): void {
    this.forgetBase()
    super.dispose()
  }
}

/** The weight in its own format again, with the part's update; where no kernel does it in place. */
function requantised(layer: QuantizedLinear, { lora_A, lora_B, options: { scale } }: LoraPart): QuantizedTensor {
  const { format, block, zeros } = layer.weight
  const dense = layer.dequantize()
  mergeLora(dense, lora_A.tensor, lora_B.tensor, scale)
  const result = quantize(dense, { format, block, zeroPoints: zeros !== null })
  dense.dispose()
  return result
}

/** scale (x Aᵀ) Bᵀ in x's dtype, summed in float32. */
function update(x: Tensor, { lora_A: a, lora_B: b, options: { scale } }: LoraPart): Tensor {
  const inner = linear(toDtype(x, a.dtype), a.tensor)
  return toDtype(mul(linear(inner, b.tensor), scale), x.dtype)
}
