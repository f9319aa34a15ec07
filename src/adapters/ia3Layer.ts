import { ConfigError } from '../errors.ts'
import { AdapterLayer, AdapterPart, Conv1D, Linear, ones, Parameter, normal } from '../nn/index.ts'
import { activation as activate, mul, reshape, toDtype } from '../ops/index.ts'
import type { Activation } from '../nn/linear.ts'
import { noGrad, scope, unscoped, type Tensor } from '../tensor/index.ts'
import { innermost } from './targets.ts'

/** One factor for each output of a layer, [out, 1], or for each input of a feed-forward layer, [1, in]. */
export class Ia3Part extends AdapterPart {
  readonly ia3_l: Parameter
  readonly isFeedforward: boolean

  constructor(size: number, isFeedforward: boolean, startsAtOne: boolean) {
    super()
    this.isFeedforward = isFeedforward
    this.ia3_l = new Parameter(isFeedforward ? [1, size] : [size, 1], startsAtOne ? ones : normal(1))
  }

  /** The factors as a row in a dtype. */
  row(dtype: Tensor['dtype']): Tensor { return toDtype(reshape(this.ia3_l.tensor, [this.ia3_l.size]), dtype) }
}

/** y = l ⊙ (W x), or W (l ⊙ x). Equals PEFT's ia3.Linear. */
export class Ia3Linear extends AdapterLayer<Ia3Part> {
  forward(x: Tensor, activation: Activation = 'none'): Tensor {
    const parts = this.active
    if (parts.length === 0) return this.base_layer.forward(x, activation)
    const product = scope(() => {
      const input = parts.reduce((value, part) => part.isFeedforward ? mul(value, part.row(value.dtype)) : value, x)
      return parts.reduce((value, part) => part.isFeedforward ? value : mul(value, part.row(value.dtype)), this.base_layer.forward(input))
    })
    return activation === 'none' ? product : activate(product, activation)
  }

  /** Scales the rows or columns of the weight, and with rows the bias. */
  merge(part: Ia3Part): void {
    const layer = innermost(this)
    if (!(layer instanceof Linear || layer instanceof Conv1D)) throw new ConfigError('merge: IA³ factors cannot be merged into quantised weights; dequantize the model first')
    // A Conv1D keeps inputs along the first axis.
    const alongRows = part.isFeedforward === layer instanceof Conv1D
    const scaled = (parameter: Parameter, shape: readonly number[]): void => {
      parameter.replace(unscoped(() => noGrad(() => scope(() => toDtype(mul(toDtype(parameter.tensor, 'float32'), reshape(part.ia3_l.tensor, shape)), parameter.dtype)))))
    }
    scaled(layer.weight, alongRows ? [-1, 1] : [1, -1])
    if (!part.isFeedforward && layer.bias) scaled(layer.bias, [-1])
  }
}
