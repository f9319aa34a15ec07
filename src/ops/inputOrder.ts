import type { Device } from '../tensor/device.ts'
import { unscoped } from '../tensor/scope.ts'
import { Tensor } from '../tensor/tensor.ts'
import { emptyLike } from './op.ts'

/** In which order a weight holds its inputs: column p of the codes belongs to input order[p]. GPTQ's act-order puts inputs of one group side by side so. */
export class InputOrder {
  readonly inputs: readonly number[]
  /** int32 [inputs]. */
  readonly order: Tensor
  /** Where each input lies: int32 [inputs]. */
  readonly inverse: Tensor

  /** `inputs` is a permutation of 0 … n - 1. */
  constructor(inputs: readonly number[], device: Device) {
    const places = new Int32Array(inputs.length)
    inputs.forEach((input, place) => { places[input] = place })
    this.inputs = inputs
    this.order = unscoped(() => Tensor.from(Int32Array.from(inputs), [inputs.length], { device }))
    this.inverse = unscoped(() => Tensor.from(places, [inputs.length], { device }))
  }

  /** x [..., inputs] with its columns in the weight's order. Nothing is recorded for a gradient. */
  toWeight(x: Tensor): Tensor { return columns(x, this.order) }
  /** The inverse. */
  toInputs(x: Tensor): Tensor { return columns(x, this.inverse) }

  dispose(): void {
    this.order.dispose()
    this.inverse.dispose()
  }
}

function columns(x: Tensor, index: Tensor): Tensor {
  const y = emptyLike(x)
  x.device.kernels.gather_last(y.handle, x.handle, index.handle)
  return y
}
