// Proves that a graph on the CPU runs its calls again, keeps the memory they use, and refuses what cannot be run again.
import { expect, test } from 'vitest'
import { cpu, Graph, scope, Tensor } from '../../src/tensor/index.ts'

const full = (value: number): Tensor => Tensor.full([4], value, { device: cpu })
const numbers = async (tensor: Tensor): Promise<number[]> => Array.from(await tensor.data(), Number)
const captured = (x: Tensor) => Graph.capture(cpu, () => scope(() => {
  const [y, z] = [Tensor.empty([4], { device: cpu }), Tensor.empty([4], { device: cpu })]
  cpu.kernels.scale(y.handle, x.handle, 3)
  cpu.kernels.scale(z.handle, y.handle, 2)
  return z
}))

test('a graph runs its calls on what the tensors hold then, in the order of the stream', async () => {
  const x = full(1)
  const { graph, result } = captured(x)
  cpu.kernels.fill(result.handle, 9)
  expect(await numbers(result)).toEqual([9, 9, 9, 9])
  cpu.kernels.fill(x.handle, 5)
  // Memory that the recording freed must not serve other tensors.
  const others = [1, 2, 3].map(() => full(0))
  graph.replay()
  expect(await numbers(result)).toEqual([30, 30, 30, 30])
  for (const other of others) expect(await numbers(other)).toEqual([0, 0, 0, 0])
  cpu.kernels.fill(x.handle, -1)
  graph.replay()
  expect(await numbers(result)).toEqual([-6, -6, -6, -6])
  graph.dispose()
  graph.dispose()
  expect(() => { graph.replay() }).toThrow(expect.objectContaining({ code: 'ERR_DISPOSED' }) as Error)
  for (const tensor of [x, result, ...others]) tensor.dispose()
})

test('a graph keeps the memory that it uses until it is disposed of', async () => {
  await cpu.fence()
  const before = cpu.memory().blocks
  const x = full(2)
  const { graph, result } = captured(x)
  x.dispose()
  result.dispose()
  cpu.emptyCache()
  const others = Array.from({ length: 8 }, () => full(7))
  graph.replay()
  for (const other of others) expect(await numbers(other)).toEqual([7, 7, 7, 7])
  for (const other of others) other.dispose()
  graph.dispose()
  expect(cpu.memory().blocks).toBe(before)
})

test('a graph replayed in another becomes part of it, with the memory it uses', async () => {
  const x = full(2)
  const inner = captured(x)
  const outer = Graph.capture(cpu, () => { inner.graph.replay() })
  for (const one of [inner.graph, inner.result, x]) one.dispose()
  const others = Array.from({ length: 8 }, () => full(7))
  outer.graph.replay()
  for (const other of others) expect(await numbers(other)).toEqual([7, 7, 7, 7])
  for (const other of others) other.dispose()
  outer.graph.dispose()
})

test('copies to and from JavaScript are refused while a graph is recorded, and the device goes on afterwards', async () => {
  const x = full(4)
  expect(() => Graph.capture(cpu, () => Tensor.from([1, 2, 3], [3], { device: cpu }))).toThrow(expect.objectContaining({ code: 'ERR_DEVICE' }) as Error)
  let reading: Promise<unknown> | undefined
  Graph.capture(cpu, () => { reading = x.data() }).graph.dispose()
  await expect(reading).rejects.toMatchObject({ code: 'ERR_DEVICE', message: 'a graph cannot copy between host and device; make its tensors before the capture' })
  expect(await numbers(x)).toEqual([4, 4, 4, 4])
  x.dispose()
})

test('a kernel that fails in a graph fails the next fence, and only that', async () => {
  const [x, rows, row] = [full(1), Tensor.zeros([2, 4], { device: cpu }), Tensor.from(Int32Array.of(0), [1], { device: cpu })]
  const { graph } = Graph.capture(cpu, () => { cpu.kernels.gather_rows(x.viewAs([1, 4]).handle, rows.handle, row.handle) })
  cpu.kernels.fill(row.handle, 5)
  graph.replay()
  await expect(cpu.fence()).rejects.toMatchObject({ code: 'ERR_KERNEL' })
  cpu.kernels.fill(row.handle, 1)
  graph.replay()
  await cpu.fence()
  expect(await numbers(x)).toEqual([0, 0, 0, 0])
  graph.dispose()
  for (const tensor of [x, rows, row]) tensor.dispose()
})
