import { activation as activate, quantizedMatmul, type QuantizedTensor } from '../ops/index.ts'
import type { Tensor } from '../tensor/index.ts'
import { LinearLayer, type Activation } from './linear.ts'
import type { Parameter } from './parameter.ts'

/** y = x Wᵀ + bias with W [out, in] in a few bits a number. The weight is no parameter: nothing trains it, and adapters stand around it. */
export class QuantizedLinear extends LinearLayer {
  readonly weight: QuantizedTensor
  bias: Parameter | null

  /** Takes over `weight` and `bias`. */
  constructor(weight: QuantizedTensor, bias: Parameter | null = null) {
    super()
    this.weight = weight
    this.bias = bias
  }

  get inFeatures(): number { return this.weight.shape[1]! }
  get outFeatures(): number { return this.weight.shape[0]! }

  forward(x: Tensor, activation: Activation = 'none'): Tensor {
    const y = quantizedMatmul(x, this.weight, this.bias?.tensor ?? null)
    return activation === 'none' ? y : activate(y, activation)
  }

  override dispose(): void {
    this.weight.dispose()
    super.dispose()
  }
}
