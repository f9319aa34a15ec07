// Proves several adapters on one model: switching, stacking, combining, taking out, and merging into quantised weights.
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, describe, expect, test } from 'vitest'
import {
  activeAdapters, adapterNames, addAdapter, addWeightedAdapter, AutoPeftModelForCausalLM, deleteAdapter, hasAdapters, loadAdapter, mergeAndUnload, saveAdapter, setAdapter, withoutAdapters,
  type AdapterInput, type WeightedAdapterOptions,
} from '../../src/adapters/index.ts'
import { ConfigError, FileFormatError } from '../../src/errors.ts'
import { AutoModelForCausalLM, type CausalLanguageModel } from '../../src/models/index.ts'
import { QuantizedLinear } from '../../src/nn/index.ts'
import { Tensor, unscoped } from '../../src/tensor/index.ts'
import { temporaryFolder } from '../files/helpers.ts'
import { distance, folderOf } from '../models/recorded.ts'

const live: { dispose(): void }[] = []
afterEach(() => { for (const one of live.splice(0)) one.dispose() })

const inputIds = [[5, 9, 12, 40, 41, 3], [7, 8]]

async function load(family = 'llama2', options: Parameters<typeof AutoModelForCausalLM.fromPretrained>[1] = {}): Promise<CausalLanguageModel> {
  const model = await AutoModelForCausalLM.fromPretrained(folderOf(family), options)
  live.push(model)
  return model
}

const logits = (model: CausalLanguageModel): Promise<number[]> => model.forward({ inputIds }).logits!.toArray()

/** Gives the active adapter values that show. */
function randomise(model: CausalLanguageModel, seed: number): void {
  for (const [i, parameter] of model.parameters().filter(({ requiresGrad }) => requiresGrad).entries()) {
    parameter.replace(unscoped(() => {
      const values = Tensor.empty([...parameter.shape], { device: parameter.device })
      values.device.kernels.random_normal(values.handle, 0, 0.1, seed, i)
      return values
    }))
  }
}

const lora: AdapterInput & { type: 'lora' } = { type: 'lora', targetModules: ['q_proj', 'down_proj'], r: 4, loraAlpha: 8 }

async function withTwo(): Promise<{ model: CausalLanguageModel, base: number[], a: number[], b: number[] }> {
  const model = await load()
  const base = await logits(model)
  await addAdapter(model, lora, { name: 'a' })
  randomise(model, 1)
  const a = await logits(model)
  await addAdapter(model, { ...lora, loraAlpha: 2 }, { name: 'b' })
  randomise(model, 2)
  return { model, base, a, b: await logits(model) }
}

test('adapters are switched, used together, switched off and taken out', async () => {
  const { model, base, a, b } = await withTwo()
  expect(adapterNames(model)).toEqual(['a', 'b'])
  expect(distance(a, base)).toBeGreaterThan(0.01)
  expect(distance(a, b)).toBeGreaterThan(0.01)
  setAdapter(model, 'a')
  expect(await logits(model)).toEqual(a)
  expect(await withoutAdapters(model, () => logits(model))).toEqual(base)
  expect(model.parameters().filter(({ requiresGrad }) => requiresGrad).length).toBe(8)
  setAdapter(model, ['a', 'b'])
  const both = await logits(model)
  expect(Math.min(distance(both, a), distance(both, b))).toBeGreaterThan(0.01)
  deleteAdapter(model, 'b')
  expect(activeAdapters(model)).toEqual(['a'])
  expect(await logits(model)).toEqual(a)
  deleteAdapter(model, 'a')
  expect(hasAdapters(model)).toBe(false)
  expect(await logits(model)).toEqual(base)
  expect(model.parameters().every(({ requiresGrad }) => requiresGrad)).toBe(true)
})

test('kinds stand around each other, and merge together', async () => {
  const model = await load('gpt2')
  await addAdapter(model, { type: 'lora', r: 2 }, { name: 'a' })
  randomise(model, 3)
  await addAdapter(model, { type: 'ia3', targetModules: ['c_attn', 'c_proj'], feedforwardModules: ['mlp.c_proj'] }, { name: 'b' })
  randomise(model, 4)
  setAdapter(model, ['a', 'b'])
  const both = await logits(model)
  setAdapter(model, 'b')
  expect(distance(await logits(model), both)).toBeGreaterThan(1e-3)
  setAdapter(model, ['a', 'b'])
  mergeAndUnload(model)
  expect(distance(await logits(model), both)).toBeLessThan(2e-5)
})

describe('addWeightedAdapter', () => {
  test('"cat" is the exact sum', async () => {
    const { model } = await withTwo()
    setAdapter(model, ['a', 'b'])
    const both = await logits(model)
    await addWeightedAdapter(model, { adapters: ['a', 'b'], weights: [1, 1], name: 'c', combinationType: 'cat' })
    expect(activeAdapters(model)).toEqual(['c'])
    expect(distance(await logits(model), both)).toBeLessThan(1e-5)
  })

  test.each<[Partial<WeightedAdapterOptions>]>([[{}], [{ combinationType: 'ties', density: 1 }], [{ combinationType: 'magnitude_prune', density: 1 }], [{ combinationType: 'dare_linear', density: 1 }]])('of one adapter with weight 1, %o, is that adapter', async (options) => {
    const { model, a } = await withTwo()
    await addWeightedAdapter(model, { adapters: ['a'], weights: [1], name: 'c', ...options })
    expect(distance(await logits(model), a)).toBeLessThan(1e-5)
  })

  test('weights of opposite sign take an adapter out', async () => {
    const { model, base } = await withTwo()
    await addWeightedAdapter(model, { adapters: ['a', 'a'], weights: [1, -1], name: 'c', combinationType: 'cat' })
    expect(distance(await logits(model), base)).toBeLessThan(1e-5)
  })

  test.each<[string, Partial<WeightedAdapterOptions>]>([
    ['weights: expected one for each of the 2 adapters, got 1', { weights: [1] }],
    ['density: ties needs a share above 0 and up to 1, got undefined', { combinationType: 'ties' }],
    ['the model has no adapter "x"', { adapters: ['a', 'x'] }],
    ['already has an adapter "a"', { name: 'a' }],
  ])('says "%s"', async (message, options) => {
    const { model } = await withTwo()
    await expect(addWeightedAdapter(model, { adapters: ['a', 'b'], weights: [1, 1], name: 'c', ...options })).rejects.toThrow(message)
  })
})

describe('over quantised weights', () => {
  async function quantized(): Promise<{ model: CausalLanguageModel, before: number[] }> {
    const model = await load('llama2', { quantize: { format: 'nf4', block: 32 } })
    await addAdapter(model, lora)
    randomise(model, 5)
    return { model, before: await logits(model) }
  }

  test('a merge must be told how', async () => {
    const { model } = await quantized()
    expect(() => { mergeAndUnload(model) }).toThrow('quantized: the base is quantised')
    expect(hasAdapters(model)).toBe(true)
  })

  test('widened, it computes the same', async () => {
    const { model, before } = await quantized()
    mergeAndUnload(model, { quantized: 'dequantize' })
    expect(distance(await logits(model), before)).toBeLessThan(2e-5)
  })

  test('requantised, it stays in four bits and close', async () => {
    const { model, before } = await quantized()
    mergeAndUnload(model, { quantized: 'requantize' })
    expect(model.getModule('model.layers.0.self_attn.q_proj')).toBeInstanceOf(QuantizedLinear)
    expect(distance(await logits(model), before)).toBeLessThan(0.2)
  })
})

test('an adapter folder opens with its base; a model with adapters is not written as if it had none', async () => {
  const model = await load()
  await addAdapter(model, lora, { baseModel: folderOf('llama2') })
  randomise(model, 6)
  const folder = temporaryFolder()
  await saveAdapter(model, folder)
  const again = await AutoPeftModelForCausalLM.fromPretrained(folder)
  live.push(again)
  expect(await logits(again)).toEqual(await logits(model))
  await expect(model.savePretrained(join(folder, 'whole'))).rejects.toThrow('the model carries adapters')
})

test('an adapter of another base is refused by name and leaves the model as it was', async () => {
  const model = await load()
  const base = await logits(model)
  await addAdapter(model, lora)
  const folder = temporaryFolder()
  await saveAdapter(model, folder)
  const other = await load('qwen2')
  const before = await logits(other)
  const promise = loadAdapter(other, folder)
  await expect(promise).rejects.toThrow(/tensor "base_model\.model\.model\.layers\.0\.self_attn\.q_proj\.lora_A\.weight": expected shape \[4, 40\], as the model and adapter_config\.json say, got \[4, 32\]/)
  await expect(promise).rejects.toThrow(FileFormatError)
  expect(hasAdapters(other)).toBe(false)
  expect(await logits(other)).toEqual(before)
  await expect(addAdapter(model, lora)).rejects.toThrow(ConfigError)
  expect(await withoutAdapters(model, () => logits(model))).toEqual(base)
})

test.each(['I8', 'U8', 'I64', 'BOOL'])('an adapter whose tensors are %s is refused by name, and leaves the model as it was', async (dtype) => {
  const [model, folder] = [await load(), temporaryFolder()]
  await addAdapter(model, lora)
  await saveAdapter(model, folder)
  deleteAdapter(model, 'default')
  const path = join(folder, 'adapter_model.safetensors')
  const file = readFileSync(path)
  const end = 8 + Number(file.readBigUInt64LE(0))
  const size = dtype === 'I64' ? 8 : 1
  let at = 0
  const header = Object.fromEntries(Object.entries(JSON.parse(file.toString('utf8', 8, end)) as Record<string, { shape: number[] }>).filter(([name]) => name !== '__metadata__').map(([name, { shape }]) => {
    const begin = at
    at += size * shape.reduce((a, b) => a * b, 1)
    return [name, { dtype, shape, data_offsets: [begin, at] }]
  }))
  const text = JSON.stringify(header)
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(text.length))
  writeFileSync(path, Buffer.concat([length, Buffer.from(text), Buffer.alloc(at)]))
  const before = await logits(model)
  await expect(loadAdapter(model, folder)).rejects.toThrow(FileFormatError)
  await expect(loadAdapter(model, folder)).rejects.toThrow(`lora_A.weight": expected dtype F32, BF16, F16, F64, got ${dtype}`)
  expect(adapterNames(model)).toEqual([])
  expect(await logits(model)).toEqual(before)
})
