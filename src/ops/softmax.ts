import type { Tensor } from '../tensor/tensor.ts'
import { emptyLike, fusedOp } from './op.ts'
import { div, exp, max, sub, sum } from './primitives.ts'

const op = fusedOp<readonly [Tensor], object, Tensor>({
  name: 'softmax',
  definition([x]) {
    const shifted = exp(sub(x, max(x, [-1], true).detach()))
    return div(shifted, sum(shifted, [-1], true))
  },
  forward([x], _attributes, save) {
    const y = emptyLike(x)
    x.device.kernels.softmax(y.handle, x.handle)
    save(y)
    return y
  },
  backward([dy], context) {
    const y = context.saved[0]!
    const dx = emptyLike(y)
    dx.device.kernels.softmax_backward(dx.handle, dy!.handle, y.handle)
    context.give(0, dx)
  },
})

/** exp(x) / sum(exp(x)) over the last axis. */
export const softmax = (x: Tensor): Tensor => op([x], {})
