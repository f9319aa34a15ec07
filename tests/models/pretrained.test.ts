// Proves that models are read from and written to Hugging Face folders: round trips, shards, tied weights, dtypes, old layouts, and errors by tensor name.
import { copyFile, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { ConfigError, FileFormatError } from '../../src/errors.ts'
import { openCheckpoint, writeSafetensors, type SafetensorsDtype } from '../../src/files/index.ts'
import { AutoModelForCausalLM, type CausalLanguageModel } from '../../src/models/index.ts'
import { cpu, Tensor } from '../../src/tensor/index.ts'
import { distance, families, folderOf, recordedOf } from './recorded.ts'

let root: string
beforeAll(async () => { root = await mkdtemp(join(tmpdir(), 'anneal-models-')) })
afterAll(() => rm(root, { recursive: true, force: true }))

const live: { dispose(): void }[] = []
afterEach(() => { for (const one of live.splice(0)) one.dispose() })
const kept = <T extends { dispose(): void }>(one: T): T => { live.push(one); return one }
const load = async (...args: Parameters<typeof AutoModelForCausalLM.fromPretrained>) => kept(await AutoModelForCausalLM.fromPretrained(...args))

let folders = 0
const newFolder = () => join(root, `m${folders++}`)
const inputIds = [[5, 9, 30, 77, 100], [12, 14]]
const logitsOf = async (model: CausalLanguageModel) => await model.forward({ inputIds }).logits!.data()
const stored = async (folder: string) => {
  const weights = await openCheckpoint(folder)
  await weights.close()
  return weights.tensors
}

type Entry = { dtype: SafetensorsDtype, shape: readonly number[], bytes: Uint8Array }

/** A copy of a recorded model with some of its tensors changed. */
async function edited(family: string, edit: (tensors: Map<string, Entry>) => void): Promise<string> {
  const folder = newFolder()
  await mkdir(folder)
  for (const name of ['config.json', 'generation_config.json']) await copyFile(join(folderOf(family), name), join(folder, name))
  const weights = await openCheckpoint(folderOf(family))
  const tensors = new Map<string, Entry>()
  for (const [name, { dtype, shape }] of weights.tensors) tensors.set(name, { dtype, shape, bytes: await weights.readTensorBytes(name) })
  await weights.close()
  edit(tensors)
  await writeSafetensors(join(folder, 'model.safetensors'), [...tensors].map(([name, entry]) => ({ name, ...entry })))
  return folder
}

describe('a model written and read again', () => {
  test.each(families)('%s gives the same bits', async (family) => {
    const model = await load(folderOf(family))
    const folder = newFolder()
    await model.savePretrained(folder)
    expect((await readdir(folder)).sort()).toEqual(['config.json', 'generation_config.json', 'model.safetensors'])
    expect(await logitsOf(await load(folder))).toEqual(await logitsOf(model))
    const [before, after] = [JSON.parse(await readFile(join(folderOf(family), 'config.json'), 'utf8')), JSON.parse(await readFile(join(folder, 'config.json'), 'utf8'))] as Record<string, unknown>[]
    for (const key of Object.keys(before!)) if (key !== 'dtype') expect(after![key], key).toEqual(before![key])
    expect(JSON.parse(await readFile(join(folder, 'generation_config.json'), 'utf8'))).toEqual(JSON.parse(await readFile(join(folderOf(family), 'generation_config.json'), 'utf8')))
  })

  test('in shards', async () => {
    const model = await load(folderOf('llama3'))
    const folder = newFolder()
    await model.savePretrained(folder, { maxShardSize: '40KB' })
    const names = await readdir(folder)
    expect(names.filter((name) => name.endsWith('.safetensors')).length).toBeGreaterThan(3)
    expect(names).toContain('model.safetensors.index.json')
    expect(await logitsOf(await load(folder))).toEqual(await logitsOf(model))
    await model.savePretrained(folder)
    expect((await readdir(folder)).filter((name) => name.includes('safetensors'))).toEqual(['model.safetensors'])
  })

  test('leaves a tied head out', async () => {
    for (const family of ['gpt2', 'llama3', 'qwen2', 'llama2']) {
      const folder = newFolder()
      await (await load(folderOf(family))).savePretrained(folder)
      expect((await stored(folder)).has('lm_head.weight')).toBe(family === 'llama2')
    }
  })

  test('in another dtype', async () => {
    const model = await load(folderOf('llama2'))
    const folder = newFolder()
    await model.savePretrained(folder, { dtype: 'bfloat16' })
    expect(JSON.parse(await readFile(join(folder, 'config.json'), 'utf8'))).toMatchObject({ dtype: 'bfloat16' })
    const auto = await load(folder, { dtype: 'auto' })
    expect(auto.dtype).toBe('bfloat16')
    const wide = await load(folder)
    model.to('bfloat16')
    for (const [name, parameter] of model.namedParameters()) {
      expect(await auto.getParameter(name).tensor.data()).toEqual(await parameter.tensor.data())
      expect(await wide.getParameter(name).tensor.data()).toEqual(await parameter.tensor.data())
    }
  })

  test('in float16, which is read as float32', async () => {
    const model = await load(folderOf('llama2'))
    const folder = newFolder()
    await model.savePretrained(folder, { dtype: 'float16' })
    expect([...(await stored(folder)).values()].every((entry) => entry.dtype === 'F16')).toBe(true)
    const auto = await load(folder, { dtype: 'auto' })
    expect(auto.dtype).toBe('float32')
    expect(distance(await logitsOf(auto) as Float32Array, await logitsOf(model) as Float32Array)).toBeLessThan(2e-3)
    await expect(load(folder, { dtype: 'float16' as never })).rejects.toThrow('dtype: expected float32, bfloat16, float64, auto, got "float16"')
  })

  test('with other values for some parameters', async () => {
    const model = await load(folderOf('llama2'))
    const folder = newFolder()
    await model.savePretrained(folder, { stateDict: new Map([['model.norm.weight', kept(Tensor.full([32], 3))]]) })
    expect(await (await load(folder)).getParameter('model.norm.weight').tensor.toArray()).toEqual(Array(32).fill(3))
    await expect(model.savePretrained(folder, { stateDict: new Map([['model.nrm.weight', kept(Tensor.full([32], 3))]]) })).rejects.toThrow('did you mean "model.norm.weight"?')
    await expect(model.savePretrained(folder, { stateDict: new Map([['model.norm.weight', kept(Tensor.full([31], 3))]]) })).rejects.toThrow('model.norm.weight: expected shape [32], got [31]')
  })
})

describe('reading', () => {
  test('holds the weights and one tensor, no more', async () => {
    const before = cpu.memory().live
    cpu.resetPeakMemory()
    const model = await load(folderOf('llama-rope'), { config: recordedOf('llama-rope').linear!.config })
    const weights = model.numParameters() * 4
    const largest = Math.max(...model.parameters().map((parameter) => parameter.size)) * 2
    // Blocks are rounded up to 64 bytes or so.
    expect(cpu.memory().peak - before).toBeLessThan(weights + largest + 512 * model.parameters().length)
  })

  test('accepts GPT-2 without prefix and with its old buffers', async () => {
    const folder = await edited('gpt2', (tensors) => {
      for (const [name, entry] of [...tensors]) {
        tensors.delete(name)
        tensors.set(name.replace(/^transformer\./, ''), entry)
      }
      tensors.set('h.0.attn.bias', { dtype: 'U8', shape: [1, 1, 2, 2], bytes: new Uint8Array(4) })
      tensors.set('h.0.attn.masked_bias', { dtype: 'F32', shape: [], bytes: new Uint8Array(4) })
      tensors.set('lm_head.weight', { dtype: 'F32', shape: [1], bytes: new Uint8Array(4) })
    })
    expect(await logitsOf(await load(folder))).toEqual(await logitsOf(await load(folderOf('gpt2'))))
  })

  test('keeps generation_config.json', async () => {
    expect((await load(folderOf('llama3'))).generationConfig).toMatchObject({ eos_token_id: [2, 3], max_new_tokens: 24 })
  })

  const remove = (name: string) => (tensors: Map<string, Entry>) => { tensors.delete(name) }
  const set = (name: string, entry: Entry) => (tensors: Map<string, Entry>) => { tensors.set(name, entry) }
  const zeros = (dtype: SafetensorsDtype, shape: number[], bytes: number): Entry => ({ dtype, shape, bytes: new Uint8Array(bytes) })
  test.each([
    ['a missing tensor', remove('model.layers.1.mlp.up_proj.weight'), /no tensor "model\.layers\.1\.mlp\.up_proj\.weight" in the checkpoint, which LlamaForCausalLM needs/],
    ['a missing head', remove('lm_head.weight'), /no tensor "lm_head\.weight"/],
    ['an unknown tensor', set('model.layers.2.mlp.up_proj.weight', zeros('F32', [1], 4)), /tensor "model\.layers\.2\.mlp\.up_proj\.weight": LlamaForCausalLM has no such parameter; did you mean/],
    ['another shape', set('model.norm.weight', zeros('F32', [31], 124)), /tensor "model\.norm\.weight": expected shape \[32\], as config\.json says, got \[31\]/],
    ['another rank', set('model.norm.weight', zeros('F32', [32, 1], 128)), /expected shape \[32\].*got \[32, 1\]/],
    ['quantized numbers', set('model.norm.weight', zeros('I8', [32], 32)), /expected dtype F32, BF16, F16, F64, got I8; quantized/],
    ['a tensor under two names', set('norm.weight', zeros('F32', [32], 128)), /tensor "model\.norm\.weight" is there twice/],
  ] as const)('refuses %s and keeps no memory', async (_, edit, message) => {
    const folder = await edited('llama2', edit)
    const before = cpu.memory().live
    await expect(AutoModelForCausalLM.fromPretrained(folder)).rejects.toThrow(FileFormatError)
    await expect(AutoModelForCausalLM.fromPretrained(folder)).rejects.toThrow(message)
    expect(cpu.memory().live).toBeLessThanOrEqual(before)
  })

  test('refuses a config that says other sizes', async () => {
    await expect(AutoModelForCausalLM.fromPretrained(folderOf('llama2'), { config: { hidden_size: 40 } })).rejects.toThrow(/expected shape \[160, 40\], as config\.json says, got \[160, 32\]/)
    await expect(AutoModelForCausalLM.fromPretrained(folderOf('llama2'), { config: { num_hidden_layers: 3 } })).rejects.toThrow(/no tensor "model\.layers\.2\..* and 8 more in the checkpoint/)
    await expect(AutoModelForCausalLM.fromPretrained(folderOf('llama2'), { config: { num_attention_heads: 5 } })).rejects.toThrow(ConfigError)
  })

  test('refuses a folder without config.json, and a damaged one', async () => {
    await expect(AutoModelForCausalLM.fromPretrained(root)).rejects.toThrow(/config\.json: cannot read/)
    const folder = await edited('llama2', () => undefined)
    await writeFile(join(folder, 'config.json'), '{ "model_type": "llama", }')
    await expect(AutoModelForCausalLM.fromPretrained(folder)).rejects.toThrow(/config\.json:1:26/)
  })
})

describe('a new model', () => {
  const options = { modelType: 'llama', vocabSize: 64, hiddenSize: 32, intermediateSize: 48, numHiddenLayers: 2, numAttentionHeads: 4, numKeyValueHeads: 2, maxPositionEmbeddings: 64 }

  test('is the same for the same seed', async () => {
    const [a, b, c] = [1, 1, 2].map((seed) => kept(AutoModelForCausalLM.fromConfig(options, { seed })))
    const logits = async (model: CausalLanguageModel) => await model.forward({ inputIds: [[1, 2, 3]] }).logits!.data()
    expect(await logits(a!)).toEqual(await logits(b!))
    expect(await logits(a!)).not.toEqual(await logits(c!))
  })

  test('starts as transformers does: normal weights, GPT-2\'s residual projections smaller', async () => {
    const gpt2 = kept(AutoModelForCausalLM.fromConfig({ modelType: 'gpt2', vocabSize: 64, hiddenSize: 64, numHiddenLayers: 8, numAttentionHeads: 4, nPositions: 32 }))
    const deviation = async (name: string) => {
      const values = await gpt2.getParameter(name).tensor.toArray()
      return Math.sqrt(values.reduce((sum, v) => sum + v * v, 0) / values.length)
    }
    expect(await deviation('transformer.h.3.mlp.c_fc.weight')).toBeCloseTo(0.02, 3)
    expect(await deviation('transformer.h.3.mlp.c_proj.weight')).toBeCloseTo(0.02 / 4, 3)
    expect(await deviation('transformer.h.3.attn.c_proj.weight')).toBeCloseTo(0.02 / 4, 3)
  })

  test('is saved with all that transformers needs', async () => {
    const folder = newFolder()
    const model = kept(AutoModelForCausalLM.fromConfig(options))
    await model.savePretrained(folder)
    expect(JSON.parse(await readFile(join(folder, 'config.json'), 'utf8'))).toMatchObject({
      architectures: ['LlamaForCausalLM'], model_type: 'llama', head_dim: 8, num_key_value_heads: 2, rope_theta: 10000, dtype: 'float32', tie_word_embeddings: false,
    })
    expect(await (await load(folder)).forward({ inputIds: [[1, 2]] }).logits!.data()).toEqual(await model.forward({ inputIds: [[1, 2]] }).logits!.data())
  })
})
