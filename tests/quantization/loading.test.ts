// Proves that a checkpoint is rounded to codes as it is read: which layers, with which numbers, in how much memory, and what is refused.
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { ConfigError, NonFiniteError } from '../../src/errors.ts'
import { AutoModelForCausalLM, memoryEstimate, weightBytes, type CausalLanguageModel, type FromPretrainedOptions } from '../../src/models/index.ts'
import { Conv1D, Linear, NestedScales, QuantizedLinear } from '../../src/nn/index.ts'
import { dequantize, quantize, transpose } from '../../src/ops/index.ts'
import { quantizeFolder, quantizeModel } from '../../src/quantization/index.ts'
import { cpu, Tensor } from '../../src/tensor/index.ts'
import { distance, folderOf } from '../models/recorded.ts'
import nf4 from '../recorded/quantization/nf4.json' with { type: 'json' }
import { edited, quantizedLayer, workplace } from './folders.ts'

const { kept, newFolder } = workplace()
const load = async (folder: string, options?: FromPretrainedOptions) => kept(await AutoModelForCausalLM.fromPretrained(folder, options))
const input = { inputIds: [[5, 9, 30, 77, 100], [12, 14]] }
const logitsOf = async (model: CausalLanguageModel) => await model.forward(input).logits!.data() as Float32Array
const layersOf = (model: CausalLanguageModel) => [...model.namedModules()].filter((entry): entry is [string, QuantizedLinear] => entry[1] instanceof QuantizedLinear)

/** A model of a size that 64 divides, in a folder. */
async function wideModel(dtype: 'float32' | 'bfloat16' = 'float32'): Promise<string> {
  const model = AutoModelForCausalLM.fromConfig({ modelType: 'llama', vocabSize: 128, hiddenSize: 128, intermediateSize: 256, numHiddenLayers: 3, numAttentionHeads: 4, numKeyValueHeads: 2 }, { dtype, seed: 3 })
  const folder = newFolder()
  await model.savePretrained(folder)
  model.dispose()
  return folder
}

describe('a checkpoint quantised as it is read', () => {
  test.each([
    ['llama2', { format: 'nf4' }], ['llama2', { format: 'fp4', block: 32 }], ['qwen2', { format: 'int8' }], ['qwen2', { format: 'int4', block: 8 }],
    ['llama3', { format: 'int4', block: 8, zeroPoints: true }], ['llama3', { format: 'int8', block: 8, zeroPoints: true }], ['gpt2', { format: 'nf4', doubleQuant: true }], ['gpt2', { format: 'int8', block: 8 }],
  ] as const)('%s %o has the rounded weights in all layers but the head', async (family, quantization) => {
    const [model, full] = [await load(folderOf(family), { quantize: quantization }), await load(folderOf(family))]
    expect(model.quantizationConfig).toMatchObject(quantization)
    expect(model.numParameters()).toBe(full.numParameters())
    const layers = layersOf(model)
    const linears = [...full.namedModules()].filter(([name, module]) => name !== 'lm_head' && (module instanceof Linear || module instanceof Conv1D))
    expect(layers.map(([name]) => name)).toEqual(linears.map(([name]) => name))
    for (const [name, layer] of layers) {
      const original = full.getModule(name) as Linear | Conv1D
      const weight = original instanceof Conv1D ? transpose(original.weight.tensor) : original.weight.tensor
      const rounded = quantize(weight, quantization)
      expect(await layer.weight.codes.data()).toEqual(await rounded.codes.data())
      const scales = await layer.weight.scales.data() as Float32Array
      const unrounded = await rounded.scales.data() as Float32Array
      expect(distance(scales, unrounded)).toBeLessThan(quantization.format.startsWith('int') ? 5e-4 : 'doubleQuant' in quantization ? 0.02 : 1e-12)
      expect(layer.bias === null).toBe(original.bias === null)
      // The same function with weights in full.
      const widened = layer.dequantize()
      original.weight.replace(original instanceof Conv1D ? transpose(widened) : widened)
    }
    expect(distance(await logitsOf(model), await logitsOf(full))).toBeLessThan(2e-5)
  })

  test('holds the codes and one tensor of the file, no more', async () => {
    for (const dtype of ['float32', 'bfloat16'] as const) {
      const folder = await wideModel(dtype)
      const before = cpu.memory().live
      cpu.resetPeakMemory()
      const model = await load(folder, { quantize: 'nf4', dtype })
      const largest = 256 * 128 * (dtype === 'float32' ? 4 : 2)
      const { peak, live } = cpu.memory()
      const blocks = 512 * [...model.namedModules()].length
      expect(live - before).toBeLessThan(weightBytes(model) + blocks)
      expect(peak - before).toBeLessThan(weightBytes(model) + largest + blocks)
    }
  })

  test('takes the memory that is estimated', async () => {
    for (const quantize of ['nf4', { format: 'int4', block: 8, zeroPoints: true }, 'int8'] as const) {
      const model = await load(folderOf('llama2'), { quantize })
      const { weights, gradients } = memoryEstimate(model.config, { tokens: 1, quantize })
      const parameters = model.parameters().reduce((sum, { size }) => sum + 4 * size, 0)
      expect(weights).toBe(parameters + layersOf(model).reduce((sum, [, { weight }]) => sum + weight.bytes, 0))
      expect(gradients).toBe(parameters)
    }
  })

  test('has the same codes from float16 and bfloat16 files as from the numbers there', async () => {
    for (const [family, dtype] of [['llama2', 'float16'], ['gpt2', 'float16'], ['llama2', 'bfloat16']] as const) {
      const folder = newFolder()
      await (await load(folderOf(family))).savePretrained(folder, { dtype })
      const [model, full] = [await load(folder, { quantize: 'nf4' }), await load(folder)]
      for (const [name, layer] of layersOf(model)) {
        const original = full.getModule(name) as Linear | Conv1D
        const rounded = quantize(original instanceof Conv1D ? transpose(original.weight.tensor) : original.weight.tensor)
        expect(await layer.weight.codes.data()).toEqual(await rounded.codes.data())
      }
    }
  })

  test('rounds to the model\'s dtype first, as transformers does', async () => {
    const model = await load(folderOf('llama2'), { quantize: 'nf4', dtype: 'bfloat16' })
    const full = await load(folderOf('llama2'), { dtype: 'bfloat16' })
    const [name, layer] = layersOf(model)[0]!
    const rounded = quantize(full.getParameter(`${name}.weight`).tensor)
    expect(await layer.weight.scales.data()).toEqual(await rounded.scales.data())
    expect(model.dtype).toBe('bfloat16')
  })

  test.each([
    [256, 384, [], 128], [128, 192, [], 64], [64, 96, [], 32], [64, 688, [], 16], [256, 688, ['down_proj'], 128],
  ] as const)('takes the largest usual block of int4 that divides every layer: hidden size %d, inner size %d, without %o: %d', async (hiddenSize, intermediateSize, skipModules, block) => {
    const folder = newFolder()
    const source = AutoModelForCausalLM.fromConfig({ modelType: 'llama', vocabSize: 32, hiddenSize, intermediateSize, numHiddenLayers: 1, numAttentionHeads: 4, numKeyValueHeads: 4 })
    await source.savePretrained(folder)
    const quantize = { format: 'int4' as const, skipModules: [...skipModules] as string[] }
    const model = await load(folder, { quantize })
    expect(model.quantizationConfig).toMatchObject({ format: 'int4', block })
    expect(layersOf(model).every(([, { weight }]) => weight.block === block)).toBe(true)
    await quantizeModel(kept(source), quantize)
    expect(source.quantizationConfig).toMatchObject({ format: 'int4', block })
    const output = newFolder()
    expect(await quantizeFolder({ model: folder, output, ...quantize })).toMatchObject({ format: 'int4', block })
    expect((await load(output)).quantizationConfig).toMatchObject({ format: 'int4', block })
    expect(JSON.parse(await readFile(join(output, 'config.json'), 'utf8'))).toMatchObject({ quantization_config: { group_size: block } })
  })

  test('leaves skipped modules alone', async () => {
    const model = await load(folderOf('llama2'), { quantize: { format: 'nf4', skipModules: ['down_proj', 'model.layers.0', '*.q_proj'] } })
    expect(layersOf(model).map(([name]) => name)).toEqual(['self_attn.k_proj', 'self_attn.v_proj', 'self_attn.o_proj', 'mlp.gate_proj', 'mlp.up_proj'].map((name) => `model.layers.1.${name}`))
  })

  test('gives gradients through blocks that cross rows', async () => {
    const model = await load(folderOf('llama2'), { quantize: { format: 'nf4', block: 4096 } })
    const { loss } = model.forward({ ...input, labels: input.inputIds })
    expect(Number.isFinite(await loss!.item())).toBe(true)
    expect(layersOf(model).every(([, layer]) => !layer.weight.multiplies)).toBe(true)
  })
})

describe('double quantisation', () => {
  test('has the bytes and numbers of bitsandbytes', async () => {
    const recorded = nf4.cases.find((one) => one.double_quant)!
    const weight = kept(quantize(kept(Tensor.from(nf4.W.flat(), [20, 40]))))
    const nested = await NestedScales.of(weight.scales)
    expect([...nested.codes]).toEqual(recorded.absmax)
    expect([...nested.absmax]).toEqual(recorded.nested_absmax!.map(Math.fround))
    expect(nested.offset).toBe(recorded.nested_offset)
    weight.scales.copy_(nested.values())
    expect([...await kept(dequantize(weight)).data()]).toEqual(recorded.dequant.flat().map(Math.fround))
  })
})

describe('refuses', () => {
  const open = (quantize: unknown) => AutoModelForCausalLM.fromPretrained(folderOf('llama2'), { quantize: quantize as 'nf4' })
  test.each([
    ['an unknown format', 'nf5', /format: .*did you mean "nf4"/],
    ['an odd block', { format: 'nf4', block: 48 }, /quantize\.block: expected a power of two from 32 to 4096/],
    ['a block that does not divide', { format: 'int4', block: 24 }, /quantize\.block: expected a divisor of the 32 inputs of model\.layers\.0\.self_attn\.q_proj, got 24/],
    ['double quantisation of int8', { format: 'int8', doubleQuant: true }, /quantize\.doubleQuant: expected format nf4 or fp4, got int8/],
    ['zero points of nf4', { format: 'nf4', zeroPoints: true }, /quantize\.zeroPoints: expected format int4 or int8, got nf4/],
    ['a module that does not exist', { format: 'nf4', skipModules: ['downproj'] }, /no linear layer is named "downproj"; did you mean "down_proj"\?; the layers are q_proj/],
  ])('%s', async (_, option, message) => {
    const before = cpu.memory().live
    await expect(open(option)).rejects.toThrow(ConfigError)
    await expect(open(option)).rejects.toThrow(message)
    expect(cpu.memory().live).toBeLessThanOrEqual(before)
  })

  test('int4 without a block, where no usual one divides, by the layer', async () => {
    const model = kept(AutoModelForCausalLM.fromConfig({ modelType: 'llama', vocabSize: 32, hiddenSize: 64, intermediateSize: 40, numHiddenLayers: 1, numAttentionHeads: 4, numKeyValueHeads: 4 }))
    await expect(quantizeModel(model, { format: 'int4' })).rejects.toThrow(/quantize\.block: none of 128, 64, 32, 16 divides the 40 inputs of model\.layers\.0\.mlp\.down_proj; choose a block that does/)
    await quantizeModel(model, { format: 'int4', block: 8 })
  })

  test('numbers that are not finite, by the name of their tensor; a block of zeros is no such thing', async () => {
    const name = 'model.layers.1.mlp.up_proj.weight'
    const spoil = (value: number) => edited(folderOf('llama2'), newFolder(), (tensors) => {
      const entry = tensors.get(name)!
      const values = new Float32Array(entry.bytes.slice().buffer)
      if (value === 0) values.fill(0, 0, 64)
      else values[70] = value
      tensors.set(name, { ...entry, bytes: new Uint8Array(values.buffer) })
    })
    for (const value of [NaN, Infinity]) {
      const [folder, before] = [await spoil(value), cpu.memory().live]
      const attempt = () => AutoModelForCausalLM.fromPretrained(folder, { quantize: { format: 'nf4', doubleQuant: true } })
      await expect(attempt()).rejects.toThrow(NonFiniteError)
      await expect(attempt()).rejects.toThrow(/tensor "model\.layers\.1\.mlp\.up_proj\.weight": .*x\[70\] is (nan|inf).*skipModules/)
      expect(cpu.memory().live).toBeLessThanOrEqual(before)
    }
    const folder = await spoil(0)
    for (const format of ['nf4', 'fp4', 'int8', 'int4'] as const) {
      const model = await load(folder, { quantize: { format, ...(format.startsWith('int') ? { block: 8 } : {}) } })
      const values = await kept(quantizedLayer(model, 'model.layers.1.mlp.up_proj').dequantize()).toArray()
      expect(values.slice(0, 64).every((value) => value === 0)).toBe(true)
      expect((await logitsOf(model)).every(Number.isFinite)).toBe(true)
    }
  })
})
