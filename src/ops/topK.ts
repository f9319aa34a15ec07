import { Tensor } from '../tensor/tensor.ts'
import { emptyLike, expect, fusedOp, shapeText } from './op.ts'
import { add, equal, greater, mul, reshape, sum, toDtype } from './primitives.ts'

const op = fusedOp<readonly [Tensor], { k: number; size: number }, readonly [value: Tensor, index: Tensor]>({
  name: 'top_k',
  differentiable: 1,
  definition([x], { k, size }) {
    const rows = x.dim(0)
    const numbers = (count: number): Tensor => Tensor.arange(count, { dtype: x.dtype, device: x.device })
    // A number's rank: how many of its row are larger, or equal and before it.
    const [own, other] = [reshape(x.detach(), [rows, size, 1]), reshape(x.detach(), [rows, 1, size])]
    const before = greater(reshape(numbers(size), [1, size, 1]), reshape(numbers(size), [1, 1, size]))
    const rank = sum(add(greater(other, own), mul(equal(other, own), before)), [2])
    const chosen = equal(reshape(rank, [rows, 1, size]), reshape(numbers(k), [1, k, 1]))
    const pick = (from: Tensor): Tensor => sum(mul(chosen, from), [2])
    return [pick(reshape(x, [rows, 1, size])), toDtype(pick(reshape(numbers(size), [1, 1, size])), 'int32')]
  },
  forward([x], { k }, save) {
    const [value, index] = [emptyLike(x, [x.dim(0), k]), emptyLike(x, [x.dim(0), k], 'int32')]
    x.device.kernels.top_k(value.handle, index.handle, x.handle)
    save(index)
    return [value, index]
  },
  backward([dvalue], context, { size }) {
    const index = context.saved[0]!
    const dx = Tensor.zeros([index.dim(0), size], { dtype: dvalue!.dtype, device: dvalue!.device })
    dx.device.kernels.scatter_add_last(dx.handle, dvalue!.handle, index.handle)
    context.give(0, dx)
  },
})

/** What `topK` gives: the largest numbers of rows, and their places. */
export interface TopK {
  /** [rows, k], the largest first. Differentiable in x. */
  value: Tensor
  /** int32 [rows, k]: where they stand in the row. */
  index: Tensor
}

/** The k largest of each row of x [rows, n], equal ones in the order of the row; with k = n the row, sorted. NaN counts as -infinity. Equals torch.topk. */
export function topK(x: Tensor, k: number): TopK {
  expect(x.rank === 2, 'topK', () => `x must have shape [rows, n], but has ${shapeText(x.shape)}`)
  expect(Number.isInteger(k) && k >= 0 && k <= x.dim(1), 'topK', () => `k must be a whole number from 0 to ${x.dim(1)}, the length of a row, but is ${k}`)
  const [value, index] = op([x], { k, size: x.dim(1) })
  return { value, index }
}
