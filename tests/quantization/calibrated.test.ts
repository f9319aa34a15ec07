// Proves that GPTQ and AWQ change a trained model's layers less than rounding to nearest, and that AWQ's scales alone change nothing.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { ConfigError } from '../../src/errors.ts'
import { AutoModelForCausalLM, dequantizeModel, quantizedLayers, type CausalLanguageModel } from '../../src/models/index.ts'
import { AdamW } from '../../src/optim/index.ts'
import { quantizeModel, type QuantizeModelOptions } from '../../src/quantization/index.ts'
import { inverseFactor } from '../../src/quantization/cholesky.ts'
import { foldAwqScales } from '../../src/quantization/awq.ts'
import { gptqFactor, gptqQuantize } from '../../src/quantization/gptq.ts'
import { toHalf } from '../../src/quantization/half.ts'
import { layerByLayer } from '../../src/quantization/layerwise.ts'
import { dequantize, matmul, mul, sub, sum, transpose } from '../../src/ops/index.ts'
import { backward, scope, Tensor } from '../../src/tensor/index.ts'
import { distance, folderOf } from '../models/recorded.ts'
import { workplace } from './folders.ts'

const { kept, newFolder } = workplace()
type Kind = 'llama' | 'gpt2'

/** Numbers in [0, 1), the same in every run. */
function randomNumbers(seed: number): () => number {
  let state = seed
  return () => {
    state = Math.imul(state, 1664525) + 1013904223 >>> 0
    return state / 2 ** 32
  }
}

/** Sequences in which a token mostly decides the next. */
function sequences(count: number, seed: number): number[][] {
  const random = randomNumbers(seed)
  return Array.from({ length: count }, () => {
    const ids = [Math.floor(random() * 64)]
    while (ids.length < 32) ids.push(random() < 0.8 ? (ids.at(-1)! * 5 + 3) % 64 : Math.floor(random() * 64))
    return ids
  })
}

let root: string
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'anneal-calibrated-'))
  for (const kind of ['llama', 'gpt2'] as const) await train(kind, join(root, kind))
})
afterAll(() => rm(root, { recursive: true, force: true }))

const load = async (kind: Kind) => kept(await AutoModelForCausalLM.fromPretrained(join(root, kind)))
const [calibration, heldOut] = [sequences(32, 1000), sequences(16, 2000)]
const logitsOf = async (model: CausalLanguageModel) => await model.forward({ inputIds: heldOut }).logits!.data() as Float32Array
async function train(modelType: Kind, folder: string): Promise<void> {
  const model = AutoModelForCausalLM.fromConfig(modelType === 'llama'
    ? { modelType, vocabSize: 64, hiddenSize: 64, intermediateSize: 128, numHiddenLayers: 2, numAttentionHeads: 4, numKeyValueHeads: 4 }
    : { modelType, vocabSize: 64, hiddenSize: 64, numHiddenLayers: 2, numAttentionHeads: 4, nPositions: 64 }, { seed: 1 })
  const optimizer = new AdamW(model.namedParameters())
  for (let step = 0; step < 60; step++) {
    const inputIds = sequences(8, step + 1)
    scope(() => { backward(model.forward({ inputIds, labels: inputIds }).loss!) })
    await optimizer.step({ learningRate: 0.01, maxGradNorm: 1 })
    model.zeroGrad()
  }
  await model.savePretrained(folder)
  model.dispose()
}

/** Mean squared distance of the logits on held-out text from those of the model in full. */
async function logitError(kind: Kind, options: QuantizeModelOptions): Promise<number> {
  const [full, model] = [await load(kind), await load(kind)]
  await quantizeModel(model, options)
  const [exact, rounded] = [await logitsOf(full), await logitsOf(model)]
  return exact.reduce((sum, value, i) => sum + (value - rounded[i]!) ** 2, 0) / exact.length
}

describe('the factor of a Gram matrix', () => {
  test.each([1, 5, 8, 37])('of size %d inverts it', async (n) => {
    const random = randomNumbers(n)
    const x = Float64Array.from({ length: 3 * n * n }, () => random() - 0.5)
    const a = new Float64Array(n * n)
    for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) for (let k = 0; k < 3 * n; k++) a[i * n + j]! += x[k * n + i]! * x[k * n + j]!
    const u = await inverseFactor(a.slice(), n)
    for (let i = 0; i < n; i++) {
      for (let j = 0; j < n; j++) {
        if (j < i) expect(u[i * n + j]).toBe(0)
        let product = 0
        for (let k = 0; k < n; k++) for (let m = 0; m < n; m++) product += u[k * n + i]! * u[k * n + m]! * a[m * n + j]!
        expect(product).toBeCloseTo(i === j ? 1 : 0, 8)
      }
    }
  })

  test('of a matrix that is not positive definite fails by the input', async () => {
    await expect(inverseFactor(Float64Array.of(1, 2, 2, 1), 2)).rejects.toThrow(/not positive definite at input 0; raise dampPercent/)
  })
})

test('float16 rounding is the kernels\' own', async () => {
  const random = randomNumbers(5)
  const values = Float32Array.from({ length: 2000 }, () => 2 ** (random() * 36 - 24) * (1 + random()))
  const half = await kept(Tensor.from(values, undefined, { dtype: 'float16' })).data()
  expect([...values].map(toHalf)).toEqual([...half].map((value) => Math.min(value as number, 65504)))
  expect(toHalf(0)).toBe(0)
})

describe('GPTQ', () => {
  test.each([{ format: 'int4', block: 16, zeroPoints: false }, { format: 'int4', block: 64, zeroPoints: true }, { format: 'int8', block: 32, zeroPoints: false }, { format: 'int8', block: 64, zeroPoints: true }] as const)('of inputs that have nothing in common rounds to nearest: %o', async (options) => {
    const random = randomNumbers(9)
    const values = Float32Array.from({ length: 24 * 64 }, () => random() - 0.4)
    const weight = kept(Tensor.from(values, [24, 64]))
    const identity = kept(Tensor.from(Float32Array.from({ length: 64 * 64 }, (_, i) => (i % 65 === 0 ? 1 : 0)), [64, 64]))
    const rounded = kept(await gptqQuantize(weight, await gptqFactor(identity, 0.01), options))
    const [scales, result] = [await rounded.scales.data() as Float32Array, await kept(dequantize(rounded)).data() as Float32Array]
    for (let i = 0; i < values.length; i++) {
      const scale = scales[Math.floor(i / options.block)]!
      // A zero point is rounded too, and a scale rounded to float16 moves both ends of 256 steps by a sixteenth of one.
      const most = options.zeroPoints ? 1.001 : 0.505
      expect(Math.abs(result[i]! - values[i]!)).toBeLessThanOrEqual(scale * (options.format === 'int8' ? most + (options.zeroPoints ? 0.125 : 0.0625) : most))
    }
  })

  test('changes every layer\'s outputs less than rounding to nearest does', async () => {
    for (const kind of ['llama', 'gpt2'] as const) {
      const model = await load(kind)
      await layerByLayer(model, calibration, async (inputs) => {
        for (const [name, { gram }] of inputs) {
          const stored = model.getParameter(`${name}.weight`).tensor
          const weight = kind === 'gpt2' ? kept(transpose(stored)) : stored
          const n = weight.dim(-1)
          const identity = kept(Tensor.from(Float32Array.from({ length: n * n }, (_, i) => (i % (n + 1) === 0 ? 1 : 0)), [n, n]))
          const options = { format: 'int4', block: 32, zeroPoints: false } as const
          const error = async (factor: Awaited<ReturnType<typeof gptqFactor>>) => {
            const rounded = kept(await gptqQuantize(weight, factor, options))
            const difference = kept(sub(weight, kept(dequantize(rounded))))
            return await sum(mul(matmul(difference, gram), difference)).item()
          }
          expect(await error(await gptqFactor(gram, 0.01)), name).toBeLessThan(0.85 * await error(await gptqFactor(identity, 0.01)))
        }
      })
    }
  })

  test.each(['llama', 'gpt2'] as const)('%s stays nearer to the model in full on text it has not seen', async (kind) => {
    const options = { format: 'int4', block: 32, calibration } as const
    expect(await logitError(kind, { ...options, method: 'gptq' })).toBeLessThan(0.9 * await logitError(kind, { ...options, method: 'rtn' }))
  })

  test('is saved and read again with the same numbers', async () => {
    for (const options of [{ format: 'int4', block: 32 }, { format: 'int4', block: 16, zeroPoints: true }, { format: 'int8' }, { format: 'int8', zeroPoints: true }] as const) {
      const model = await load('llama')
      let layers = 0
      await quantizeModel(model, { ...options, method: 'gptq', calibration, onProgress: () => { layers++ } })
      expect(layers).toBe(2)
      const folder = newFolder()
      await model.savePretrained(folder)
      expect(await logitsOf(kept(await AutoModelForCausalLM.fromPretrained(folder)))).toEqual(await logitsOf(model))
    }
  })
})

describe('AWQ', () => {
  test.each(['llama', 'gpt2'] as const)('its scales alone change nothing in %s', async (kind) => {
    const [full, model] = [await load(kind), await load(kind)]
    const config = { format: 'int4', block: 32, doubleQuant: false, zeroPoints: false, skipModules: [] } as const
    await layerByLayer(model, calibration, (inputs) => foldAwqScales(model, inputs, { ...config, skipModules: [] }))
    expect(distance(await logitsOf(model), await logitsOf(full))).toBeLessThan(1e-5)
    const names = kind === 'llama' ? ['model.layers.0.input_layernorm.weight', 'model.layers.1.mlp.up_proj.weight'] : ['transformer.h.0.ln_1.weight', 'transformer.h.1.ln_2.bias']
    for (const name of names) expect(await model.getParameter(name).tensor.data()).not.toEqual(await full.getParameter(name).tensor.data())
  })

  test('its scales change nothing where a norm adds 1 to its weight', async () => {
    const [full, model] = await Promise.all([0, 1].map(async () => kept(await AutoModelForCausalLM.fromPretrained(folderOf('gemma3')))))
    const config = { format: 'int4', block: 8, doubleQuant: false, zeroPoints: false, skipModules: [] } as const
    await layerByLayer(model!, calibration, (inputs) => foldAwqScales(model!, inputs, { ...config, skipModules: [] }))
    expect(distance(await logitsOf(model!), await logitsOf(full!))).toBeLessThan(1e-5)
    for (const name of ['input_layernorm', 'pre_feedforward_layernorm']) {
      expect(await model!.getParameter(`model.layers.1.${name}.weight`).tensor.data()).not.toEqual(await full!.getParameter(`model.layers.1.${name}.weight`).tensor.data())
    }
  })

  test.each([['llama', 'int4'], ['gpt2', 'int4'], ['llama', 'nf4']] as const)('%s in %s stays nearer to the model in full than by rounding to nearest', async (kind, format) => {
    const options = { format, block: 32, calibration } as const
    expect(await logitError(kind, { ...options, method: 'awq' })).toBeLessThan(await logitError(kind, { ...options, method: 'rtn' }))
  })
})

describe('quantizeModel', () => {
  test('rounds to nearest as loading does', async () => {
    const model = await load('gpt2')
    await quantizeModel(model, { format: 'nf4', doubleQuant: true, skipModules: ['c_fc'] })
    const loaded = kept(await AutoModelForCausalLM.fromPretrained(join(root, 'gpt2'), { quantize: { format: 'nf4', doubleQuant: true, skipModules: ['c_fc'] } }))
    expect(await logitsOf(model)).toEqual(await logitsOf(loaded))
    expect([...quantizedLayers(model).keys()]).toEqual([...quantizedLayers(loaded).keys()])
    expect(model.quantizationConfig).toEqual(loaded.quantizationConfig)
  })

  test('refuses what cannot be', async () => {
    const model = await load('llama')
    await expect(quantizeModel(model, { format: 'int4', block: 32, method: 'gptq' })).rejects.toThrow(/calibration: expected sequences of token ids, which gptq needs/)
    await expect(quantizeModel(model, { format: 'int4', block: 32, method: 'awq', calibration: [] })).rejects.toThrow(/calibration: expected sequences of tokens/)
    await expect(quantizeModel(model, { format: 'nf4', method: 'gptq', calibration })).rejects.toThrow(/method: expected format int4 or int8 for gptq, got nf4/)
    expect(() => { dequantizeModel(model) }).toThrow(ConfigError)
    await quantizeModel(model, { format: 'nf4' })
    await expect(quantizeModel(model, { format: 'int8' })).rejects.toThrow(/model\.layers\.0\.self_attn\.q_proj is quantised already, as nf4; start from the model before it was quantised, or call dequantizeModel\(\) first/)
  })

  test('dequantizeModel gives plain layers with the same numbers, which are saved in full', async () => {
    for (const kind of ['llama', 'gpt2'] as const) {
      const model = await load(kind)
      const count = model.numParameters()
      await quantizeModel(model, { format: 'nf4' })
      const rounded = await logitsOf(model)
      dequantizeModel(model)
      expect(quantizedLayers(model).size).toBe(0)
      expect(model.numParameters()).toBe(count)
      expect(distance(await logitsOf(model), rounded)).toBeLessThan(1e-5)
      const folder = newFolder()
      await model.savePretrained(folder)
      expect(await logitsOf(kept(await AutoModelForCausalLM.fromPretrained(folder)))).toEqual(await logitsOf(model))
    }
  })
})
