// Proves that gradient checkpointing changes no bit, dropout included, and keeps less memory.
import { expect, test } from 'vitest'
import { add, dropout, gelu, linear, mul, sum } from '../../src/ops/index.ts'
import { backward, checkpoint, cpu, manualSeed, noGrad, randomState, scope, Tensor } from '../../src/tensor/index.ts'
import type { DType } from '../../src/tensor/index.ts'
import { train } from './tiny.ts'

test('training gives the same losses, bit for bit', async () => {
  expect(await train(5, { checkpointed: true, dropoutRate: 0.3 })).toEqual(await train(5, { checkpointed: false, dropoutRate: 0.3 }))
})

/** Gradients of the input and of a weight, through `depth` layers with dropout. */
async function gradients(checkpointed: boolean, dtype: DType, inputWants: boolean) {
  manualSeed(5)
  const numbers = (count: number): number[] => Array.from({ length: count }, (_, i) => Math.sin(i))
  using x = Tensor.from(numbers(12), [3, 4], { dtype }).requiresGrad_(inputWants)
  using w = Tensor.from(numbers(16), [4, 4], { dtype }).requiresGrad_()
  const layer = (h: Tensor): Tensor => add(h, dropout(gelu(linear(h, w)), 0.4))
  scope(() => {
    let h = x
    for (let i = 0; i < 3; i++) h = checkpointed ? checkpoint(layer, h) : layer(h)
    backward(sum(mul(h, h)))
  })
  return { x: inputWants ? await x.grad!.toArray() : null, w: await w.grad!.toArray(), random: randomState() }
}

test.each(['float32', 'bfloat16'] as const)('gradients and random state are the same in %s', async (dtype) => {
  for (const inputWants of [true, false]) {
    const [plain, again] = [await gradients(false, dtype, inputWants), await gradients(true, dtype, inputWants)]
    expect(again.random).toEqual(plain.random)
    const close = (a: number[], b: number[]): void => { a.forEach((x, i) => { expect(Math.abs(x - b[i]!)).toBeLessThanOrEqual(dtype === 'float32' ? 1e-6 : 0.1) }) }
    close(again.w, plain.w)
    if (inputWants) close(again.x!, plain.x!)
  }
})

test('keeps only the inputs of the layers', () => {
  const size = 64 * 64
  using x = Tensor.ones([64, 64]).requiresGrad_()
  using w = Tensor.ones([64, 64]).requiresGrad_()
  const layer = (h: Tensor): Tensor => gelu(linear(gelu(linear(h, w)), w))
  const kept = (checkpointed: boolean): number => {
    const before = cpu.memory().live
    const y = scope(() => {
      let h = x
      for (let i = 0; i < 4; i++) h = checkpointed ? checkpoint(layer, h) : layer(h)
      return h
    })
    const bytes = cpu.memory().live - before
    y.dispose()
    expect(cpu.memory().live).toBe(before)
    return bytes
  }
  expect(kept(true)).toBeLessThanOrEqual(4 * 4 * size)
  expect(kept(false)).toBeGreaterThan(3 * kept(true))
})

test('an error in the second run leaves the random state as the first left it', () => {
  manualSeed(1)
  using x = Tensor.ones([2]).requiresGrad_()
  let runs = 0
  scope(() => {
    const y = checkpoint((h) => {
      const dropped = dropout(h, 0.5)
      if (++runs === 2) throw new RangeError('second run')
      return dropped
    }, x)
    expect(() => { backward(sum(y)) }).toThrow(RangeError)
  })
  expect(randomState()).toEqual({ seed: 1, next: 1 })
})

test('does nothing special in noGrad', () => {
  using x = Tensor.ones([2]).requiresGrad_()
  scope(() => { expect(noGrad(() => checkpoint((h) => mul(h, 2), x)).requiresGrad).toBe(false) })
})
