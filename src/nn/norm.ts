import { addLayerNorm, addRmsNorm, layerNorm, rmsNorm } from '../ops/norm.ts'
import type { Tensor } from '../tensor/index.ts'
import { Module } from './module.ts'
import { ones, Parameter, zeros } from './parameter.ts'

/** RMSNorm over the last axis; weight [width], to which `offset` is added. */
export class RMSNorm extends Module {
  readonly weight: Parameter
  readonly eps: number
  readonly offset: number

  constructor(width: number, eps: number, offset = 0) {
    super()
    this.weight = new Parameter([width], { kind: 'constant', value: 1 - offset })
    this.eps = eps
    this.offset = offset
  }

  forward(x: Tensor): Tensor { return rmsNorm(x, this.weight.tensor, { eps: this.eps, offset: this.offset }) }

  /** [the norm of x + residual, x + residual]. */
  forwardSum(x: Tensor, residual: Tensor): readonly [Tensor, Tensor] {
    return addRmsNorm(x, residual, this.weight.tensor, { eps: this.eps, offset: this.offset })
  }
}

/** LayerNorm over the last axis; weight and bias [width]. */
export class LayerNorm extends Module {
  readonly weight: Parameter
  readonly bias: Parameter
  readonly eps: number

  constructor(width: number, eps: number) {
    super()
    this.weight = new Parameter([width], ones)
    this.bias = new Parameter([width], zeros)
    this.eps = eps
  }

  forward(x: Tensor): Tensor { return layerNorm(x, this.weight.tensor, this.bias.tensor, { eps: this.eps }) }

  /** [the norm of x + residual, x + residual]. */
  forwardSum(x: Tensor, residual: Tensor): readonly [Tensor, Tensor] {
    return addLayerNorm(x, residual, this.weight.tensor, this.bias.tensor, { eps: this.eps })
  }
}
