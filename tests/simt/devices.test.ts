// Proves that two GPUs work in one process: work stays on its device, each counts its own memory and launches, and both give the same bits. The emulator
// refuses a stream, an event or a kernel of a device that is not the current one, and its instrumented build a kernel that reads another device's memory.
import { fileURLToPath } from 'node:url'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { add, attention, embedding, linear, rmsNorm, Spans } from '../../src/ops/index.ts'
import { cpu, device, Graph, scope, setDefaultDevice, Tensor } from '../../src/tensor/index.ts'
import type { Device } from '../../src/tensor/index.ts'
import { temporaryFolder } from '../files/helpers.ts'
import { lossesOf, rows, runToEnd, tinyModel, tinyTrainer, trainerHash } from '../train/support.ts'

const megabyte = 2 ** 20
let first: Device
let second: Device
const live: { dispose(): void }[] = []

beforeAll(() => {
  setDefaultDevice(cpu)
  Object.assign(process.env, {
    ANNEAL_SIMT_DEVICES: '2', ANNEAL_SIMT_MEMORY: String(192 * megabyte),
    ANNEAL_SIMT_LIBRARY: fileURLToPath(new URL('../../build-simt/anneal-simt-race.so', import.meta.url)),
  })
  first = device('simt')
  second = device('simt:1')
})
afterEach(() => { for (const one of live.splice(0)) one.dispose() })
afterAll(() => { setDefaultDevice(cpu) })

const make = (where: Device, value: number, shape = [2, 2]): Tensor => {
  const tensor = Tensor.full(shape, value, { device: where })
  live.push(tensor)
  return tensor
}

test('names and numbers', () => {
  expect([first.name, second.name]).toEqual(['simt', 'simt:1'])
  expect(device('simt:0')).toBe(first)
  expect(device('simt:1')).toBe(second)
  expect(() => device('simt:2')).toThrow(expect.objectContaining({ code: 'ERR_DEVICE', message: expect.stringMatching(/:2 does not exist; this machine has 2 GPUs$/) as string }) as Error)
})

describe('tensors of two devices in one operation', () => {
  const refused = (kernel: string, argument: number, is: string, others: string): Error =>
    expect.objectContaining({ code: 'ERR_DEVICE', message: `${kernel}: argument ${argument} is on ${is}, but the tensors before it are on ${others}; move one with to()` }) as Error

  test('are refused, with the operation and the argument', async () => {
    const [here, there, host] = [make(first, 1), make(second, 1), make(cpu, 1)]
    const ids = Tensor.from(Int32Array.of(0, 1), [2], { device: first })
    live.push(ids)
    expect(() => linear(here, there)).toThrow(refused('gemm', 4, 'simt:1', 'simt'))
    expect(() => linear(there, here)).toThrow(refused('gemm', 4, 'simt', 'simt:1'))
    expect(() => linear(there, host)).toThrow(refused('gemm', 4, 'cpu', 'simt:1'))
    expect(() => add(there, here)).toThrow(expect.objectContaining({ code: 'ERR_DEVICE' }) as Error)
    expect(() => rmsNorm(there, make(first, 1, [2]))).toThrow(expect.objectContaining({ code: 'ERR_DEVICE', message: expect.stringMatching(/ is on simt, but the tensors before it are on simt:1;/) as string }) as Error)
    expect(() => embedding(there, ids)).toThrow(expect.objectContaining({ code: 'ERR_DEVICE' }) as Error)
    expect(() => attention(make(second, 1, [2, 1, 8]), make(second, 1, [2, 1, 8]), make(first, 1, [2, 1, 8]), new Spans([{ queryBegin: 0, queryLength: 2, keyBegin: 0, keyLength: 2 }])))
      .toThrow(expect.objectContaining({ code: 'ERR_DEVICE' }) as Error)
    await Promise.all([first.fence(), second.fence()])
  })

  test('also among a list of parameters', () => {
    const [p, q, m, v, g] = [make(first, 1), make(second, 1), make(first, 0), make(first, 0), make(first, 1)]
    expect(() => {
      first.kernels.adamw([p.handle, q.handle], [m.handle, m.handle], [v.handle, v.handle], [], [g.handle, g.handle], 0, [1, 1], 0.9, 0.99, 1e-8, [0, 0], 1)
    }).toThrow(expect.objectContaining({ code: 'ERR_DEVICE', message: expect.stringMatching(/^adamw: argument 1 is on simt:1, but the tensors before it are on simt;/) as string }) as Error)
  })
})

test('tensors move between the devices', async () => {
  const numbers = Float32Array.from({ length: 3000 }, (_, i) => i)
  const here = Tensor.from(numbers, [30, 100], { device: first })
  const there = here.to(second)
  const back = there.to('simt')
  live.push(here, there, back)
  expect([there.device, back.device]).toEqual([second, first])
  here.device.kernels.fill(here.handle, -1)
  there.device.kernels.fill(there.handle, -2)
  expect(await back.data()).toEqual(numbers)
})

test('each counts its own memory and launches, and runs out of its own', async () => {
  await Promise.all([first.fence(), second.fence()])
  const before = [first, second].map((one) => one.memory())
  const launched = await Promise.all([first.launches(), second.launches()])
  const room = (where: Device): Tensor => {
    const tensor = Tensor.empty([32, megabyte], { device: where })
    live.push(tensor)
    return tensor
  }
  room(second)
  make(second, 1)
  expect(first.memory().live).toBe(before[0]!.live)
  expect(second.memory().live - before[1]!.live).toBeGreaterThanOrEqual(128 * megabyte)
  expect(await Promise.all([first.launches(), second.launches()])).toEqual([launched[0], launched[1] + 1])
  expect(() => room(second)).toThrow(expect.objectContaining({ code: 'ERR_OUT_OF_MEMORY', message: expect.stringMatching(/ on simt:1; \d+ bytes are in use/) as string }) as Error)
  // The first device has memory of its own left.
  room(first)
  expect(first.memory().peak).toBeGreaterThanOrEqual(128 * megabyte)
})

test('a limit of memory holds for one device', async () => {
  await second.fence()
  second.setMemoryLimit(second.memory().system + 4096)
  expect(() => make(second, 1, [64, 1024])).toThrow(expect.objectContaining({ code: 'ERR_OUT_OF_MEMORY' }) as Error)
  make(first, 1, [64, 1024])
  second.setMemoryLimit(0)
  make(second, 1, [64, 1024])
})

test('a fault of one device does not reject the other’s fence', async () => {
  const weights = [make(first, 1, [5, 8]), make(second, 1, [5, 8])]
  const ids = ([[2, first], [7, second]] as const).map(([id, device]) => Tensor.from(Int32Array.of(id), [1], { device }))
  live.push(...ids)
  scope(() => { weights.forEach((weight, i) => { embedding(weight, ids[i]!) }) })
  await first.fence()
  await expect(second.fence()).rejects.toThrow(/^embedding: id\[0\] is 7/)
  await second.fence()
})

test('graphs of two devices run in turn', async () => {
  const made = [first, second].map((where, i) => {
    const x = make(where, i + 1, [4])
    return { x, ...Graph.capture(where, () => scope(() => {
      const y = Tensor.empty([4], { device: where })
      where.kernels.scale(y.handle, x.handle, 10)
      return y
    })) }
  })
  for (let round = 0; round < 2; round++) {
    for (const { graph, result, x } of made) {
      graph.replay()
      expect(Number((await result.data())[0])).toBe(10 * Number((await x.data())[0]))
      x.device.kernels.fill(x.handle, 7)
    }
  }
  for (const { graph, result } of made) {
    graph.dispose()
    result.dispose()
  }
})

test('a run on the second device equals one on the first to the bit', async () => {
  const start = (where: Device) => {
    setDefaultDevice(where)
    const model = tinyModel({ dropout: 0.1 })
    expect(model.device).toBe(where)
    const trainer = tinyTrainer({ model, outputDir: temporaryFolder(), rows: rows(4), maxSteps: 2, perDeviceTrainBatchSize: 2, bf16: false })
    live.push(model, trainer)
    return trainer
  }
  const end = async (trainer: ReturnType<typeof start>) => ({ losses: lossesOf(await runToEnd(trainer)), hash: await trainerHash(trainer) })
  const alone = await end(start(first))
  expect(alone.losses.length).toBe(2)
  expect(await end(start(second))).toEqual(alone)
})
