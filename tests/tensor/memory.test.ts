// Proves that training neither grows nor shrinks memory, that running out of it is an error after which all works, and that forgotten tensors go.
import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { afterEach, expect, test } from 'vitest'
import { OutOfMemoryError } from '../../src/errors.ts'
import { cpu, manualSeed, scope, Tensor } from '../../src/tensor/index.ts'
import { TinyModel } from './tiny.ts'

afterEach(() => { cpu.setMemoryLimit(0) })

test('1,000 steps keep the same memory', async () => {
  const model = new TinyModel()
  for (let i = 0; i < 3; i++) await model.step()
  const { live, system, blocks } = cpu.memory()
  for (let i = 0; i < 1000; i++) {
    const loss = await model.step({ checkpointed: i % 2 === 0 })
    expect(cpu.memory(), `step ${i}`).toMatchObject({ live, system, blocks })
    expect(Number.isFinite(loss)).toBe(true)
  }
  model.dispose()
})

test('an allocation that fails, whichever it is, is an error that leaves everything usable', async () => {
  manualSeed(3)
  const model = new TinyModel()
  const untouched = new TinyModel()
  manualSeed(3)
  const expected = await untouched.step()
  const before = cpu.memory().live
  const create = cpu.native.create.bind(cpu.native)
  let failed = 0
  for (let k = 1; ; k++) {
    let count = 0
    // The k-th allocation asks for more than there is.
    cpu.native.create = (dtype, shape, device) => {
      if (++count !== k) return create(dtype, shape, device)
      cpu.setMemoryLimit(1 << 30)
      try {
        return create(dtype, [2 ** 40], device)
      } finally {
        cpu.setMemoryLimit(0)
      }
    }
    manualSeed(3)
    let error: unknown
    try {
      scope(() => { model.loss({ checkpointed: k % 2 === 0 }).requiresGrad_(false) })
      const loss = model.step({ checkpointed: k % 2 === 0 })
      cpu.native.create = create
      await loss
      break
    } catch (thrown) {
      error = thrown
    } finally {
      cpu.native.create = create
    }
    expect(error).toBeInstanceOf(OutOfMemoryError)
    expect((error as Error).message).toMatch(/cannot allocate 4398046511104 bytes for a tensor of shape \[1099511627776\]/)
    model.zeroGrad()
    await cpu.fence()
    expect(cpu.memory().live, `allocation ${k}`).toBe(before)
    failed = k
  }
  expect(failed).toBeGreaterThan(60)
  model.dispose()
  // A model that met all those failures would have trained the same.
  const again = new TinyModel()
  manualSeed(3)
  expect(await again.step()).toBe(expected)
  again.dispose()
  untouched.dispose()
})

test('a memory limit is met with an error that names bytes, shape and what is in use; less fits again', async () => {
  cpu.emptyCache()
  const { live, system } = cpu.memory()
  cpu.setMemoryLimit(system + (64 << 20))
  const made: Tensor[] = []
  let error: unknown
  try {
    for (let i = 0; i < 100; i++) made.push(Tensor.ones([1 << 20]))
  } catch (thrown) {
    error = thrown
  }
  expect(error).toBeInstanceOf(OutOfMemoryError)
  expect((error as Error).message).toMatch(/cannot allocate 4194304 bytes for a tensor of shape \[1048576\], f32; \d+ bytes are in use/)
  expect(made.length).toBeGreaterThanOrEqual(15)
  expect(await made.at(-1)!.toArray().then((numbers) => numbers.every((x) => x === 1))).toBe(true)
  for (const tensor of made) tensor.dispose()
  expect(cpu.memory().live).toBe(live)
  // What was given back to the system may be taken for another size.
  const large = Tensor.ones([12 << 20])
  expect(await large.toArray().then((numbers) => numbers.length)).toBe(12 << 20)
  large.dispose()
  cpu.emptyCache()
  expect(cpu.memory().system).toBeLessThanOrEqual(system + (8 << 20))
})

test('the peak is the most that was in use', () => {
  cpu.resetPeakMemory()
  const { live } = cpu.memory()
  const tensor = Tensor.empty([1 << 20])
  tensor.dispose()
  expect(cpu.memory()).toMatchObject({ live, peak: live + (4 << 20) })
  cpu.resetPeakMemory()
  expect(cpu.memory().peak).toBe(live)
})

test('forgotten tensors are collected', () => {
  const script = fileURLToPath(new URL('forgotten.ts', import.meta.url))
  const { status, stdout, stderr } = spawnSync(process.execPath, ['--expose-gc', '--import', 'tsx', script], { encoding: 'utf8' })
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' })
  const { before, after, system } = JSON.parse(stdout) as { before: number; after: number; system: number }
  expect(after).toBe(before)
  // Of 6 GiB made.
  expect(system).toBeLessThan(2 ** 31)
})

test('large tensors that are disposed of cost no garbage collections', () => {
  const script = fileURLToPath(new URL('garbageCollections.ts', import.meta.url))
  const { status, stdout, stderr } = spawnSync(process.execPath, ['--import', 'tsx', script], { encoding: 'utf8' })
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' })
  // 40 times 256 MiB: each time one before.
  expect((JSON.parse(stdout) as { major: number }).major).toBeLessThan(5)
})
