// Proves that quantised checkpoints are read bit for bit (bitsandbytes, GPTQ, AWQ), written in the same layouts, and refused where no kernel reads them.
import { createHash } from 'node:crypto'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { adapterOf } from '../../src/adapters/adapterSet.ts'
import { addAdapter, mergeAndUnload } from '../../src/adapters/index.ts'
import { ConfigError, FileFormatError } from '../../src/errors.ts'
import { openSafetensors } from '../../src/files/index.ts'
import { AutoModelForCausalLM, linearLayers, type CausalLanguageModel } from '../../src/models/index.ts'
import { loadWeights } from '../../src/models/weights.ts'
import { QuantizedLinear } from '../../src/nn/index.ts'
import { backward, cpu } from '../../src/tensor/index.ts'
import { folderOf } from '../models/recorded.ts'
import maps from '../recorded/quantization/maps.json' with { type: 'json' }
import nf4 from '../recorded/quantization/nf4.json' with { type: 'json' }
import recorded from '../recorded/quantization-files/expected.json' with { type: 'json' }
import { edited, quantizedLayer as quantized, readAll, workplace, type Entry } from './folders.ts'

const { kept, newFolder } = workplace()
const load = async (folder: string, options?: Parameters<typeof AutoModelForCausalLM.fromPretrained>[1]) => kept(await AutoModelForCausalLM.fromPretrained(folder, options))
const logitsOf = async (model: CausalLanguageModel) => await model.forward({ inputIds: [[5, 9, 30, 77, 100], [12, 14]] }).logits!.data()
const sha256 = (values: unknown): string => createHash('sha256').update(new Uint8Array((values as Float32Array).buffer)).digest('hex')

/** A folder whose config.json has other fields. */
async function configure(folder: string, fields: object): Promise<string> {
  const path = join(folder, 'config.json')
  await writeFile(path, JSON.stringify({ ...JSON.parse(await readFile(path, 'utf8')) as object, ...fields }))
  return folder
}

type Case = keyof typeof recorded

/** What is written again of a case's config: transformers' threshold is left to its default. */
const written = (name: Case): object => name === 'llm-int8' ? { quant_method: 'bitsandbytes', load_in_8bit: true, load_in_4bit: false } : recorded[name].quantization_config

/** The recorded model with the layers of a case in place of its own. */
async function folderOfCase(name: Case, edit: (tensors: Map<string, Entry>) => void = () => undefined, prefix = 'model.'): Promise<string> {
  const file = await openSafetensors(fileURLToPath(new URL(`../recorded/quantization-files/${name}.safetensors`, import.meta.url)))
  const folder = newFolder()
  const layers = new Map<string, Entry>()
  for (const [key, { dtype, shape }] of file.tensors) layers.set(key.replace('model.', prefix), { dtype, shape, bytes: await file.readTensorBytes(key) })
  await file.close()
  await edited(folderOf('llama2'), folder, (tensors) => {
    for (const layer of Object.keys(recorded[name].sha256)) tensors.delete(`${layer}.weight`)
    for (const [key, entry] of layers) tensors.set(key, entry)
    edit(tensors)
  })
  return configure(folder, { quantization_config: recorded[name].quantization_config })
}

describe('checkpoints of GPTQ, AWQ and LLM.int8()', () => {
  test.each(Object.keys(recorded) as Case[])('%s has the numbers of the reference formula, also after writing', async (name) => {
    const model = await load(await folderOfCase(name))
    for (const [layer, hash] of Object.entries(recorded[name].sha256)) expect(sha256(await quantized(model, layer).dequantize().data()), layer).toBe(hash)
    const folder = newFolder()
    await model.savePretrained(folder)
    const again = await load(folder)
    for (const [layer, hash] of Object.entries(recorded[name].sha256)) expect(sha256(await quantized(again, layer).dequantize().data()), layer).toBe(hash)
    expect(await logitsOf(again)).toEqual(await logitsOf(model))
    expect(again.quantizationConfig).toEqual(model.quantizationConfig)
  })

  test('symmetric GPTQ, act-order and LLM.int8() are written with the bytes they were read from', async () => {
    for (const name of ['gptq-4bit', 'gptq-8bit', 'gptq-act-order', 'gptq-v2-8bit-act-order', 'llm-int8'] as const) {
      const source = await folderOfCase(name)
      const folder = newFolder()
      await (await load(source)).savePretrained(folder)
      expect(await readAll(folder)).toEqual(await readAll(source))
      expect(JSON.parse(await readFile(join(folder, 'config.json'), 'utf8'))).toMatchObject({ quantization_config: written(name) })
    }
  })

  test('are read without the prefix of the base model', async () => {
    const model = await load(await folderOfCase('gptq-4bit', undefined, ''))
    expect(await logitsOf(model)).toEqual(await logitsOf(await load(await folderOfCase('gptq-4bit'))))
  })

  const ids = [5, 9, 30, 77, 100, 12, 14, 3]
  const last = async (model: CausalLanguageModel) => (await model.forward({ inputIds: [ids] }).logits!.toArray()).slice(-model.config.vocabSize)
  const closeTo = (values: ArrayLike<number>, expected: readonly number[], tolerance = 2e-5): void => {
    const largest = Math.max(...expected.map(Math.abs))
    expect(values.length).toBe(expected.length)
    expected.forEach((value, i) => { expect(Math.abs(values[i]! - value)).toBeLessThan(tolerance * largest) })
  }
  /** LoRA with the factors that record.py gives PEFT's. */
  async function withLora(model: CausalLanguageModel): Promise<CausalLanguageModel> {
    await addAdapter(model, { type: 'lora', r: 4, loraAlpha: 8, targetModules: ['q_proj', 'down_proj'] })
    for (const [, parameter] of adapterOf(model, 'default').parameters()) parameter.tensor.copy_(Float32Array.from({ length: parameter.size }, (_, i) => Math.sin(i) * 0.2))
    return model
  }

  describe.each(['gptq-act-order', 'gptq-v2-8bit-act-order', 'llm-int8'] as const)('%s', (name) => {
    const { computed } = recorded[name]

    test('has the logits, loss and gradients of transformers and PEFT with the same numbers in float32', async () => {
      const model = await load(await folderOfCase(name))
      closeTo(await last(model), computed.logits)
      await withLora(model)
      closeTo(await last(model), computed.loraLogits)
      const table = model.getParameter('model.embed_tokens.weight')
      table.requiresGrad = true
      const { loss } = model.forward({ inputIds: [ids], labels: [ids] })
      expect(await loss!.item()).toBeCloseTo(computed.loss, 4)
      backward(loss!)
      const gradient = await table.grad!.toArray()
      // Weights of 8 bits with zero points reach 5, and what they sum up to cancels.
      closeTo(ids.flatMap((id) => gradient.slice(id * table.shape[1]!, (id + 1) * table.shape[1]!)), computed.embeddings, 4e-5)
      const factors = adapterOf(model, 'default').parameters()
      closeTo(await factors.get('model.layers.0.self_attn.q_proj.lora_A.weight')!.grad!.data() as Float32Array, computed.qA, 4e-5)
      closeTo(await factors.get('model.layers.1.mlp.down_proj.lora_A.weight')!.grad!.data() as Float32Array, computed.downA, 4e-5)
    })

    test.each(['requantize', 'dequantize'] as const)('merges an adapter: %s', async (quantized) => {
      const model = await withLora(await load(await folderOfCase(name)))
      mergeAndUnload(model, { quantized })
      // Rounding anew moves every weight by up to half a step, as the merge into any quantised weight does.
      closeTo(await last(model), computed.loraLogits, quantized === 'dequantize' ? 2e-5 : name === 'gptq-act-order' ? 0.5 : 0.05)
      if (quantized === 'dequantize') return
      const folder = newFolder()
      await model.savePretrained(folder)
      closeTo(await last(await load(folder)), await last(model), name === 'llm-int8' ? 2e-5 : 5e-3)
    })

    test('computes the same in bfloat16, to its rounding', async () => {
      closeTo(await last(await load(await folderOfCase(name), { dtype: 'bfloat16' })), computed.logits, 0.05)
    })
  })

  const q = 'model.layers.0.self_attn.q_proj'
  const set = (key: string, change: (entry: Entry) => Entry) => (tensors: Map<string, Entry>) => { tensors.set(key, change(tensors.get(key)!)) }
  const words = (change: (array: Int32Array) => void) => (entry: Entry): Entry => {
    const bytes = entry.bytes.slice()
    change(new Int32Array(bytes.buffer))
    return { ...entry, bytes }
  }
  test.each([
    ['a group of another size', 'gptq-4bit', set(`${q}.g_idx`, words((array) => { array[3] = 2 })), /q_proj\.g_idx": expected 8 inputs in each group, as group_size says, got 7 in group 0/],
    ['a group that is not there', 'gptq-4bit', set(`${q}.g_idx`, words((array) => { array[3] = -1 })), /q_proj\.g_idx": expected groups from 0 to 3, got -1 for input 3/],
    ['act-order without its order', 'gptq-act-order', (tensors: Map<string, Entry>) => { tensors.delete(`${q}.g_idx`) }, /no tensor "model\.layers\.0\.self_attn\.q_proj\.g_idx"/],
    ['LLM.int8() with weights in another dtype', 'llm-int8', set(`${q}.weight`, (entry) => ({ ...entry, dtype: 'U8' })), /q_proj\.weight": expected dtype I8, got U8/],
    ['LLM.int8() in tiles', 'llm-int8', set(`${q}.weight_format`, (entry) => ({ ...entry, bytes: Uint8Array.of(2) })), /q_proj\.weight_format": expected 0, weights row by row, got 2/],
    ['a missing tensor', 'gptq-4bit', (tensors: Map<string, Entry>) => { tensors.delete(`${q}.scales`) }, /no tensor "model\.layers\.0\.self_attn\.q_proj\.scales"/],
    ['another shape', 'awq', set(`${q}.qweight`, (entry) => ({ ...entry, shape: [16, 8] })), /q_proj\.qweight": expected shape \[32, 4\], as config\.json says, got \[16, 8\]/],
    ['another dtype', 'awq', set(`${q}.qweight`, (entry) => ({ ...entry, dtype: 'F32' })), /q_proj\.qweight": expected dtype I32, U32, got F32/],
  ] as const)('%s is refused by name, and no memory is kept', async (_, name, edit, message) => {
    const folder = await folderOfCase(name, edit)
    const before = cpu.memory().live
    await expect(AutoModelForCausalLM.fromPretrained(folder)).rejects.toThrow(FileFormatError)
    await expect(AutoModelForCausalLM.fromPretrained(folder)).rejects.toThrow(message)
    expect(cpu.memory().live).toBeLessThanOrEqual(before)
  })

  test('a group size that does not fit, and a config that says nothing, are refused', async () => {
    const folder = await folderOfCase('gptq-4bit')
    await configure(folder, { quantization_config: { quant_method: 'gptq', bits: 4, group_size: 12 } })
    await expect(AutoModelForCausalLM.fromPretrained(folder)).rejects.toThrow(/expected an even group_size that divides the \d+ inputs, got 12/)
    await configure(folder, { quantization_config: null })
    await expect(AutoModelForCausalLM.fromPretrained(folder)).rejects.toThrow(/is quantised as gptq or awq does it, but quantization_config of config\.json says nothing/)
    await configure(folder, { quantization_config: { quant_method: 'bitsandbytes' } })
    await expect(AutoModelForCausalLM.fromPretrained(folder)).rejects.toThrow(/load_in_4bit: expected true, or load_in_8bit: true/)
  })
})

describe('checkpoints of bitsandbytes', () => {
  const sizes = { modelType: 'llama', vocabSize: 64, hiddenSize: 40, intermediateSize: 20, numHiddenLayers: 1, numAttentionHeads: 5, numKeyValueHeads: 5 }
  const f32 = (values: readonly number[]): Entry => ({ dtype: 'F32', shape: [values.length], bytes: new Uint8Array(Float32Array.from(values).buffer) })
  const u8 = (values: readonly number[], shape = [values.length]): Entry => ({ dtype: 'U8', shape, bytes: Uint8Array.from(values) })
  const gate = 'model.layers.0.mlp.gate_proj.weight'
  const book = [-1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1]

  /** A model whose gate_proj holds what bitsandbytes made of the recorded weight. */
  async function folderOfRecorded(double: boolean, edit: (tensors: Map<string, Entry>) => void = () => undefined): Promise<string> {
    const one = nf4.cases.find(({ double_quant }) => double_quant === double)!
    const plain = newFolder()
    const model = AutoModelForCausalLM.fromConfig(sizes)
    await model.savePretrained(plain)
    model.dispose()
    const folder = await edited(plain, newFolder(), (tensors) => {
      tensors.set(gate, u8(one.packed_uint8, [400, 1]))
      tensors.set(`${gate}.absmax`, double ? u8(one.absmax) : f32(one.absmax))
      tensors.set(`${gate}.quant_map`, f32(book))
      if (double) tensors.set(`${gate}.nested_absmax`, f32(one.nested_absmax!)).set(`${gate}.nested_quant_map`, f32(maps.signed))
      const nested = double ? `, "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": ${one.nested_offset!}` : ''
      tensors.set(`${gate}.quant_state.bitsandbytes__nf4`, u8([...Buffer.from(`{"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [20, 40]${nested}}`)]))
      edit(tensors)
    })
    return configure(folder, { quantization_config: { quant_method: 'bitsandbytes', load_in_4bit: true, bnb_4bit_quant_type: 'nf4', bnb_4bit_use_double_quant: double } })
  }

  test.each([false, true])('have its numbers, and are written with its bytes; double quantisation: %s', async (double) => {
    const source = await folderOfRecorded(double)
    const model = await load(source)
    const layer = quantized(model, 'model.layers.0.mlp.gate_proj')
    expect([...await layer.dequantize().data()]).toEqual(nf4.cases.find(({ double_quant }) => double_quant === double)!.dequant.flat().map(Math.fround))
    expect(model.quantizationConfig).toMatchObject({ format: 'nf4', block: 64, doubleQuant: double })
    const folder = newFolder()
    await model.savePretrained(folder)
    expect(await readAll(folder)).toEqual(await readAll(source))
    expect(JSON.parse(await readFile(join(folder, 'config.json'), 'utf8'))).toMatchObject({
      quantization_config: { quant_method: 'bitsandbytes', load_in_4bit: true, bnb_4bit_quant_type: 'nf4', bnb_4bit_use_double_quant: double, bnb_4bit_compute_dtype: 'float32', llm_int8_skip_modules: expect.arrayContaining(['lm_head', 'model.layers.0.mlp.up_proj']) as string[] },
    })
  })

  test('are read from bytes of another storage dtype', async () => {
    const source = await folderOfRecorded(true, (tensors) => { tensors.set(gate, { ...tensors.get(gate)!, dtype: 'BF16', shape: [200, 1] }) })
    expect(await quantized(await load(source), 'model.layers.0.mlp.gate_proj').dequantize().data()).toEqual(await quantized(await load(await folderOfRecorded(true)), 'model.layers.0.mlp.gate_proj').dequantize().data())
  })

  test('scales that changed since are written in full', async () => {
    const model = await load(await folderOfRecorded(true))
    const layer = quantized(model, 'model.layers.0.mlp.gate_proj')
    layer.weight.scales.copy_((await layer.weight.scales.data() as Float32Array).map((scale) => scale * 1.5))
    const folder = newFolder()
    await model.savePretrained(folder)
    expect((await readAll(folder)).has(`${gate}.nested_absmax`)).toBe(false)
    expect(await quantized(await load(folder), 'model.layers.0.mlp.gate_proj').dequantize().data()).toEqual(await layer.dequantize().data())
  })

  const state = (json: string) => (tensors: Map<string, Entry>) => { tensors.set(`${gate}.quant_state.bitsandbytes__nf4`, u8([...Buffer.from(json)])) }
  test.each([
    ['another shape', state('{"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [40, 20]}'), /quant_state\.bitsandbytes__nf4": expected shape \[20, 40\], as config\.json says, got \[40, 20\]/],
    ['a state without blocksize', state('{"quant_type": "nf4", "shape": [20, 40]}'), /blocksize/],
    ['a damaged state', state('{"quant_type": '), /bitsandbytes__nf4"/],
    ['another code book', (tensors: Map<string, Entry>) => { tensors.set(`${gate}.quant_map`, f32(book.map((value) => value / 2))) }, /expected the code book of nf4/],
    ['too few scales', (tensors: Map<string, Entry>) => { tensors.set(`${gate}.absmax`, f32([1, 2])) }, /absmax": expected 52 bytes/],
    ['no scales', (tensors: Map<string, Entry>) => { tensors.delete(`${gate}.absmax`) }, /no tensor "model\.layers\.0\.mlp\.gate_proj\.weight\.absmax"/],
  ])('%s is refused by name', async (_, edit, message) => {
    const folder = await folderOfRecorded(false, edit)
    await expect(AutoModelForCausalLM.fromPretrained(folder)).rejects.toThrow(FileFormatError)
    await expect(AutoModelForCausalLM.fromPretrained(folder)).rejects.toThrow(message)
  })
})

describe('a model quantised here', () => {
  test.each([
    ['llama2', { format: 'nf4', doubleQuant: true }], ['llama2', { format: 'fp4' }], ['gpt2', { format: 'nf4' }], ['llama3', { format: 'int4', block: 8, zeroPoints: true }], ['llama3', { format: 'int8', zeroPoints: true }],
    ['qwen2', { format: 'int8' }], ['qwen2', { format: 'int4', block: 8, skipModules: ['down_proj'] }], ['gpt2', { format: 'int8', block: 8 }],
  ] as const)('%s %o is the same after writing and reading', async (family, quantize) => {
    const model = await load(folderOf(family), { quantize: { ...quantize, skipModules: 'skipModules' in quantize ? [...quantize.skipModules] : [] } })
    const folder = newFolder()
    await model.savePretrained(folder, { maxShardSize: '60KB' })
    const again = await load(folder)
    expect(again.numParameters()).toBe(model.numParameters())
    expect(await logitsOf(again)).toEqual(await logitsOf(model))
    for (const name of linearLayers(model).keys()) {
      const layer = model.getModule(name)
      if (layer instanceof QuantizedLinear) expect(await quantized(again, name).weight.codes.data()).toEqual(await layer.weight.codes.data())
    }
    // As a run that goes on does: into the layers that are there.
    const live = model.forward({ inputIds: [[1, 2]] }).logits!
    for (const name of linearLayers(model).keys()) {
      const layer = model.getModule(name)
      if (layer instanceof QuantizedLinear) layer.weight.scales.copy_(new Float32Array(layer.weight.scales.size))
    }
    await loadWeights(model, folder, 'float32', cpu)
    expect(await model.forward({ inputIds: [[1, 2]] }).logits!.data()).toEqual(await live.data())
  })

  test('is not quantised again', async () => {
    const folder = newFolder()
    await (await load(folderOf('llama2'), { quantize: 'nf4' })).savePretrained(folder)
    await expect(AutoModelForCausalLM.fromPretrained(folder, { quantize: 'int8' })).rejects.toThrow(ConfigError)
    await expect(AutoModelForCausalLM.fromPretrained(folder, { quantize: 'int8' })).rejects.toThrow(/are quantised already, by bitsandbytes; leave quantize out/)
  })

  test('and does not fit GPTQ\'s words is refused when written', async () => {
    const model = await load(folderOf('qwen3'), { quantize: { format: 'int4', block: 2 } })
    await expect(model.savePretrained(newFolder())).rejects.toThrow(/: expected inputs and outputs that are multiples of 8, which GPTQ packs in a word, got \[/)
  })
})
