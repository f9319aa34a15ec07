// Proves when tensors are released: by scopes, by dispose(), and never while a gradient needs them.
import { expect, test } from 'vitest'
import { add, mul, reshape, sum } from '../../src/ops/index.ts'
import { backward, cpu, scope, Tensor, unscoped } from '../../src/tensor/index.ts'

const live = (): number => cpu.memory().live

test('a scope releases what was made in it, and keeps what it returns', () => {
  const before = live()
  const kept = scope(() => {
    const a = Tensor.ones([1000])
    const b = add(a, 1)
    return { list: [mul(b, 2)], alone: b, number: 3 }
  })
  expect(kept.alone.disposed).toBe(false)
  expect(live() - before).toBe(2 * 4096)
  kept.alone.dispose()
  kept.list[0]!.dispose()
  expect(live()).toBe(before)
})

test('what an inner scope returns belongs to the outer one', () => {
  const before = live()
  let inner: Tensor | undefined
  scope(() => {
    inner = scope(() => Tensor.ones([10]))
    expect(inner.disposed).toBe(false)
  })
  expect(inner!.disposed).toBe(true)
  expect(live()).toBe(before)
})

test('an error releases everything and passes', () => {
  const before = live()
  expect(() => { scope(() => {
    Tensor.ones([10])
    scope(() => {
      Tensor.ones([20])
      throw new RangeError('mine')
    })
  }); }).toThrow(RangeError)
  expect(live()).toBe(before)
  // The scope is closed: what is made now is not released by it.
  const after = Tensor.ones([3])
  scope(() => undefined)
  expect(after.disposed).toBe(false)
  after.dispose()
})

test('an asynchronous function is refused', () => {
  const before = live()
  // eslint-disable-next-line @typescript-eslint/require-await -- asynchronous on purpose
  expect(() => scope(async () => Tensor.ones([10]))).toThrow(/must be synchronous/)
  expect(live()).toBe(before)
})

test('unscoped tensors outlive the scope', () => {
  const tensor = scope(() => {
    const parameter = unscoped(() => Tensor.ones([3]))
    return () => parameter
  })()
  expect(tensor.disposed).toBe(false)
  tensor.dispose()
})

test('a tensor used after it was disposed is an error that says so', async () => {
  const x = Tensor.ones([2, 3])
  x.dispose()
  x.dispose()
  expect(x.disposed).toBe(true)
  const message = /a tensor of shape \[2, 3\] was used after it was disposed/
  for (const use of [() => add(x, 1), () => x.handle, () => x.detach(), () => reshape(x, [6]), () => x.copy_([1, 2, 3, 4, 5, 6])]) {
    expect(use).toThrow(expect.objectContaining({ code: 'ERR_DISPOSED', message: expect.stringMatching(message) as string }) as Error)
  }
  await expect(x.data()).rejects.toMatchObject({ code: 'ERR_DISPOSED' })
})

test('using releases at the end of the block', () => {
  const before = live()
  {
    using x = Tensor.ones([100])
    expect(x.disposed).toBe(false)
  }
  expect(live()).toBe(before)
})

test('a view keeps the memory alive, and data can be read while the tensor is disposed', async () => {
  const before = live()
  const x = Tensor.arange(6)
  const view = reshape(x, [2, 3])
  x.dispose()
  const pending = view.toArray()
  view.dispose()
  expect(await pending).toEqual([0, 1, 2, 3, 4, 5])
  expect(live()).toBe(before)
})

test('a tensor disposed before backward still gives its gradient', async () => {
  const w = Tensor.from([1, 2, 3]).requiresGrad_()
  const loss = scope(() => {
    const x = Tensor.from([4, 5, 6])
    return sum(mul(mul(w, x), w))
  })
  backward(loss)
  expect(await w.grad!.toArray()).toEqual([8, 20, 36])
  loss.dispose()
  w.dispose()
})

test('handles are not reused for a disposed tensor', () => {
  const x = Tensor.ones([4])
  const { handle } = x
  x.dispose()
  const y = Tensor.ones([4])
  expect(y.handle).not.toBe(handle)
  expect(() => { cpu.kernels.fill(handle, 1) }).toThrow(/is not a live tensor/)
  y.dispose()
})
