// Proves what backward() does with graphs: sharing, accumulation, views, dtypes, several roots, errors, and the release of memory.
import { describe, expect, test } from 'vitest'
import { add, addRmsNorm, embedding, exp, linear, linearCrossEntropy, linearLogprob, mul, reshape, rmsNorm, square, sub, sum, toDtype } from '../../src/ops/index.ts'
import { backward, backwardAll, cpu, enableGrad, noGrad, scope, Tensor } from '../../src/tensor/index.ts'

const live = (): number => cpu.memory().live
const leaf = (...numbers: number[]): Tensor => Tensor.from(numbers).requiresGrad_()

test('a tensor used many times gets the sum of its gradients', async () => {
  using x = leaf(2, 3)
  scope(() => {
    const y = mul(x, x)
    backward(sum(add(add(y, y), mul(y, x))))
  })
  // 2x² + x³
  expect(await x.grad!.toArray()).toEqual([20, 39])
})

test('gradients accumulate over calls in memory of their own', async () => {
  using x = leaf(1, 2)
  using y = leaf(5, 6)
  for (let i = 0; i < 3; i++) scope(() => { backward(sum(add(x, y))) })
  expect(await x.grad!.toArray()).toEqual([3, 3])
  expect(await y.grad!.toArray()).toEqual([3, 3])
  expect(x.grad!.exclusive && y.grad!.exclusive).toBe(true)
})

test('a gradient that is a view of another is a copy of its own', async () => {
  using x = leaf(1, 2, 3, 4)
  using y = Tensor.ones([2, 2]).requiresGrad_()
  for (let i = 0; i < 3; i++) scope(() => { backward(sum(mul(add(reshape(x, [2, 2]), y), 2))) })
  expect(await x.grad!.toArray()).toEqual([6, 6, 6, 6])
  expect(await y.grad!.toArray()).toEqual([6, 6, 6, 6])
})

test('the gradient given by the caller is not changed', async () => {
  using x = leaf(1, 2)
  using gradient = Tensor.from([10, 20])
  for (let i = 0; i < 2; i++) scope(() => { backward(add(add(x, 1), x), gradient) })
  expect(await x.grad!.toArray()).toEqual([40, 80])
  expect(await gradient.toArray()).toEqual([10, 20])
})

test('several roots, one of them inside the graph of another', async () => {
  using x = leaf(1, 2)
  scope(() => {
    const y = square(x)
    const z = mul(y, 3)
    backwardAll([sum(z), sum(y), sum(y)])
  })
  expect(await x.grad!.toArray()).toEqual([10, 20])
  scope(() => {
    const y = square(x)
    backwardAll([y, mul(y, 2)], [Tensor.from([1, 0]), null])
  })
  expect(await x.grad!.toArray()).toEqual([12, 20])
})

test('the same root twice', async () => {
  using x = leaf(3)
  scope(() => {
    const loss = sum(square(x))
    backwardAll([loss, loss])
  })
  expect(await x.grad!.toArray()).toEqual([12])
})

test('constants and noGrad take no gradient', async () => {
  using x = leaf(2)
  using c = Tensor.from([5])
  scope(() => {
    const frozen = noGrad(() => square(x))
    expect(frozen.requiresGrad).toBe(false)
    expect(noGrad(() => enableGrad(() => square(x))).requiresGrad).toBe(true)
    backward(sum(mul(mul(x, frozen), c)))
  })
  expect(await x.grad!.toArray()).toEqual([20])
  expect(c.grad).toBeNull()
  expect(() => { noGrad(() => { throw new RangeError('mine') }) }).toThrow(RangeError)
  expect(square(x).requiresGrad).toBe(true)
})

test('detach cuts the graph', async () => {
  using x = leaf(3)
  scope(() => { backward(sum(mul(x, square(x).detach()))) })
  expect(await x.grad!.toArray()).toEqual([9])
})

describe('errors', () => {
  test('backward twice through a graph', () => {
    using x = leaf(2)
    scope(() => {
      const y = square(x)
      const first = sum(y)
      const second = sum(exp(y))
      backward(first)
      expect(() => { backward(first) }).toThrow(/backward ran twice through reshape; its saved tensors are gone/)
      expect(() => { backward(second) }).toThrow(expect.objectContaining({ code: 'ERR_AUTOGRAD' }) as Error)
    })
  })

  test('a root without a graph, and a root that is not one number', () => {
    using x = leaf(2, 3)
    expect(() => { backward(Tensor.ones([1])) }).toThrow(/does not depend on any tensor with requiresGrad/)
    expect(() => { backward(x) }).toThrow(/does not depend/)
    scope(() => { expect(() => { backward(square(x)) }).toThrow(/a tensor of shape \[2\] needs a gradient of that shape/) })
  })

  test('only the loss of linearCrossEntropy has a gradient', () => {
    using hidden = Tensor.ones([2, 3]).requiresGrad_()
    scope(() => {
      const { loss, nll, correct } = linearCrossEntropy(hidden, Tensor.ones([4, 3]), Tensor.from(Int32Array.of(1, 2)))
      expect([loss, nll, correct].map((tensor) => tensor.requiresGrad)).toEqual([true, false, false])
      expect(() => { backward(sum(nll)) }).toThrow(/does not depend/)
    })
  })
})

describe('dtypes', () => {
  test('gradients of bfloat16 parameters are float32, and accumulate there', async () => {
    using w = Tensor.ones([3], { dtype: 'bfloat16' }).requiresGrad_()
    for (let i = 0; i < 300; i++) scope(() => { backward(sum(mul(w, 1))) })
    expect(w.grad!.dtype).toBe('float32')
    // bfloat16 would stop at 256.
    expect(await w.grad!.toArray()).toEqual([300, 300, 300])
  })

  test('kernels that write float32 gradients of computed bfloat16 weights', async () => {
    using base = Tensor.from([1, 2, 3, 4, 5, 6], [2, 3], { dtype: 'bfloat16' }).requiresGrad_()
    using x = Tensor.ones([4, 3], { dtype: 'bfloat16' })
    using scale = Tensor.ones([3], { dtype: 'bfloat16' }).requiresGrad_()
    scope(() => { backward(sum(rmsNorm(linear(x, mul(base, 2)), sumOfScale(scale)))) })
    expect(base.grad!.dtype).toBe('float32')
    expect((await base.grad!.toArray()).every(Number.isFinite)).toBe(true)
    expect((await scale.grad!.toArray()).every(Number.isFinite)).toBe(true)
  })
  const sumOfScale = (scale: Tensor): Tensor => reshape(sum(reshape(add(scale, 0), [1, 3]), [1]), [1]).size === 1 ? add(Tensor.zeros([2], { dtype: 'bfloat16' }), sum(scale)) : scale

  test('a conversion passes the gradient back in the dtype it came from', async () => {
    using x = leaf(1, 2)
    scope(() => { backward(sum(square(toDtype(x, 'bfloat16')))) })
    expect(await x.grad!.toArray()).toEqual([2, 4])
  })
})

test('a parameter shared by an embedding and the head', async () => {
  const numbers = Array.from({ length: 15 }, (_, i) => Math.sin(i))
  const run = async (dtype: 'float32' | 'float64'): Promise<number[]> => {
    using table = Tensor.from(numbers, [5, 3], { dtype }).requiresGrad_()
    scope(() => {
      const hidden = embedding(table, Tensor.from(Int32Array.of(0, 3, 3)))
      const { logprob } = linearLogprob(hidden, table, Tensor.from(Int32Array.of(1, 2, 4)))
      const { loss } = linearCrossEntropy(hidden, table, Tensor.from(Int32Array.of(1, 2, 4)))
      backward(sub(loss, sum(mul(logprob, 0.5))))
    })
    return await table.grad!.toArray()
  }
  const [actual, expected] = [await run('float32'), await run('float64')]
  actual.forEach((x, i) => { expect(x).toBeCloseTo(expected[i]!, 5) })
})

test('one gradient given to two inputs', async () => {
  using x = Tensor.from([1, 2, 3, 4], [2, 2]).requiresGrad_()
  using residual = Tensor.ones([2, 2]).requiresGrad_()
  using weight = leaf(1, 1)
  for (let i = 0; i < 2; i++) {
    scope(() => {
      const [, total] = addRmsNorm(x, residual, weight)
      backward(sum(total))
    })
  }
  expect(await x.grad!.toArray()).toEqual([2, 2, 2, 2])
  expect(await residual.grad!.toArray()).toEqual([2, 2, 2, 2])
})

describe('memory', () => {
  const build = (x: Tensor): Tensor => scope(() => sum(square(exp(mul(x, x)))))

  test('a graph without backward is released with its result', () => {
    using x = Tensor.ones([1000]).requiresGrad_()
    const before = live()
    const loss = build(x)
    expect(live()).toBeGreaterThan(before + 4000)
    loss.dispose()
    expect(live()).toBe(before)
  })

  test('backward releases what the graph held, even while the result lives', () => {
    using x = Tensor.ones([1000]).requiresGrad_()
    const before = live()
    const loss = build(x)
    backward(loss)
    // The gradient and the loss.
    expect(live() - before).toBeLessThanOrEqual(4096 + 256)
    loss.dispose()
    x.grad!.dispose()
    x.grad = null
    expect(live()).toBe(before)
  })

  test('a branch that backward does not visit is released with its result', () => {
    using x = Tensor.ones([1000]).requiresGrad_()
    const before = live()
    scope(() => {
      const y = exp(x)
      const unused = square(y)
      expect(unused.requiresGrad).toBe(true)
      backward(sum(y))
    })
    expect(live() - before).toBe(4096)
  })
})
