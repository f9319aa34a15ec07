import { add, exp, greater, log, matmul, maximum, minimum, mul, neg, reshape, sub, sum, transpose, where, equal } from '../../../ops/index.ts'
import { Tensor } from '../../../tensor/index.ts'

/** log σ(x), without overflow; its gradient at 0, where preference training starts, is 1/2. */
export function logSigmoid(x: Tensor): Tensor {
  // The shift cancels, so it needs no gradient; min() would have none at 0.
  const shift = minimum(x, 0).detach()
  return sub(shift, log(add(exp(shift), exp(sub(shift, x)))))
}

export const relu = (x: Tensor): Tensor => maximum(x, 0)

/** log(1 - e^x) of x < 0: the log-probability of everything else. x above -1e-7 counts as -1e-7, where the result is still finite. */
export function log1mexp(x: Tensor): Tensor {
  const below = minimum(x, -1e-7)
  // Near 0 the difference 1 - e^x loses its digits; five terms of its series do not.
  const tail = [5, 4, 3, 2].reduce<Tensor | number>((rest, n) => add(1, mul(mul(below, 1 / n), rest)), 1) as Tensor
  return log(where(greater(below, -0.01), neg(mul(below, tail)), sub(1, exp(below))))
}

/** The numbers of a vector [n] in rising order, differentiable: a permutation of the vector. */
export function sortAscending(x: Tensor): Tensor {
  const n = x.size
  const row = reshape(x, [1, n])
  const column = reshape(x, [n, 1])
  const numbers = Tensor.arange(n, { dtype: x.dtype, device: x.device })
  // How many stand before: the smaller ones, and of equal ones those with a lower index.
  const earlier = greater(reshape(numbers, [n, 1]), reshape(numbers, [1, n]))
  const before = add(greater(column, row), mul(equal(column, row), earlier)).detach()
  const rank = sum(before, [1])
  const permutation = equal(reshape(numbers, [n, 1]), reshape(rank, [1, n]))
  return reshape(matmul(permutation, column), [n])
}

/** The matrix of x_i - x_j. */
export const differences = (x: Tensor): Tensor => {
  const column = add(reshape(x, [x.size, 1]), Tensor.zeros([x.size, x.size], { dtype: x.dtype, device: x.device }))
  return sub(column, transpose(column))
}
