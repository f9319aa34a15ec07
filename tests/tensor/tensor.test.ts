// Proves that numbers go into tensors and come back in every dtype, and that wrong shapes are refused with the reason.
import { inspect } from 'node:util'
import { expect, test } from 'vitest'
import { cpu, dtypes, Tensor } from '../../src/tensor/index.ts'

test.each(dtypes)('numbers survive the way through %s', async (dtype) => {
  for (const shape of [[], [0], [1], [2, 3], [1, 2, 1, 3, 1, 1]]) {
    const size = shape.reduce((a, b) => a * b, 1)
    using tensor = Tensor.from(Array.from({ length: size }, (_, i) => i + 1), shape, { dtype })
    expect([tensor.shape, tensor.size, tensor.rank]).toEqual([shape, size, shape.length])
    expect(await tensor.toArray()).toEqual(Array.from({ length: size }, (_, i) => i + 1))
  }
})

test('a typed array gives its dtype, and is copied', async () => {
  const source = Float64Array.of(1.1, 2.2)
  using wide = Tensor.from(source)
  source.fill(0)
  expect(wide.dtype).toBe('float64')
  expect(await wide.toArray()).toEqual([1.1, 2.2])
  using whole = Tensor.from(Int32Array.of(1))
  using long = Tensor.from(BigInt64Array.of(2n ** 60n))
  using bytes = Tensor.from(Uint8Array.of(255))
  expect([whole.dtype, long.dtype, bytes.dtype]).toEqual(['int32', 'int64', 'uint8'])
  expect((await long.data())[0]).toBe(2n ** 60n)
})

test('a tensor is printed as what it is', () => {
  const tensor = Tensor.from([1, 2, 3], [1, 3], { dtype: 'bfloat16' }).requiresGrad_()
  expect(inspect({ weight: tensor })).toBe('{ weight: Tensor(bfloat16 [1, 3] on cpu, requiresGrad) }')
  tensor.dispose()
  expect(String(tensor)).toBe('Tensor(bfloat16 [1, 3] disposed, requiresGrad)')
})

test('a part of a larger buffer is written alone', async () => {
  const buffer = Float32Array.of(1, 2, 3, 4)
  using tensor = Tensor.from(buffer.subarray(1, 3))
  expect(await tensor.toArray()).toEqual([2, 3])
})

test('writing while the stream is busy keeps the order', async () => {
  using a = Tensor.zeros([2_000_000])
  using b = Tensor.from([1, 2, 3])
  for (let i = 0; i < 20; i++) cpu.kernels.fill(a.handle, i)
  const before = b.toArray()
  b.copy_([4, 5, 6])
  const after = b.toArray()
  expect([await before, await after]).toEqual([[1, 2, 3], [4, 5, 6]])
})

test('wrong shapes are refused', async () => {
  expect(() => Tensor.from([1, 2, 3], [2])).toThrow(/shape \[2\] holds 2 numbers, but 3 were given/)
  expect(() => Tensor.empty([1, 1, 1, 1, 1, 1, 1])).toThrow(/at most 6 axes, not 7/)
  expect(() => Tensor.empty([-1])).toThrow(/axis 0 of a shape must be a whole number/)
  expect(() => Tensor.empty([1.5])).toThrow(/whole number/)
  expect(() => Tensor.empty([2 ** 30, 2 ** 30])).toThrow(/\[1073741824, 1073741824\] is too large/)
  using x = Tensor.ones([2])
  expect(() => x.copy_([1])).toThrow(/holds 2 numbers, but 1 were given/)
  expect(() => x.dim(1)).toThrow(/axis 1 does not exist in shape \[2\]/)
  await expect(x.item()).rejects.toThrow(/must hold one number, but has shape \[2\]/)
  using whole = Tensor.from(Int32Array.of(1))
  expect(() => whole.requiresGrad_()).toThrow(/not int32/)
})

test('a kernel that fails: what was asked for and enqueued before it was known is rejected and skipped, all of it; what comes after runs', async () => {
  using a = Tensor.ones([3])
  using table = Tensor.ones([4, 2])
  using outside = Tensor.from(Int32Array.of(4))
  using rows = Tensor.ones([1, 2])
  cpu.kernels.embedding(rows.handle, table.handle, outside.handle)
  const asked: Promise<unknown>[] = [rows.data()]
  cpu.kernels.fill(a.handle, 5)
  asked.push(a.data(), cpu.fence())
  // Another failure of the time before is not reported to those who come after.
  cpu.kernels.embedding(rows.handle, table.handle, outside.handle)
  asked.push(a.data())
  for (const one of await Promise.allSettled(asked)) expect(one).toMatchObject({ status: 'rejected', reason: { code: 'ERR_KERNEL', message: 'embedding: id[0] is 4, outside the vocabulary of 4' } })
  await cpu.fence()
  expect(await a.toArray()).toEqual([1, 1, 1])
  // One that fails again is a failure of its own, while the recovery from the first is under way or done.
  for (let round = 0; round < 3; round++) {
    cpu.kernels.embedding(rows.handle, table.handle, outside.handle)
    await expect(rows.data()).rejects.toMatchObject({ code: 'ERR_KERNEL' })
  }
  cpu.kernels.fill(a.handle, 6)
  expect(await a.toArray()).toEqual([6, 6, 6])
})
