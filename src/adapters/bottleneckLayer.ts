import { AdapterLayer, AdapterPart, normal, Parameter, zeros } from '../nn/index.ts'
import { activation as activate, add, linear, mul, toDtype } from '../ops/index.ts'
import type { Activation } from '../nn/linear.ts'
import { scope, type Tensor } from '../tensor/index.ts'
import type { BottleneckOptions } from './options.ts'

/** down [width, size] and up [size, width] with their biases. It starts near the identity, as up is zero. */
export class BottleneckPart extends AdapterPart {
  readonly adapter_down_weight: Parameter
  readonly adapter_down_bias: Parameter
  readonly adapter_up_weight: Parameter
  readonly adapter_up_bias: Parameter
  readonly options: BottleneckOptions

  constructor(size: number, options: BottleneckOptions) {
    super()
    const width = Math.max(1, Math.floor(size / options.reductionFactor))
    this.options = options
    this.adapter_down_weight = new Parameter([width, size], normal(0.02))
    this.adapter_down_bias = new Parameter([width], zeros)
    this.adapter_up_weight = new Parameter([size, width], zeros)
    this.adapter_up_bias = new Parameter([size], zeros)
  }
}

/** y + scaling up(f(down(y))) of a sub-layer's last projection y, before the residual is added (Houlsby et al. 2019). */
export class BottleneckLinear extends AdapterLayer<BottleneckPart> {
  forward(x: Tensor, activation: Activation = 'none'): Tensor {
    const parts = this.active
    if (parts.length === 0) return this.base_layer.forward(x, activation)
    const y = scope(() => parts.reduce((value, part) => {
      const { nonLinearity, scaling } = part.options
      const inner = linear(toDtype(value, part.adapter_down_weight.dtype), part.adapter_down_weight.tensor, part.adapter_down_bias.tensor, { activation: nonLinearity })
      const change = linear(inner, part.adapter_up_weight.tensor, part.adapter_up_bias.tensor)
      return add(value, toDtype(scaling === 1 ? change : mul(change, scaling), value.dtype))
    }, this.base_layer.forward(x)))
    return activation === 'none' ? y : activate(y, activation)
  }
}
