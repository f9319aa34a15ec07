// Proves what virtual tokens start from, that they are kept and resumed, and that what does not fit is refused by name.
import { cp, mkdtemp, readFile, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, describe, expect, test } from 'vitest'
import { adapterOf } from '../../src/adapters/adapterSet.ts'
import { addAdapter, deleteAdapter, loadAdapter, loadAdapterWeights, mergeAndUnload, saveAdapter, type AdapterInput } from '../../src/adapters/index.ts'
import { generate, GenerationEngine, PrefixGroup, resolveGenerationConfig } from '../../src/generate/index.ts'
import { AutoModelForCausalLM, KeyValueCache, type CausalLanguageModel } from '../../src/models/index.ts'
import { AdamW } from '../../src/optim/index.ts'
import { autocast, backward, scope, type Tensor } from '../../src/tensor/index.ts'
import { distance, folderOf } from '../models/recorded.ts'

const live: { dispose(): void }[] = []
afterEach(() => { for (const one of live.splice(0)) one.dispose() })

async function base(family = 'llama3', options: Parameters<typeof AutoModelForCausalLM.fromPretrained>[1] = {}): Promise<CausalLanguageModel> {
  const model = await AutoModelForCausalLM.fromPretrained(folderOf(family), options)
  live.push(model)
  return model
}

async function adapted(adapter: AdapterInput, family?: string, options?: Parameters<typeof addAdapter>[2]): Promise<CausalLanguageModel> {
  const model = await base(family)
  await addAdapter(model, adapter, options)
  return model
}

const numbersOf = async (tensor: Tensor): Promise<Float32Array> => Float32Array.from(await tensor.data(), Number)
const valuesOf = async (model: CausalLanguageModel): Promise<Float32Array> => {
  using values = adapterOf(model, 'default').virtualTokens!.snapshot()
  return await numbersOf(values)
}
const temporary = (): Promise<string> => mkdtemp(join(tmpdir(), 'anneal-virtual-'))
const recordedFolder = (name: string): string => join(import.meta.dirname, '../recorded/adapters-virtual', name)

const inputIds = [[5, 9, 30, 40, 50, 60], [7], [33, 22, 44]]
const labels = inputIds
const kinds: [string, AdapterInput][] = [
  ['prefix', { type: 'prefix', numVirtualTokens: 3 }],
  ['projection', { type: 'prefix', numVirtualTokens: 3, prefixProjection: true, encoderHiddenSize: 6 }],
  ['prompt', { type: 'prompt', numVirtualTokens: 3 }],
  ['ptuning', { type: 'ptuning', numVirtualTokens: 3 }],
]

/** Steps of AdamW; the losses before each. */
async function train(model: CausalLanguageModel, optimizer: AdamW, steps: number): Promise<number[]> {
  const losses: number[] = []
  for (let i = 0; i < steps; i++) {
    const loss = scope(() => {
      const { loss } = model.forward({ inputIds, labels })
      backward(loss!)
      return loss!
    })
    losses.push(await loss.item())
    loss.dispose()
    await optimizer.step({ learningRate: 1e-2, maxGradNorm: 0 })
    model.zeroGrad()
  }
  return losses
}

describe.each(kinds)('%s', (name, options) => {
  test('saved and loaded, the model computes the same; the base has nothing of it left', async () => {
    const model = await adapted(options)
    const folder = await temporary()
    await saveAdapter(model, folder, { baseModel: 'base' })
    const expected = await numbersOf(model.forward({ inputIds }).logits!)
    const other = await base()
    expect((await loadAdapter(other, folder)).warnings).toEqual([])
    const loaded = await numbersOf(other.forward({ inputIds }).logits!)
    expect(loaded).toEqual(expected)
    expect(other.parameters().some(({ requiresGrad }) => requiresGrad)).toBe(false)
    deleteAdapter(model, 'default')
    expect(await numbersOf(model.forward({ inputIds }).logits!)).toEqual(await numbersOf((await base()).forward({ inputIds }).logits!))
    expect([...model.namedParameters()].map(([key]) => key)).toEqual([...(await base()).namedParameters()].map(([key]) => key))
  })

  test('an interrupted training goes on from the folder', async () => {
    const model = await adapted(options)
    const optimizer = new AdamW(adapterOf(model, 'default').parameters())
    live.push(optimizer)
    const [first, second, third] = await train(model, optimizer, 3)
    expect(third).toBeLessThan(first!)
    expect(second).not.toBe(first)
    const folder = await temporary()
    await saveAdapter(model, folder)
    const resumed = await adapted(options, undefined, { seed: 1 })
    await loadAdapterWeights(resumed, folder)
    for (const [key, parameter] of adapterOf(model, 'default').parameters()) {
      expect(await numbersOf(adapterOf(resumed, 'default').parameters().get(key)!.tensor), key).toEqual(await numbersOf(parameter.tensor))
    }
    if (name === 'projection' || name === 'ptuning') expect(model.virtualTokens!.parameters().length).toBeGreaterThan(1)
  })

  test('bfloat16: near float32, trained in float32', async () => {
    const model = await adapted(options)
    const half = await base('llama3', { dtype: 'bfloat16' })
    await addAdapter(half, options)
    expect(half.virtualTokens!.parameters().every(({ dtype }) => dtype === 'float32')).toBe(true)
    const expected = await numbersOf(model.forward({ inputIds }).logits!)
    expect(distance(await numbersOf(half.forward({ inputIds }).logits!), expected)).toBeLessThan(0.05)
    const loss = await autocast('bfloat16', () => scope(() => {
      const { loss } = model.forward({ inputIds, labels })
      backward(loss!)
      return loss!
    })).item()
    expect(loss).toBeGreaterThan(0)
    for (const parameter of model.virtualTokens!.parameters()) expect((await numbersOf(parameter.grad!)).every(Number.isFinite)).toBe(true)
  })

  test('hidden states, attentions and log-probabilities have rows of real tokens only', async () => {
    const model = await adapted(options)
    const { hiddenStates, attentions, logits } = model.forward({ inputIds, outputHiddenStates: true, outputAttentions: true })
    const plain = await numbersOf(logits!)
    expect(hiddenStates!.map(({ shape }) => shape)).toEqual(hiddenStates!.map(() => [10, model.config.hiddenSize]))
    for (const layer of attentions!) {
      expect(layer.map(({ shape }) => shape)).toEqual([[3, 6, 9], [3, 1, 4], [3, 3, 6]])
      for (const one of layer) {
        const values = await numbersOf(one)
        const keys = one.dim(2)
        // A real token also looks at the virtual ones, and its weights are a distribution.
        expect(values.subarray(0, keys).reduce((a, b) => a + b, 0)).toBeCloseTo(1, 5)
        expect(values[0]!).toBeGreaterThan(0)
      }
    }
    const { logprob } = model.logprobs({ inputIds })
    const logprobs = await numbersOf(logprob)
    const row = plain.subarray(0, model.config.vocabSize)
    const lse = Math.log(row.reduce((total, one) => total + Math.exp(one), 0))
    expect(logprobs.length).toBe(10)
    expect(logprobs[0]!).toBeCloseTo(row[9]! - lse, 4)
  })

  test('the cache holds them once, and answers may follow in any order', async () => {
    const model = await adapted(options)
    using cache = new KeyValueCache(model.config, { slots: 64 })
    const a = cache.allocate(20)
    const b = cache.allocate(20)
    const whole = await numbersOf(model.forward({ inputIds: [inputIds[0]!, inputIds[2]!] }).logits!)
    const { vocabSize } = model.config
    model.forward({ inputIds: [inputIds[0]!.slice(0, 4)], cache, cacheSequences: [a] })
    expect(a.length).toBe(3 + 4)
    // One sequence goes on while another begins.
    const rest = await numbersOf(model.forward({ inputIds: [inputIds[0]!.slice(4), inputIds[2]!], cache, cacheSequences: [a, b] }).logits!)
    expect([a.length, b.length]).toEqual([3 + 6, 3 + 3])
    expect(distance(rest, whole.subarray(4 * vocabSize))).toBeLessThan(1e-5)
    expect(() => model.forward({ inputIds: [[1, 2, 3]], cache, cacheSequences: [cache.allocate(5)] })).toThrow('6 more do not fit')
  })

  test('generation leaves their room, and engine and cache count it', async () => {
    const model = await adapted(options, 'gpt2')
    const context = model.config.maxPositionEmbeddings
    const prompt = Array.from({ length: context - 6 }, (_, i) => 3 + i)
    const [output] = await generate(model, null, [prompt], { maxNewTokens: 50, doSample: false, eosTokenId: [] })
    expect(output!.tokenIds.length).toBe(3)
    await expect(generate(model, null, [[...prompt, 1, 2, 3]], { maxNewTokens: 1 })).rejects.toThrow(`the model's context holds ${context - 3}`)
    expect(() => model.forward({ inputIds: [Array.from({ length: context - 2 }, () => 5)] })).toThrow(`needs ${context + 1}`)
    using engine = new GenerationEngine(model, { slots: 10 })
    await expect(engine.submit({ promptIds: Int32Array.of(4, 5), config: resolveGenerationConfig({ maxNewTokens: 7 }), seed: 0 })).rejects.toThrow('need 11 slots')
  })

  test('an idle engine follows when the adapter goes', async () => {
    const model = await adapted(options)
    using engine = new GenerationEngine(model, { slots: 40 })
    const submit = async (): Promise<number[]> => {
      const config = resolveGenerationConfig({ maxNewTokens: 6, doSample: false })
      const group = new PrefixGroup()
      const answers = await Promise.all([1, 2].map((seed) => engine.submit({ promptIds: Int32Array.of(5, 9, 30), config, seed, group })))
      expect([...answers[1]!.tokenIds]).toEqual([...answers[0]!.tokenIds])
      return [...answers[0]!.tokenIds]
    }
    await submit()
    deleteAdapter(model, 'default')
    const [expected] = await generate(await base(), null, [[5, 9, 30]], { maxNewTokens: 6, doSample: false, eosTokenId: [] })
    expect(await submit()).toEqual([...expected!.tokenIds])
  })

  test('cannot be merged or saved as a model', async () => {
    const model = await adapted(options)
    expect(() => { mergeAndUnload(model) }).toThrow('cannot be merged')
    await expect(model.savePretrained(await temporary())).rejects.toThrow('saveAdapter()')
  })
})

describe('starts', () => {
  test('from a text, repeated or cut', async () => {
    const ids: Record<string, number[]> = { 'be kind': [5, 6, 7] }
    const encode = (text: string): number[] => ids[text]!
    const table = await numbersOf((await base()).getParameter('model.embed_tokens.weight').tensor)
    const row = (id: number): number[] => Array.from(table.subarray(id * 48, (id + 1) * 48))
    for (const [count, expected] of [[2, [5, 6]], [5, [5, 6, 7, 5, 6]]] as const) {
      const model = await adapted({ type: 'prompt', numVirtualTokens: count, promptTuningInit: 'TEXT', promptTuningInitText: 'be kind' }, 'llama3', { encode })
      expect(Array.from(await valuesOf(model))).toEqual(expected.flatMap(row))
    }
  })

  test('from a text, as Gemma 3 scales its embeddings', async () => {
    const table = await numbersOf((await base('gemma3')).getParameter('model.embed_tokens.weight').tensor)
    const model = await adapted({ type: 'prompt', numVirtualTokens: 1, promptTuningInit: 'TEXT', promptTuningInitText: 'a' }, 'gemma3', { encode: () => [5] })
    expect(Array.from(await valuesOf(model))).toEqual(Array.from(table.subarray(5 * 40, 6 * 40), (x) => Math.fround(x * Math.fround(Math.sqrt(40)))))
  })

  test('from the vocabulary, as the seed says', async () => {
    const options: AdapterInput = { type: 'prompt', numVirtualTokens: 6, promptTuningInit: 'SAMPLE_VOCAB' }
    const table = await numbersOf((await base()).getParameter('model.embed_tokens.weight').tensor)
    const rows = new Set(Array.from({ length: 160 }, (_, id) => table.subarray(id * 48, (id + 1) * 48).join()))
    const drawn = await Promise.all([1, 1, 2].map(async (seed) => valuesOf(await adapted(options, 'llama3', { seed }))))
    for (const values of drawn) for (let i = 0; i < 6; i++) expect(rows.has(values.subarray(i * 48, (i + 1) * 48).join())).toBe(true)
    expect(drawn[0]).toEqual(drawn[1])
    expect(drawn[0]).not.toEqual(drawn[2])
  })

  test('from zeros, or normal with deviation 1', async () => {
    for (const prefixProjection of [false, true]) {
      const values = await valuesOf(await adapted({ type: 'prefix', numVirtualTokens: 3, prefixProjection, initWeights: 'zero' }))
      expect(values.every((value) => value === 0)).toBe(true)
    }
    const values = await valuesOf(await adapted({ type: 'prefix', numVirtualTokens: 40 }))
    const mean = values.reduce((a, b) => a + b, 0) / values.length
    expect(Math.abs(mean)).toBeLessThan(0.1)
    expect(Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length)).toBeCloseTo(1, 1)
  })
})

describe('refused', () => {
  test.each<[string, AdapterInput, Parameters<typeof addAdapter>[2], string]>([
    ['no virtual tokens', { type: 'prefix', numVirtualTokens: 0 }, {}, 'numVirtualTokens'],
    ['a text without tokenizer', { type: 'prompt', promptTuningInit: 'TEXT', promptTuningInitText: 'a' }, {}, 'needs a tokenizer'],
    ['TEXT without a text', { type: 'prompt', promptTuningInit: 'TEXT' }, { encode: () => [1] }, 'promptTuningInitText: expected a text'],
    ['a text without tokens', { type: 'prompt', promptTuningInit: 'TEXT', promptTuningInitText: ' ' }, { encode: () => [] }, 'at least one token'],
    ['tokens of another tokenizer', { type: 'prompt', promptTuningInit: 'TEXT', promptTuningInitText: 'a' }, { encode: () => [999] }, 'gives id 999'],
    ['training an LSTM', { type: 'ptuning', encoderReparameterizationType: 'LSTM' }, {}, 'anneal trains "MLP" only'],
    ["an LSTM's layers", { type: 'ptuning', encoderNumLayers: 3 }, {}, 'encoderNumLayers: expected 2'],
    ["an LSTM's dropout", { type: 'ptuning', encoderDropout: 0.1 }, {}, 'encoderDropout: expected 0'],
  ])('%s', async (_, options, context, message) => {
    const model = await base()
    await expect(addAdapter(model, options, context)).rejects.toThrow(message)
    expect(model.virtualTokens).toBeUndefined()
    expect(model.parameters().every(({ requiresGrad }) => requiresGrad)).toBe(true)
  })

  test('a folder for another model, and one of an encoder and decoder', async () => {
    await expect(loadAdapter(await base('gpt2'), recordedFolder('prefix-llama3'))).rejects.toThrow('"prompt_embeddings": expected shape [5, 160], as the model and adapter_config.json say, got [5, 64]')
    const folder = await temporary()
    await cp(recordedFolder('prefix-llama3'), folder, { recursive: true })
    const path = join(folder, 'adapter_config.json')
    const config = JSON.parse(await readFile(path, 'utf8')) as object
    await writeFile(path, JSON.stringify({ ...config, num_transformer_submodules: 2 }))
    await expect(loadAdapter(await base(), folder)).rejects.toThrow('num_transformer_submodules')
  })

  test('a trained LSTM is loaded: its file holds what it made', async () => {
    const folder = await temporary()
    await cp(recordedFolder('ptuning-llama3'), folder, { recursive: true })
    const path = join(folder, 'adapter_config.json')
    const config = JSON.parse(await readFile(path, 'utf8')) as object
    await writeFile(path, JSON.stringify({ ...config, encoder_reparameterization_type: 'LSTM', encoder_num_layers: 3, encoder_dropout: 0.1 }))
    const [model, plain] = [await base(), await base()]
    await loadAdapter(model, folder)
    await loadAdapter(plain, recordedFolder('ptuning-llama3'))
    expect(await valuesOf(model)).toEqual(await valuesOf(plain))
  })

  test('resuming a projection from a folder without it', async () => {
    const model = await adapted({ type: 'prefix', numVirtualTokens: 5, prefixProjection: true })
    await expect(loadAdapterWeights(model, recordedFolder('projection-llama3'))).rejects.toThrow('prompt_encoder.safetensors')
  })
})
