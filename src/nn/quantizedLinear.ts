import { activation as activate, dequantize, linear, quantizedMatmul, type QuantizedTensor } from '../ops/index.ts'
import type { DType, Tensor } from '../tensor/index.ts'
import { LinearLayer, type Activation } from './linear.ts'
import type { NestedScales } from './nestedScales.ts'
import type { Parameter } from './parameter.ts'
import type { RowMaxima } from './rowMaxima.ts'

/** y = x Wᵀ + bias with W [out, in] in a few bits a number. The weight is no parameter: nothing trains it, and adapters stand around it. */
export class QuantizedLinear extends LinearLayer {
  weight: QuantizedTensor
  bias: Parameter | null
  /** The scales as bitsandbytes saves them, of a double-quantised weight or of LLM.int8(); the weight's own have the same values. */
  nested: NestedScales | RowMaxima | null

  /** Takes over `weight` and `bias`. */
  constructor(weight: QuantizedTensor, bias: Parameter | null = null, nested: NestedScales | RowMaxima | null = null) {
    super()
    this.weight = weight
    this.bias = bias
    this.nested = nested
  }

  get inFeatures(): number { return this.weight.shape[1]! }
  get outFeatures(): number { return this.weight.shape[0]! }
  override get frozenSize(): number { return this.inFeatures * this.outFeatures }

  forward(x: Tensor, activation: Activation = 'none'): Tensor {
    const bias = this.bias?.tensor ?? null
    // Blocks that cross rows, as bitsandbytes has them where 64 does not divide a row, and 8 bits with zero points are widened first.
    if (!this.weight.multiplies) return linear(x, dequantize(this.weight, x.dtype), bias, { activation })
    const y = quantizedMatmul(x, this.weight, bias)
    return activation === 'none' ? y : activate(y, activation)
  }

  /** The weight in full, rounded to `dtype`: [out, in]. */
  dequantize(dtype: DType = 'float32'): Tensor { return dequantize(this.weight, dtype) }

  /** Puts another weight of the same shape in place and releases the old one. */
  replaceWeight(weight: QuantizedTensor, nested: NestedScales | RowMaxima | null = null): void {
    const old = this.weight
    this.weight = weight
    this.nested = nested
    if (old !== weight) old.dispose()
  }

  override dispose(): void {
    this.weight.dispose()
    super.dispose()
  }
}
