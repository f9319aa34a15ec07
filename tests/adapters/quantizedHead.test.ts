// Proves that adapters train over a quantised head as over the same numbers in full, with every loss that takes the output layer, and what they refuse.
import { describe, expect, test } from 'vitest'
import { addAdapter, mergeAndUnload, type AdapterInput } from '../../src/adapters/index.ts'
import { ConfigError } from '../../src/errors.ts'
import { distillationLoss, type DistillBatch, type LossOptions } from '../../src/methods/distillation/loss.ts'
import { AutoModelForCausalLM, dequantizeModel, type CausalLanguageModel, type QuantizeOption } from '../../src/models/index.ts'
import { chosenLogprobs } from '../../src/models/valueHead.ts'
import { Linear, QuantizedEmbedding, QuantizedLinear } from '../../src/nn/index.ts'
import { add, sum } from '../../src/ops/index.ts'
import { backward, cpu, noGrad, scope, type Tensor } from '../../src/tensor/index.ts'
import { distance, folderOf } from '../models/recorded.ts'
import { workplace } from '../quantization/folders.ts'
import { lossesOf, rows, runToEnd, tinyTrainer } from '../train/support.ts'

const { kept, newFolder } = workplace()
const quantize: QuantizeOption = { format: 'nf4', head: 'int8' }
const lora: AdapterInput = { type: 'lora', r: 4, targetModules: 'all-linear', initLoraWeights: false }
/** A teacher's. */
const other: AdapterInput = { type: 'lora', r: 2, targetModules: ['v_proj', 'down_proj'], initLoraWeights: false }
const inputIds = [[5, 9, 30, 77, 100], [12, 14, 3]]
const flat = inputIds.flat()
const cuSeqlens = Int32Array.from([0, 5, 8])

interface Choice { family?: string, dtype?: 'float32' | 'bfloat16', adapter?: AdapterInput | undefined, quantization?: QuantizeOption }
async function load({ family = 'qwen2', dtype = 'float32', adapter = lora, quantization = quantize }: Choice = {}, inFull = false): Promise<CausalLanguageModel> {
  const model = kept(await AutoModelForCausalLM.fromPretrained(folderOf(family), { quantize: quantization, dtype }))
  if (inFull) dequantizeModel(model)
  await addAdapter(model, adapter)
  return model
}

const distill: LossOptions = {
  objective: 'divergence', beta: 0.5, temperature: 1.5, scaleByTemperature: true, alpha: 0.3, tail: 'bucket', rklAdvantage: false, singleStepDecomposition: false, vocabulary: 160, gamma: 0, lengthNormalization: false,
  hiddenLayers: [], hiddenWeight: 0, hiddenLoss: 'mse', attentionLayers: [], attentionWeight: 0,
}
const batch = (): DistillBatch => ({ inputIds: Int32Array.from(flat), labels: Int32Array.from(flat, (id, i) => cuSeqlens.includes(i) ? -100 : id), cuSeqlens, numItems: 6 }) as unknown as DistillBatch

/** Losses that take the output layer in chunks. */
const losses: Record<string, (model: CausalLanguageModel, teacher: CausalLanguageModel) => Tensor> = {
  'cross-entropy': (model) => model.forward({ inputIds, labels: inputIds, labelSmoothing: 0.1 }).loss!,
  'log-probabilities and entropy': (model) => {
    const { logprob, entropy } = model.logprobs({ inputIds, temperature: 0.8 })
    return add(sum(logprob), sum(entropy))
  },
  'chosen log-probabilities': (model) => sum(chosenLogprobs(model, model.base({ inputIds }).lastHiddenState, { policyRows: Int32Array.from([1, 3, 6]), nextIds: Int32Array.from([7, 8, 9]), temperature: 1 }).logprob),
  logits: (model) => sum(model.forward({ inputIds }).logits!),
  'distillation': (model, teacher) => distillationLoss({ student: model, teacher, projections: [] }, batch(), 6, distill).loss,
  'distillation from recorded tokens': (model) => distillationLoss({ student: model, teacher: undefined, projections: [] }, {
    ...batch(), recorded: [5, 3].map((length) => ({ ids: Int32Array.from({ length: 2 * (length - 1) }, (_, i) => i), logprobs: new Float32Array(2 * (length - 1)).fill(Math.log(0.4)), topK: 2 })),
  }, 6, distill).loss,
}

async function gradients(model: CausalLanguageModel, teacher: CausalLanguageModel, loss: (model: CausalLanguageModel, teacher: CausalLanguageModel) => Tensor): Promise<{ loss: number, gradients: Map<string, Float32Array> }> {
  const value = scope(() => {
    const result = loss(model, teacher)
    backward(result)
    return result
  })
  const all = new Map<string, Float32Array>()
  for (const [name, parameter] of model.namedParameters()) if (parameter.requiresGrad && parameter.grad) all.set(name.replace('.base_layer', ''), await parameter.grad.data() as Float32Array)
  return { loss: await kept(value).item(), gradients: all }
}

describe('gradients through a quantised head are those through its numbers', () => {
  test.each(Object.keys(losses).flatMap((name) => [['qwen2', name], ['llama2', name]] as const))('%s: %s', async (family, name) => {
    const [own, plain] = [await load({ family }), await load({ family }, true)]
    const [teacher, plainTeacher] = [await load({ family, adapter: other }), await load({ family, adapter: other }, true)]
    const [actual, expected] = [await gradients(own, teacher, losses[name]!), await gradients(plain, plainTeacher, losses[name]!)]
    expect(Math.abs(actual.loss - expected.loss)).toBeLessThan(1e-5 * Math.max(1, Math.abs(expected.loss)))
    expect([...actual.gradients.keys()].sort()).toEqual([...expected.gradients.keys()].sort())
    expect(actual.gradients.size).toBeGreaterThan(10)
    const largest = Math.max(...[...expected.gradients.values()].map((one) => Math.max(...one.map(Math.abs))))
    for (const [parameter, values] of expected.gradients) {
      const difference = Math.max(...values.map((value, i) => Math.abs(value - actual.gradients.get(parameter)![i]!)))
      expect(difference / largest, parameter).toBeLessThan(2e-5)
    }
  })

  test('and finite differences', async () => {
    const model = await load({ family: 'llama3' })
    const loss = losses['cross-entropy']!
    const { gradients: all } = await gradients(model, model, loss)
    const [name, gradient] = [...all].find(([one]) => one.includes('q_proj') && one.includes('lora_B'))!
    const parameter = [...model.namedParameters()].find(([one]) => one.replace('.base_layer', '') === name)![1]
    const values = await parameter.tensor.data() as Float32Array
    const direction = values.map((_, i) => Math.sin(i + 1))
    const along = async (step: number): Promise<number> => {
      parameter.tensor.copy_(values.map((value, i) => value + step * direction[i]!))
      return await kept(noGrad(() => loss(model, model))).item()
    }
    const numeric = (await along(0.02) - await along(-0.02)) / 0.04
    const exact = gradient.reduce((total, value, i) => total + value * direction[i]!, 0)
    expect(Math.abs(numeric - exact)).toBeLessThan(0.01 * Math.abs(exact) + 1e-5)
  })
})

describe('QLoRA', () => {
  test.each([['float32', 1e-4], ['bfloat16', 3e-2]] as const)('in %s learns over a quantised head as over its numbers, and leaves the codes alone', async (dtype, tolerance) => {
    const run = async (inFull: boolean): Promise<number[]> => {
      const model = await load({ dtype, adapter: { ...lora, initLoraWeights: true } }, inFull)
      const codes = model.lm_head instanceof QuantizedLinear ? await model.lm_head.weight.codes.data() : undefined
      const trainer = kept(tinyTrainer({ model, outputDir: newFolder(), rows: rows(8), maxSteps: 5, bf16: false, gradientCheckpointing: true, optim: 'adamw_8bit', adamEpsilon: 1e-3 }))
      const result = lossesOf(await runToEnd(trainer))
      if (model.lm_head instanceof QuantizedLinear) expect(await model.lm_head.weight.codes.data()).toEqual(codes)
      return result
    }
    const [own, plain] = [await run(false), await run(true)]
    expect(own.at(-1)).toBeLessThan(own[0]!)
    own.forEach((loss, step) => { expect(Math.abs(loss - plain[step]!)).toBeLessThan(tolerance) })
  })

  test('has the head in full only while a loss is computed', async () => {
    const model = await load({ dtype: 'bfloat16' })
    await gradients(model, model, losses['cross-entropy']!)
    model.zeroGrad()
    const before = cpu.memory().live
    await gradients(model, model, losses['cross-entropy']!)
    model.zeroGrad()
    expect(cpu.memory().live - before).toBeLessThan(171 * 40 * 2)
  })
})

describe('LoRA on the head', () => {
  const onHead: AdapterInput = { type: 'lora', r: 4, targetModules: ['lm_head', 'q_proj'], initLoraWeights: false }
  const logits = async (model: CausalLanguageModel) => await model.forward({ inputIds }).logits!.data() as Float32Array

  test.each([['qwen2', 'dequantize'], ['gpt2', 'dequantize'], ['llama2', 'dequantize'], ['llama2', 'requantize']] as const)('of %s is the same merged: %s', async (family, quantized) => {
    const adapter = family === 'gpt2' ? { ...onHead, targetModules: ['lm_head', 'c_attn'] } : onHead
    const model = await load({ family, adapter })
    const beside = await logits(model)
    expect(distance(beside, await logits(await load({ family, adapter }, true)))).toBeLessThan(2e-6)
    mergeAndUnload(model, { quantized })
    expect(distance(await logits(model), beside)).toBeLessThan(quantized === 'dequantize' ? 1e-5 : 0.2)
    if (quantized === 'requantize') return
    expect(model.lm_head).toBeInstanceOf(Linear)
    expect(model.quantizationConfig).toBeUndefined()
    expect(model.config.tieWordEmbeddings).toBe(false)
    const folder = newFolder()
    await model.savePretrained(folder)
    expect(await logits(kept(await AutoModelForCausalLM.fromPretrained(folder)))).toEqual(await logits(model))
  })

  test('is not rounded into a weight that the embeddings share', async () => {
    const model = await load({ adapter: onHead })
    const before = await logits(model)
    expect(() => { mergeAndUnload(model, { quantized: 'requantize' }) }).toThrow(/the embeddings share the quantised weight of lm_head.*use "dequantize", which gives each a weight of its own/)
    expect(await logits(model)).toEqual(before)
  })
})

describe('refuses', () => {
  test.each<[string, AdapterInput, RegExp, string?]>([
    ['LoRA of the embeddings', { type: 'lora', targetModules: ['embed_tokens'] }, /targetModules: model\.embed_tokens shares the head's quantised weight/],
    ['IA3 of the embeddings', { type: 'ia3', targetModules: ['embed_tokens'], feedforwardModules: ['down_proj'] }, /IA³ scales linear layers, but model\.embed_tokens is an embedding/],
    ['rows of the embeddings', { type: 'lora', targetModules: ['q_proj'], trainableTokenIndices: [5] }, /trainableTokenIndices: model\.embed_tokens is quantised, so that none of its rows can be trained; leave head out of quantize/],
    ['rows of the head', { type: 'lora', targetModules: ['q_proj'], trainableTokenIndices: { lm_head: [5] } }, /trainableTokenIndices: lm_head is quantised/, 'llama2'],
    ['the head whole', { type: 'lora', targetModules: ['q_proj'], modulesToSave: ['lm_head'] }, /modulesToSave: lm_head is quantised, and quantised weights are not trained themselves; leave it out, or leave head out of quantize/],
    ['the embeddings whole', { type: 'lora', targetModules: ['q_proj'], modulesToSave: ['embed_tokens'] }, /modulesToSave: model\.embed_tokens is quantised/],
    ['a layer whole', { type: 'lora', targetModules: ['q_proj'], modulesToSave: ['down_proj'] }, /modulesToSave: model\.layers\.0\.mlp\.down_proj is quantised.*name it in skipModules/],
  ])('%s', async (_, adapter, message, family = 'qwen2') => {
    const model = kept(await AutoModelForCausalLM.fromPretrained(folderOf(family), { quantize }))
    await expect(addAdapter(model, adapter)).rejects.toThrow(ConfigError)
    await expect(addAdapter(model, adapter)).rejects.toThrow(message)
    expect(model.lm_head).toBeInstanceOf(QuantizedLinear)
  })

  test('none of what leaves the head alone', async () => {
    const model = kept(await AutoModelForCausalLM.fromPretrained(folderOf('llama2'), { quantize }))
    await addAdapter(model, { type: 'lora', r: 2, targetModules: ['q_proj', 'embed_tokens'] })
    expect(model.getInputEmbeddings()).not.toBeInstanceOf(QuantizedEmbedding)
    const prompt = kept(await AutoModelForCausalLM.fromPretrained(folderOf('qwen2'), { quantize }))
    await addAdapter(prompt, { type: 'prompt', numVirtualTokens: 3, promptTuningInit: 'SAMPLE_VOCAB' })
    expect((await prompt.forward({ inputIds }).logits!.toArray()).every(Number.isFinite)).toBe(true)
  })
})
