import { resultsOnly } from '../tensor/scope.ts'
import { Tensor } from '../tensor/tensor.ts'
import type { DType } from '../tensor/dtype.ts'
import { emptyLike, expect, expectDtype, fusedOp, shapeText } from './op.ts'
import { equal, matmul, reshape, toDtype } from './primitives.ts'

/** @internal [tokens, count] with a 1 at (t, id[t]). */
export function oneHot(id: Tensor, count: number, dtype: DType): Tensor {
  return equal(reshape(toDtype(id, dtype), [id.size, 1]), reshape(Tensor.arange(count, { dtype, device: id.device }), [1, count]))
}

const op = fusedOp<readonly [Tensor, Tensor], object, Tensor>({
  name: 'embedding',
  definition: ([weight, id]) => matmul(oneHot(id, weight.dim(0), weight.dtype), weight),
  forward([weight, id], _attributes, save) {
    const y = emptyLike(weight, [id.size, weight.dim(1)])
    y.device.kernels.embedding(y.handle, weight.handle, id.handle)
    save(id)
    return y
  },
  backward([dy], context) {
    const { tensor, accumulate } = context.target(0)
    tensor.device.kernels.embedding_backward(tensor.handle, dy!.handle, context.saved[0]!.handle, accumulate)
  },
})

/** weight[id]: weight [vocabulary, width], id int32 of any shape; the result has shape [...id.shape, width] and the weight's dtype. */
export function embedding(weight: Tensor, id: Tensor): Tensor {
  expect(weight.rank === 2, 'embedding', () => `weight must have shape [vocabulary, width], but has ${shapeText(weight.shape)}`)
  expectDtype('embedding', 'id', id, 'int32')
  return resultsOnly(() => {
    const y = op([weight, id.rank === 1 ? id : id.viewAs([id.size])], {})
    return id.rank === 1 ? y : reshape(y, [...id.shape, weight.dim(1)])
  })
}
