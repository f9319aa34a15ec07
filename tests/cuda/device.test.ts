// Proves what the device layer promises: copies, memory, faults found on the device, failures in mid-step, graphs, and clear errors.
import { afterEach, describe, expect, test } from 'vitest'
import { embedding, linear, sum } from '../../src/ops/index.ts'
import { backward, cpu, device, Graph, profile, scope, Tensor } from '../../src/tensor/index.ts'
import { run } from '../native/run.ts'
import { on, tested } from './device.ts'

afterEach(() => { tested.setMemoryLimit(0) })
const ints = (...values: number[]): Tensor => Tensor.from(Int32Array.from(values), [values.length], { device: tested })

test('tensors move between devices in the order of both streams', async () => {
  const numbers = Float32Array.from({ length: 5000 }, (_, i) => i)
  const here = Tensor.from(numbers, [50, 100], { device: cpu })
  const there = here.to(tested)
  here.device.kernels.fill(here.handle, 7)
  expect(there.device).toBe(tested)
  const back = there.to(cpu)
  there.device.kernels.fill(there.handle, 8)
  expect(await back.data()).toEqual(numbers)
  expect((await there.data()).every((x) => x === 8)).toBe(true)
  expect((await here.data()).every((x) => x === 7)).toBe(true)
  expect(there.to(tested)).toBe(there)
  for (const tensor of [here, there, back]) tensor.dispose()
})

test('a process ends though the copy that a device waits for never comes', () => {
  const { status, signal } = run(`
    const { deviceLibrary } = await import(${JSON.stringify(new URL('../../lib/load.js', import.meta.url).href)})
    const there = native.create(0, [1024, 1024], native.openDevice(deviceLibrary(${JSON.stringify(tested.name.replace(/:.*/, ''))}), 0))
    busy(native)
    const here = native.create(0, [1024, 1024], 0)
    native.copy(there, here)
  `)
  expect({ status, signal }).toEqual({ status: 0, signal: null })
})

test('large copies pass through the staging memory in pieces', async () => {
  const bytes = Uint8Array.from({ length: 20_000_003 }, (_, i) => i * 7 % 251)
  const tensor = Tensor.from(bytes, [bytes.length], { device: tested })
  expect(Buffer.compare(Buffer.from(await tensor.data() as Uint8Array), Buffer.from(bytes))).toBe(0)
  tensor.dispose()
})

test('tensors of two devices do not meet in one operation', () => {
  const [here, there] = [Tensor.ones([2, 2], { device: cpu }), Tensor.ones([2, 2], { device: tested })]
  expect(() => linear(there, here)).toThrow(expect.objectContaining({ code: 'ERR_DEVICE', message: expect.stringMatching(/^gemm: argument 4 is on cpu, but the tensors before it are on \w+; move one with to\(\)$/) as string }) as Error)
  here.dispose()
  there.dispose()
})

test('unknown devices and devices that do not exist are refused', () => {
  expect(() => device('gpu')).toThrow(/device "gpu" is unknown; it must be cpu, cuda, or cuda:1/)
  expect(() => device(`${tested.name}:7`)).toThrow(expect.objectContaining({ code: 'ERR_DEVICE' }) as Error)
})

describe('a wrong value that only the device can see', () => {
  test('rejects the next fence with the kernel, the place and the value, once', async () => {
    const [weight, id] = [Tensor.ones([5, 8], { device: tested }), ints(1, 2, 9, 4)]
    scope(() => { embedding(weight, id) })
    await expect(tested.fence()).rejects.toMatchObject({ code: 'ERR_KERNEL', message: expect.stringMatching(/^embedding: id\[2\] is 9, outside the vocabulary of 5/) as string })
    await tested.fence()
    weight.dispose()
    id.dispose()
  })

  test('rejects all that was asked for before it was known, and what is enqueued until then does not run', async () => {
    const [weight, id] = [Tensor.ones([5, 8], { device: tested }), ints(9)]
    scope(() => { embedding(weight, id) })
    const asked: Promise<unknown>[] = [weight.data(), tested.fence()]
    tested.kernels.fill(weight.handle, 3)
    asked.push(weight.data())
    for (const one of await Promise.allSettled(asked)) expect(one).toMatchObject({ status: 'rejected', reason: { code: 'ERR_KERNEL', message: expect.stringMatching(/^embedding: id\[0\] is 9/) as string } })
    expect((await weight.data()).every((x) => x === 1)).toBe(true)
    for (const tensor of [weight, id]) tensor.dispose()
  })

  test('keeps the optimizer from touching parameters', async () => {
    const [weight, id] = [Tensor.ones([5, 8], { device: tested }), ints(77)]
    const [first, second, gradient] = [0, 0, 1].map((value) => Tensor.full([5, 8], value, { device: tested })) as [Tensor, Tensor, Tensor]
    scope(() => { embedding(weight, id) })
    tested.kernels.adamw([weight.handle], [first.handle], [second.handle], [], [gradient.handle], 0, [0.1], 0.9, 0.999, 1e-8, [0], 1)
    await expect(tested.fence()).rejects.toThrow(/embedding/)
    expect((await weight.data()).every((x) => x === 1)).toBe(true)
    expect((await second.data()).every((x) => x === 0)).toBe(true)
    for (const tensor of [weight, id, first, second, gradient]) tensor.dispose()
  })
})

test('wrong arguments throw at the call; a kernel that fails when it runs rejects the fence and abandons what follows', async () => {
  const [x, y, weight] = [Tensor.zeros([1, 3], { device: tested }), Tensor.zeros([1, 4], { device: tested }), Tensor.zeros([4, 3], { dtype: 'bfloat16', device: tested })]
  expect(() => { tested.kernels.convert(y.handle, x.handle) }).toThrow(expect.objectContaining({ code: 'ERR_KERNEL', message: expect.stringMatching(/^convert: /) as string }) as Error)
  tested.kernels.decode_matmul(y.handle, x.handle, weight.handle, 0, 0)
  tested.kernels.fill(x.handle, 5)
  await expect(tested.fence()).rejects.toMatchObject({ code: 'ERR_KERNEL', message: expect.stringMatching(/^decode_matmul has no CUDA kernel: /) as string })
  expect((await x.data())[0]).toBe(0)
  for (const tensor of [x, y, weight]) tensor.dispose()
})

test('memory is counted, reused and given back', async () => {
  await tested.fence()
  tested.emptyCache()
  const before = tested.memory()
  const tensor = Tensor.zeros([1000, 1000], { device: tested })
  expect(tested.memory().live - before.live).toBeGreaterThanOrEqual(4e6)
  tensor.dispose()
  expect(tested.memory().live).toBe(before.live)
  tested.emptyCache()
  await tested.fence()
  expect(tested.memory().system).toBeLessThanOrEqual(before.system)
})

test('a step without enough memory ends in OutOfMemoryError with the weights as they were; a smaller one works', async () => {
  const weight = on(tested, () => Tensor.full([64, 64], 0.5)).requiresGrad_()
  const step = (rows: number): void => {
    on(tested, () => {
      scope(() => {
        const x = Tensor.ones([rows, 64])
        backward(sum(linear(linear(x, weight), weight)))
      })
    })
  }
  await tested.fence()
  tested.emptyCache()
  await tested.fence()
  tested.setMemoryLimit(tested.memory().system + (4 << 20))
  expect(() => { step(100_000) }).toThrow(expect.objectContaining({ code: 'ERR_OUT_OF_MEMORY', message: expect.stringMatching(/cannot allocate \d+ bytes for a tensor of shape \[100000, 64\], f32, on \w+; \d+ bytes are in use/) as string }) as Error)
  await tested.fence()
  expect((await weight.data()).every((x) => x === 0.5)).toBe(true)
  weight.grad?.dispose()
  weight.grad = null
  step(10)
  expect((await weight.grad!.data()).every((x) => Number.isFinite(Number(x)))).toBe(true)
  weight.dispose()
})

test('launches are counted', async () => {
  const before = await tested.launches()
  const x = Tensor.zeros([10], { device: tested })
  expect(await tested.launches() - before).toBe(1)
  x.dispose()
})

test('a profile counts kernels one by one, and graphs as wholes', async () => {
  const x = Tensor.full([4], 1, { device: tested })
  const { graph } = Graph.capture(tested, () => { tested.kernels.scale(x.handle, x.handle, 3) })
  const times = await profile(() => {
    tested.kernels.fill(x.handle, 5)
    graph.replay()
    graph.replay()
  }, tested)
  expect(new Map(times.map(({ kernel, calls }) => [kernel, calls]))).toEqual(new Map([['fill', 1], ['graph', 2]]))
  expect(times.every(({ seconds }) => seconds > 0)).toBe(true)
  expect(Array.from(await x.data(), Number)).toEqual([45, 45, 45, 45])
  graph.dispose()
  x.dispose()
})

describe('a graph', () => {
  test('runs its calls again on what the tensors hold then', async () => {
    const x = Tensor.full([4], 1, { device: tested })
    const { graph, result } = Graph.capture(tested, () => scope(() => {
      const y = Tensor.empty([4], { device: tested })
      const z = Tensor.empty([4], { device: tested })
      tested.kernels.scale(y.handle, x.handle, 3)
      tested.kernels.scale(z.handle, y.handle, 2)
      return z
    }))
    tested.kernels.fill(x.handle, 5)
    // Memory that the recording freed must not serve other tensors.
    const others = [1, 2, 3].map(() => Tensor.zeros([4], { device: tested }))
    graph.replay()
    expect(Array.from(await result.data(), Number)).toEqual([30, 30, 30, 30])
    for (const other of others) expect(Array.from(await other.data(), Number)).toEqual([0, 0, 0, 0])
    tested.kernels.fill(x.handle, -1)
    graph.replay()
    expect(Array.from(await result.data(), Number)).toEqual([-6, -6, -6, -6])
    graph.dispose()
    graph.dispose()
    expect(() => { graph.replay() }).toThrow(expect.objectContaining({ code: 'ERR_DISPOSED' }) as Error)
    for (const tensor of [x, result, ...others]) tensor.dispose()
  })

  test('that copies from the host is refused, and cannot run', async () => {
    const { graph, result } = Graph.capture(tested, () => Tensor.from([1, 2, 3], [3], { device: tested }))
    await expect(tested.fence()).rejects.toMatchObject({ code: 'ERR_DEVICE', message: expect.stringMatching(/^a graph cannot copy between host and device; make its tensors before the capture/) as string })
    graph.replay()
    await tested.fence().catch(() => undefined)
    graph.dispose()
    result.dispose()
    const x = Tensor.full([2], 4, { device: tested })
    expect(Array.from(await x.data(), Number)).toEqual([4, 4])
    x.dispose()
  })
})
