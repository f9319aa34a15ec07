// Proves that a quantised head, and the embeddings tied to it, compute what the dequantised model does, are saved and read exactly, and what is refused.
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { ConfigError, FileFormatError } from '../../src/errors.ts'
import { AutoModelForCausalLM, dequantizeModel, memoryEstimate, quantizedLayers, quantizeHead, type CausalLanguageModel, type FromPretrainedOptions } from '../../src/models/index.ts'
import { logitsOf } from '../../src/models/logits.ts'
import { Conv1D, Embedding, Linear, QuantizedEmbedding, QuantizedLinear } from '../../src/nn/index.ts'
import { dequantize, quantize, quantizedEmbedding } from '../../src/ops/index.ts'
import { quantizeFolder, quantizeModel } from '../../src/quantization/index.ts'
import { cpu, decoding, noGrad, scope, Tensor } from '../../src/tensor/index.ts'
import { distance, folderOf } from '../models/recorded.ts'
import { edited, readAll, workplace } from './folders.ts'

const { kept, newFolder } = workplace()
const load = async (folder: string, options?: FromPretrainedOptions) => kept(await AutoModelForCausalLM.fromPretrained(folder, options))
const inputIds = [[5, 9, 30, 77, 100], [12, 14]]
const logits = async (model: CausalLanguageModel) => await model.forward({ inputIds }).logits!.data() as Float32Array
const headOf = (model: CausalLanguageModel): QuantizedLinear => {
  if (!(model.lm_head instanceof QuantizedLinear)) throw new Error('the head is not quantised')
  return model.lm_head
}
const configOf = async (folder: string) => (JSON.parse(await readFile(join(folder, 'config.json'), 'utf8')) as { quantization_config: Record<string, unknown> }).quantization_config

/** The model with the numbers of its codes in full. */
async function widened(folder: string, options: FromPretrainedOptions): Promise<CausalLanguageModel> {
  const model = await load(folder, options)
  dequantizeModel(model)
  return model
}

describe('rows of a quantised table', () => {
  test.each([
    ['int8', 48, undefined], ['int8', 48, 16], ['nf4', 64, 64], ['fp4', 64, 32], ['int4', 48, 8], ['int4', 48, 16],
  ] as const)('%s of width %d in blocks of %s are those of the dequantised table', async (format, width, block) => {
    const table = kept(quantize(kept(Tensor.from(Float32Array.from({ length: 37 * width }, (_, i) => Math.sin(i * i) * (i % 11)), [37, width])), { format, ...(block === undefined ? {} : { block }), zeroPoints: format === 'int4' && block === 8 }))
    const ids = [36, 0, 5, 5, 17]
    for (const dtype of ['float32', 'bfloat16'] as const) {
      const all = await kept(dequantize(table, dtype)).data()
      const rows = kept(quantizedEmbedding(table, kept(Tensor.from(ids, [5], { dtype: 'int32' })), dtype))
      expect(rows.dtype).toBe(dtype)
      expect([...await rows.data()]).toEqual(ids.flatMap((id) => [...all.subarray(id * width, (id + 1) * width)]))
    }
    expect(kept(quantizedEmbedding(table, kept(Tensor.empty([0], { dtype: 'int32' })))).shape).toEqual([0, width])
  })

  test('blocks that cross rows, and ids that are no row, are refused', async () => {
    const table = kept(quantize(kept(Tensor.zeros([4, 40]))))
    expect(() => quantizedEmbedding(table, kept(Tensor.from([1], [1], { dtype: 'int32' })))).toThrow(/blocks that divide its rows, but is nf4 \[4, 40\] in blocks of 64/)
    const rows = kept(quantize(kept(Tensor.zeros([4, 40])), { format: 'int8' }))
    kept(quantizedEmbedding(rows, kept(Tensor.from([4], [1], { dtype: 'int32' }))))
    await expect(cpu.fence()).rejects.toThrow(/id\[0\] is 4, outside the vocabulary of 4/)
  })
})

describe('a head quantised as it is read', () => {
  test.each([
    ['qwen2', { format: 'nf4', head: 'int8' }], ['gemma3', { format: 'int8', head: 'int4', headBlock: 8 }], ['gpt2', { format: 'int4', block: 8, head: 'int8' }],
    ['llama3', { format: 'nf4', head: 'int4' }], ['llama2', { format: 'nf4', head: 'int8' }], ['llama2', { format: 'fp4', block: 32, head: 'nf4', headBlock: 32 }],
  ] as const)('%s %o computes what the dequantised model does', async (family, quantization) => {
    const [model, full] = [await load(folderOf(family), { quantize: quantization }), await load(folderOf(family))]
    const isTied = full.config.tieWordEmbeddings
    expect(model.quantizationConfig).toMatchObject(quantization)
    expect(model.numParameters()).toBe(full.numParameters())
    expect(headOf(model).weight.format).toBe(quantization.head)
    const embeddings = model.getInputEmbeddings()
    expect(embeddings instanceof QuantizedEmbedding && embeddings.weight === headOf(model).weight).toBe(isTied)
    expect(await kept(headOf(model).dequantize()).data()).not.toEqual(await full.getParameter(isTied ? [...full.namedParameters()][0]![0] : 'lm_head.weight').tensor.data())
    const plain = await widened(folderOf(family), { quantize: quantization })
    expect(distance(await logits(model), await logits(plain))).toBeLessThan(2e-6)
    const input = { inputIds, labels: inputIds }
    expect(distance(await model.forward(input).nll!.data() as Float32Array, await plain.forward(input).nll!.data() as Float32Array)).toBeLessThan(2e-6)
    for (const temperature of [1, 0.7]) {
      const [own, expected] = [model.logprobs({ inputIds, temperature }), plain.logprobs({ inputIds, temperature })]
      expect(distance(await own.logprob.data() as Float32Array, await expected.logprob.data() as Float32Array)).toBeLessThan(2e-6)
      expect(distance(await own.entropy.data() as Float32Array, await expected.entropy.data() as Float32Array)).toBeLessThan(2e-6)
    }
  })

  test('in bfloat16 gives logits in float32, from weights that are rounded once', async () => {
    const options = { dtype: 'bfloat16', quantize: { format: 'nf4', head: 'int8' } } as const
    const [model, plain] = [await load(folderOf('qwen2'), options), await widened(folderOf('qwen2'), options)]
    expect(model.dtype).toBe('bfloat16')
    expect(model.getInputEmbeddings().forward(kept(Tensor.from([3], [1], { dtype: 'int32' }))).dtype).toBe('bfloat16')
    const output = model.forward({ inputIds }).logits!
    expect(output.dtype).toBe('float32')
    expect(distance(await output.data() as Float32Array, await logits(plain))).toBeLessThan(1e-2)
    model.to('float32')
    expect(model.dtype).toBe('float32')
    expect((await logits(model)).every(Number.isFinite)).toBe(true)
  })

  test.each([['float32', 2e-4], ['bfloat16', 5e-3]] as const)('new tokens in %s are multiplied with the codes themselves', async (dtype, tolerance) => {
    const options = { dtype, quantize: { format: 'nf4', head: 'int8' } } as const
    const model = await load(folderOf('llama3'), options)
    const hidden = kept(model.base({ inputIds }).lastHiddenState)
    const [own, exact] = noGrad(() => scope(() => [decoding(() => logitsOf(model.lm_head, hidden)), logitsOf(model.lm_head, hidden)]))
    expect(own.dtype).toBe('float32')
    expect(distance(await own.data() as Float32Array, await exact.data() as Float32Array)).toBeLessThan(tolerance)
    expect(await own.data()).not.toEqual(await exact.data())
  })

  test('takes the memory that is estimated, and no more while it is read', async () => {
    for (const [family, quantize] of [['llama3', { format: 'nf4', head: 'int8' }], ['llama2', { format: 'int8', head: 'int4', headBlock: 8 }]] as const) {
      const before = cpu.memory().live
      cpu.resetPeakMemory()
      const model = await load(folderOf(family), { quantize })
      const { peak, live } = cpu.memory()
      const layers = [...quantizedLayers(model).values()]
      const parameters = model.parameters().reduce((sum, { size }) => sum + 4 * size, 0)
      const weights = parameters + layers.reduce((sum, { weight }) => sum + weight.bytes, 0)
      expect(memoryEstimate(model.config, { tokens: 1, quantize })).toMatchObject({ weights, gradients: parameters })
      expect(live - before).toBeLessThan(weights + 256 * layers.length * 3)
      expect(peak - live).toBeLessThan(4 * model.config.vocabSize * model.config.hiddenSize * 1.5)
    }
  })

  test('has the same codes however the model came to be quantised', async () => {
    const quantization = { format: 'int4', block: 8, head: 'int8' } as const
    const expected = headOf(await load(folderOf('qwen2'), { quantize: quantization }))
    const calibration = [[5, 9, 30, 77], [12, 14, 100]].map((ids) => Int32Array.from(ids))
    for (const method of ['rtn', 'gptq', 'awq'] as const) {
      const model = await load(folderOf('qwen2'))
      await quantizeModel(model, { ...quantization, method, calibration })
      expect(await headOf(model).weight.codes.data()).toEqual(await expected.weight.codes.data())
      expect(await headOf(model).weight.scales.data()).toEqual(await expected.weight.scales.data())
      expect(model.quantizationConfig).toMatchObject(quantization)
      expect((await logits(model)).every(Number.isFinite)).toBe(true)
    }
  })
})

describe('a folder', () => {
  test.each([
    ['qwen2', { format: 'nf4', doubleQuant: true, head: 'int8' }, 'anneal', 'float32'], ['qwen2', { format: 'int8', head: 'int8' }, 'anneal', 'bfloat16'],
    ['gpt2', { format: 'int8', head: 'int4', headBlock: 8 }, 'anneal', 'float32'], ['llama2', { format: 'int4', block: 8, head: 'int8' }, 'anneal', 'bfloat16'],
    ['llama2', { format: 'int8', head: 'int8' }, 'gptq', 'float32'], ['llama2', { format: 'nf4', head: 'nf4', headBlock: 32 }, 'bitsandbytes', 'bfloat16'],
    ['gemma3', { format: 'nf4', skipModules: ['*'], head: 'int8' }, 'anneal', 'bfloat16'], ['qwen2', { format: 'nf4', skipModules: ['*'], head: 'int8' }, 'anneal', 'float32'],
  ] as const)('%s %o is the same after writing and reading, as %s in %s', async (family, { ...quantization }, method, dtype) => {
    const quantize = { ...quantization, ...('skipModules' in quantization ? { skipModules: [...quantization.skipModules] } : {}) } as { format: 'nf4' }
    const [model, first, second] = [await load(folderOf(family), { quantize, dtype }), newFolder(), newFolder()]
    await model.savePretrained(first)
    expect(await configOf(first)).toMatchObject({ quant_method: method })
    const again = await load(first, { dtype: 'auto' })
    expect(again.dtype).toBe(dtype)
    expect(again.quantizationConfig).toMatchObject({ head: headOf(model).weight.format })
    for (const part of ['codes', 'scales'] as const) expect(await headOf(again).weight[part].data()).toEqual(await headOf(model).weight[part].data())
    expect(await logits(again)).toEqual(await logits(model))
    expect(again.getInputEmbeddings() instanceof QuantizedEmbedding).toBe(model.config.tieWordEmbeddings)
    const tensors = await readAll(first)
    await again.savePretrained(second)
    expect(await readAll(second)).toEqual(tensors)
  })

  test('says what libraries that read it need to know', async () => {
    const saved = async (family: string, quantize: FromPretrainedOptions['quantize']) => {
      const folder = newFolder()
      await (await load(folderOf(family), { quantize })).savePretrained(folder)
      return { config: await configOf(folder), tensors: await readAll(folder) }
    }
    const tied = await saved('qwen2', { format: 'nf4', head: 'int8' })
    expect(tied.config).toMatchObject({ quant_method: 'anneal', head: { format: 'int8', block: 40, dtype: 'float32' }, layers: { quant_method: 'bitsandbytes', bnb_4bit_quant_type: 'nf4' } })
    // No library takes the codes for numbers: their shape is not the weight's.
    expect(tied.tensors.get('model.embed_tokens.weight')).toMatchObject({ dtype: 'U8', shape: [171 * 40, 1] })
    expect(tied.tensors.get('model.embed_tokens.weight_scale')).toMatchObject({ dtype: 'F32', shape: [171, 1] })
    expect((await saved('llama2', { format: 'int8', head: 'int8' })).config).toMatchObject({ quant_method: 'gptq', lm_head: true })
    expect((await saved('llama2', { format: 'int8' })).config).toMatchObject({ quant_method: 'gptq', lm_head: false })
    expect((await saved('llama2', { format: 'nf4', head: 'nf4', headBlock: 32 })).config).toMatchObject({ llm_int8_skip_modules: [] })
  })

  test('of quantizeFolder() counts and measures the head', async () => {
    const [plain, output] = [newFolder(), newFolder()]
    const before = await quantizeFolder({ model: folderOf('llama3'), output: plain, format: 'nf4' })
    const report = await quantizeFolder({ model: folderOf('llama3'), output, format: 'nf4', head: 'int8' })
    expect(before.head).toBeUndefined()
    expect(report).toMatchObject({ head: 'int8', layers: before.layers + 1, parameters: before.parameters })
    expect(before.byteLength - report.byteLength).toBe(160 * 48 * (2 - 1) - 160 * 4)
    expect(headOf(await load(output)).weight.format).toBe('int8')
  })

  test('that is damaged is refused by the tensor', async () => {
    const folder = newFolder()
    await (await load(folderOf('qwen2'), { quantize: { format: 'nf4', head: 'int8' } })).savePretrained(folder)
    const attempt = (edit: Parameters<typeof edited>[2]) => edited(folder, newFolder(), edit).then((path) => AutoModelForCausalLM.fromPretrained(path))
    await expect(attempt((tensors) => { tensors.delete('model.embed_tokens.weight_scale') })).rejects.toThrow(/no tensor "model\.embed_tokens\.weight_scale" in the checkpoint, whose head config\.json says is quantised/)
    await expect(attempt((tensors) => { tensors.set('model.embed_tokens.weight', { dtype: 'U8', shape: [4, 1], bytes: new Uint8Array(4) }) })).rejects.toThrow(/tensor "model\.embed_tokens\.weight": expected shape \[6840, 1\] for a head of \[171, 40\] in int8, as config\.json says, got \[4, 1\]/)
    await expect(attempt((tensors) => { tensors.set('model.embed_tokens.weight_scale', { dtype: 'I32', shape: [171, 1], bytes: new Uint8Array(684) }) })).rejects.toThrow(FileFormatError)
    await expect(AutoModelForCausalLM.fromPretrained(folder, { quantize: 'nf4' })).rejects.toThrow(/are quantised already, by bitsandbytes/)
  })
})

describe('a head by itself', () => {
  test('is quantised over a checkpoint whose layers are', async () => {
    const folder = newFolder()
    await (await load(folderOf('llama3'), { quantize: 'nf4' })).savePretrained(folder)
    const model = await load(folder)
    await quantizeHead(model, 'int8')
    expect(model.quantizationConfig).toMatchObject({ format: 'nf4', head: 'int8' })
    expect(await logits(model)).toEqual(await logits(await load(folderOf('llama3'), { quantize: { format: 'nf4', head: 'int8' } })))
    await expect(quantizeHead(model, 'int8')).rejects.toThrow(/quantize\.head: lm_head is quantised already, as int8/)
  })

  test('is quantised where no other layer is', async () => {
    const model = await load(folderOf('gpt2'))
    await quantizeHead(model, 'int4', { block: 8 })
    expect(model.quantizationConfig).toMatchObject({ format: 'int4', head: 'int4', headBlock: 8 })
    expect([...quantizedLayers(model).keys()]).toEqual(['lm_head'])
  })
})

describe('dequantizeModel', () => {
  test.each([['gpt2', 'transformer.wte'], ['qwen2', 'model.embed_tokens'], ['llama2', undefined]] as const)('%s has plain layers again, tied as before', async (family, table) => {
    const model = await load(folderOf(family), { quantize: { format: 'int8', head: 'int8' } })
    const before = await logits(model)
    dequantizeModel(model)
    expect(model.quantizationConfig).toBeUndefined()
    expect(quantizedLayers(model).size).toBe(0)
    const [head, embeddings] = [model.lm_head, model.getInputEmbeddings()]
    expect(head).toBeInstanceOf(Linear)
    expect([...model.namedModules()].some(([name, one]) => one instanceof Conv1D && name === 'lm_head')).toBe(false)
    expect(head instanceof Linear && embeddings instanceof Embedding && embeddings.weight === head.weight).toBe(table !== undefined)
    expect(distance(await logits(model), before)).toBeLessThan(2e-6)
    const folder = newFolder()
    await model.savePretrained(folder)
    expect(await logits(await load(folder))).toEqual(await logits(model))
  })
})

describe('refuses', () => {
  const open = (quantize: unknown) => AutoModelForCausalLM.fromPretrained(folderOf('qwen2'), { quantize: quantize as 'nf4' })
  test.each([
    ['an unknown format', { format: 'nf4', head: 'int9' }, /head: .*did you mean "int8"/],
    ['a block without a head', { format: 'nf4', headBlock: 8 }, /quantize\.headBlock: expected head beside it, got none/],
    ['a block that does not divide', { format: 'nf4', head: 'int8', headBlock: 24 }, /quantize\.headBlock: expected a divisor of the 40 numbers in a row of lm_head, got 24/],
    ['blocks that would cross rows', { format: 'nf4', head: 'nf4' }, /quantize\.headBlock: expected a divisor of the 40 numbers in a row of lm_head, got 64; choose another, or head: 'int8'/],
    ['int4 where no usual block divides', { format: 'nf4', head: 'int4' }, /quantize\.headBlock: none of 128, 64, 32, 16 divides the 40 inputs of lm_head; choose a block that does, or head: 'int8'/],
    ['an odd block', { format: 'nf4', head: 'nf4', headBlock: 48 }, /quantize\.headBlock: expected a power of two from 32 to 4096/],
    ['to skip what it is to quantise', { format: 'nf4', head: 'int8', skipModules: ['lm_head'] }, /quantize\.head: skipModules names lm_head/],
  ])('%s', async (_, option, message) => {
    const before = cpu.memory().live
    await expect(open(option)).rejects.toThrow(ConfigError)
    await expect(open(option)).rejects.toThrow(message)
    expect(cpu.memory().live).toBeLessThanOrEqual(before)
  })

  test('to resize the vocabulary', async () => {
    const model = await load(folderOf('qwen2'), { quantize: { format: 'nf4', head: 'int8' } })
    expect(() => { model.resizeTokenEmbeddings(180) }).toThrow(/resizeTokenEmbeddings: the head is quantised; call dequantizeModel\(\) first, or resize the model before/)
  })
})
