import { linear, type LinearOptions } from '../ops/linear.ts'
import type { Tensor } from '../tensor/index.ts'
import { Module } from './module.ts'
import { normal, Parameter, zeros } from './parameter.ts'

export type Activation = NonNullable<LinearOptions['activation']>

/**
 * What stands where a model has a linear layer: x [tokens, inFeatures] to [tokens, outFeatures]. Adapters and quantized weights extend this and
 * take the place of a Linear or Conv1D with Module.replaceModule().
 */
export abstract class LinearLayer extends Module {
  abstract readonly inFeatures: number
  abstract readonly outFeatures: number
  /** `activation` is applied to the result, in the same pass where that is possible. */
  abstract forward(x: Tensor, activation?: Activation): Tensor
}

export interface LinearInit {
  bias?: boolean
  /** Standard deviation of the initial weights. */
  deviation?: number
}

/** y = x weightᵀ + bias; weight [out, in], as torch.nn.Linear, but without a bias unless asked for, and with initial weights as transformers draws them. */
export class Linear extends LinearLayer {
  weight: Parameter
  bias: Parameter | null

  constructor(inFeatures: number, outFeatures: number, { bias = false, deviation = 0.02 }: LinearInit = {}) {
    super()
    this.weight = new Parameter([outFeatures, inFeatures], normal(deviation))
    this.bias = bias ? new Parameter([outFeatures], zeros) : null
  }

  get inFeatures(): number { return this.weight.shape[1]! }
  get outFeatures(): number { return this.weight.shape[0]! }

  forward(x: Tensor, activation: Activation = 'none'): Tensor {
    return linear(x, this.weight.tensor, this.bias?.tensor ?? null, { activation })
  }
}

/** y = x weight + bias; weight [in, out], as GPT-2 stores it. */
export class Conv1D extends LinearLayer {
  readonly weight: Parameter
  bias: Parameter

  constructor(inFeatures: number, outFeatures: number, { deviation = 0.02 }: { deviation?: number } = {}) {
    super()
    this.weight = new Parameter([inFeatures, outFeatures], normal(deviation))
    this.bias = new Parameter([outFeatures], zeros)
  }

  get inFeatures(): number { return this.weight.shape[0]! }
  get outFeatures(): number { return this.weight.shape[1]! }

  forward(x: Tensor, activation: Activation = 'none'): Tensor {
    return linear(x, this.weight.tensor, this.bias.tensor, { activation, transposedWeight: true })
  }
}
