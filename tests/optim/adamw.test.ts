// Proves AdamW against the formula in float64, its clipping, what it keeps by name, and that its state saves and loads, or is refused by name.
import { join } from 'node:path'
import { afterEach, describe, expect, test } from 'vitest'
import { FileFormatError } from '../../src/errors.ts'
import { openSafetensors, writeSafetensors } from '../../src/files/index.ts'
import { Linear, Module } from '../../src/nn/index.ts'
import { mul, sum } from '../../src/ops/index.ts'
import { AdamW } from '../../src/optim/index.ts'
import { backward, cpu, scope, Tensor, type DType } from '../../src/tensor/index.ts'
import { temporaryFolder } from '../files/helpers.ts'

class Pair extends Module {
  readonly a = new Linear(3, 2, { deviation: 0.5, bias: true })
  readonly b = new Linear(2, 2, { deviation: 0.5 })
}

const live: { dispose(): void }[] = []
afterEach(() => { for (const one of live.splice(0)) one.dispose() })

function pair(seed = 1, dtype: DType = 'float32'): Pair {
  const model = new Pair()
  model.initialise({ seed, dtype, device: cpu })
  live.push(model)
  return model
}

/** Gives every parameter the gradient `scale` times its own numbers' place in a fixed row. */
function giveGradients(model: Module, scale: number): Map<string, number[]> {
  const gradients = new Map<string, number[]>()
  scope(() => {
    for (const [name, { tensor, size, shape }] of model.namedParameters()) {
      const values = Array.from({ length: size }, (_, i) => Math.fround(scale * Math.sin(1 + i + name.length)))
      gradients.set(name, values)
      backward(sum(mul(tensor, Tensor.from(values, [...shape], { dtype: tensor.dtype }))))
    }
  })
  return gradients
}

function adamw(parameters: Pair, options: ConstructorParameters<typeof AdamW>[1] = {}): AdamW {
  const optimizer = new AdamW(parameters.namedParameters(), options)
  live.push(optimizer)
  return optimizer
}

test.each([0, 0.05, 1e6])('steps as the formula says, gradients clipped to %d', async (maxGradNorm) => {
  const model = pair()
  const [beta1, beta2, eps, weightDecay, learningRate] = [0.8, 0.95, 1e-6, 0.1, 0.03]
  const optimizer = adamw(model, { beta1, beta2, eps, weightDecay })
  const expected = new Map<string, { p: number[], m: number[], v: number[] }>()
  for (const [name, { tensor, size }] of model.namedParameters()) expected.set(name, { p: await tensor.toArray(), m: Array<number>(size).fill(0), v: Array<number>(size).fill(0) })
  for (let step = 1; step <= 5; step++) {
    const gradients = giveGradients(model, step % 2 ? 0.3 : -0.1)
    const norm = Math.sqrt([...gradients.values()].flat().reduce((total, g) => total + g * g, 0))
    const factor = maxGradNorm > 0 ? Math.min(1, maxGradNorm / (norm + 1e-6)) : 1
    expect(await optimizer.step({ learningRate, maxGradNorm })).toBeCloseTo(norm, 6)
    for (const [name, { p, m, v }] of expected) {
      const decay = name.endsWith('bias') ? 0 : weightDecay
      gradients.get(name)!.forEach((gradient, i) => {
        const g = gradient * factor
        m[i] = beta1 * m[i]! + (1 - beta1) * g
        v[i] = beta2 * v[i]! + (1 - beta2) * g * g
        p[i] = p[i]! * (1 - learningRate * decay) - learningRate * (m[i] / (1 - beta1 ** step)) / (Math.sqrt(v[i] / (1 - beta2 ** step)) + eps)
      })
    }
  }
  for (const [name, parameter] of model.namedParameters()) {
    const { p, m, v } = expected.get(name)!
    const state = optimizer.state(name)!
    for (const [actual, wanted] of [[parameter.tensor, p], [state.expAvg, m], [state.expAvgSq, v]] as const) {
      (await actual.toArray()).forEach((value, i) => { expect(value, name).toBeCloseTo(wanted[i]!, 5) })
    }
    expect(parameter.grad).toBeNull()
    expect(state.step).toBe(5)
  }
})

describe('state', () => {
  const trained = async (dtype: DType) => {
    const model = pair(1, dtype)
    const optimizer = adamw(model)
    giveGradients(model, 1)
    await optimizer.step({ learningRate: 0.1, maxGradNorm: 1 })
    const path = join(temporaryFolder(), 'optimizer.safetensors')
    await optimizer.save(path)
    return { model, optimizer, path }
  }

  test.each(['float32', 'bfloat16'] as const)('is saved by PyTorch\'s names and loads again: %s', async (dtype) => {
    const { optimizer, path } = await trained(dtype)
    const file = await openSafetensors(path)
    const names = ['a.weight', 'a.bias', 'b.weight'].flatMap((name) => [`${name}.exp_avg`, `${name}.exp_avg_sq`, ...dtype === 'bfloat16' ? [`${name}.master`] : []])
    expect([...file.tensors.keys()].sort()).toEqual(names.sort())
    await file.close()
    const again = adamw(pair(2, dtype))
    await again.load(path)
    expect(again.steps).toBe(1)
    for (const name of ['a.weight', 'a.bias', 'b.weight']) {
      expect(await again.state(name)!.expAvg.toArray()).toEqual(await optimizer.state(name)!.expAvg.toArray())
      expect(await again.masters().get(name)?.toArray()).toEqual(await optimizer.masters().get(name)?.toArray())
    }
  })

  test('of another run is refused, naming the tensor', async () => {
    const { path } = await trained('float32')
    const frozen = pair()
    frozen.requiresGrad_(false, 'b')
    await expect(adamw(frozen).load(path)).rejects.toThrow('tensor "b.weight.exp_avg" belongs to nothing here; the file was made with other trainable parameters')
    await expect(adamw(pair(1, 'bfloat16')).load(path)).rejects.toThrow('no tensor "a.weight.master"')
    await writeSafetensors(path, [], { step: 'x' })
    await expect(adamw(pair()).load(path)).rejects.toThrow(FileFormatError)
  })
})

test('a norm that is not finite leaves weights and state as they are', async () => {
  const model = pair()
  const optimizer = adamw(model)
  giveGradients(model, 1)
  await optimizer.step({ learningRate: 0.1, maxGradNorm: 1 })
  const before = [await model.a.weight.tensor.toArray(), await optimizer.state('a.weight')!.expAvg.toArray(), await optimizer.state('a.weight')!.expAvgSq.toArray()]
  giveGradients(model, NaN)
  expect(await optimizer.step({ learningRate: 0.1, maxGradNorm: 1 })).toBeNaN()
  expect([await model.a.weight.tensor.toArray(), await optimizer.state('a.weight')!.expAvg.toArray(), await optimizer.state('a.weight')!.expAvgSq.toArray()]).toEqual(before)
})

test.each([
  [{ beta2: 1 }, 'beta2: Too big'], [{ eps: NaN }, 'eps: expected number, received NaN'], [{ weightDecay: -1 }, 'weightDecay: Too small'], [{ stateBits: 16 }, 'stateBits: expected 32, or expected 8'],
  [{ betas: [0.9, 0.99] }, 'betas: unknown option; did you mean "beta1"?'], [7, 'AdamW: expected an object of options'],
])('options %j', (options, message) => {
  expect(() => adamw(pair(), options as never)).toThrow(expect.objectContaining({ code: 'ERR_CONFIG', message: expect.stringContaining(message) as string }) as Error)
})

test.each([[{ learningRate: NaN }, 'learningRate: expected number, received NaN'], [{ lr: 1 }, 'lr: unknown option; here it is learningRate'], [{ learningRate: 1, maxGradNorm: -1 }, 'maxGradNorm: Too small']])(
  'a step with %j changes nothing', async (options, message) => {
    const model = pair()
    const optimizer = adamw(model)
    giveGradients(model, 1)
    const before = await model.a.weight.tensor.toArray()
    await expect(optimizer.step(options as never)).rejects.toMatchObject({ code: 'ERR_CONFIG', message: expect.stringContaining(message) as string })
    expect([optimizer.steps, await model.a.weight.tensor.toArray()]).toEqual([0, before])
  })

test('mistakes are named', async () => {
  const model = pair()
  await expect(adamw(model).step({ learningRate: 1 })).rejects.toThrow('AdamW.step: no parameter has a gradient; call backward() first')
  expect(() => new AdamW(model.parameters() as never)).toThrow('AdamW: expected pairs of a name and a parameter, as model.namedParameters() gives')
  model.requiresGrad_(false)
  expect(() => adamw(model)).toThrow('no parameter is trainable')
})

describe('with 8-bit states', () => {
  class Wide extends Module {
    readonly a = new Linear(80, 64, { deviation: 0.5, bias: true })
  }
  function wide(dtype: DType): Wide {
    const model = new Wide()
    model.initialise({ seed: 2, dtype, device: cpu })
    live.push(model)
    return model
  }
  const run = async (model: Wide, optimizer: AdamW, steps: number): Promise<void> => {
    for (let step = 0; step < steps; step++) {
      giveGradients(model, 0.1 + step / 50)
      await optimizer.step({ learningRate: 0.01, maxGradNorm: 1 })
    }
  }

  test.each(['float32', 'bfloat16'] as const)('large %s parameters move as with 32 bits, small ones exactly so', async (dtype) => {
    const [exact, rounded] = [wide(dtype), wide(dtype)]
    const start = await exact.a.weight.tensor.toArray()
    const [full, eight] = [new AdamW(exact.namedParameters()), new AdamW(rounded.namedParameters(), { stateBits: 8 })]
    live.push(full, eight)
    await run(exact, full, 10)
    await run(rounded, eight, 10)
    expect(eight.state('a.weight')!.expAvg.dtype).toBe('uint8')
    expect(eight.state('a.bias')!.expAvg.dtype).toBe('float32')
    expect(await rounded.a.bias!.tensor.toArray()).toEqual(await exact.a.bias!.tensor.toArray())
    const [a, b] = await Promise.all([exact, rounded].map((model) => model.a.weight.tensor.toArray()))
    const moved = Math.hypot(...a!.map((value, i) => value - start[i]!))
    expect(Math.hypot(...a!.map((value, i) => value - b![i]!)) / moved).toBeLessThan(0.1)
    expect(moved).toBeGreaterThan(1)
  })

  test('saved and loaded, it goes on with the same bits; a run with 32 bits refuses them', async () => {
    const path = join(temporaryFolder(), 'optimizer.safetensors')
    const [one, other] = [wide('float32'), wide('float32')]
    const [first, second] = [new AdamW(one.namedParameters(), { stateBits: 8 }), new AdamW(other.namedParameters(), { stateBits: 8 })]
    live.push(first, second)
    await run(one, first, 3)
    await first.save(path)
    other.loadStateDict(one.stateDict())
    await second.load(path)
    await run(one, first, 3)
    await run(other, second, 3)
    expect(await other.a.weight.tensor.toArray()).toEqual(await one.a.weight.tensor.toArray())
    const plain = new AdamW(other.namedParameters())
    live.push(plain)
    await expect(plain.load(path)).rejects.toThrow('expected F32 [64, 80], got U8 [64, 80]')
  })
})
