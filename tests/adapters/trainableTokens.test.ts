// Proves what trained token rows do beside what PEFT's recorded numbers show: in bfloat16, several at once, off, merged where tied, and what is refused.
import { mkdtemp, readFile, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, expect, test } from 'vitest'
import { adapterOf } from '../../src/adapters/adapterSet.ts'
import { addAdapter, deleteAdapter, loadAdapter, mergeAndUnload, saveAdapter, setAdapter, withoutAdapters, type AdapterInput } from '../../src/adapters/index.ts'
import { ConfigError, FileFormatError } from '../../src/errors.ts'
import { AutoModelForCausalLM, type CausalLanguageModel } from '../../src/models/index.ts'
import { backward, cpu } from '../../src/tensor/index.ts'
import { distance, folderOf } from '../models/recorded.ts'

const live: { dispose(): void }[] = []
afterEach(() => { for (const one of live.splice(0)) one.dispose() })
const open = async (family: string, dtype: 'float32' | 'bfloat16' = 'float32'): Promise<CausalLanguageModel> => {
  const model = await AutoModelForCausalLM.fromPretrained(folderOf(family), { dtype })
  live.push(model)
  return model
}
const inputIds = [[5, 9, 30, 77, 100], [12, 14, 9]]
const logitsOf = async (model: CausalLanguageModel) => await model.forward({ inputIds }).logits!.data() as Float32Array
const tokens = (trainableTokenIndices: number[] | Record<string, number[]>): AdapterInput => ({ type: 'lora', r: 2, trainableTokenIndices })

function shift(model: CausalLanguageModel, name: string): void {
  for (const [key, { tensor }] of adapterOf(model, name).parameters()) {
    if (key.includes('token_adapter')) tensor.copy_(Float32Array.from({ length: tensor.size }, (_, i) => Math.cos(i + name.length)))
  }
}

test.each(['llama2', 'qwen2', 'gpt2'])('%s: rows start as they are, and are merged, tied or not', async (family) => {
  const model = await open(family)
  const before = await logitsOf(model)
  await addAdapter(model, tokens([9, 100]))
  expect(distance(await logitsOf(model), before)).toBeLessThan(1e-6)
  shift(model, 'default')
  const tuned = await logitsOf(model)
  expect(distance(tuned, before)).toBeGreaterThan(1e-2)
  expect(await withoutAdapters(model, () => model.forward({ inputIds }).logits!.data())).toEqual(before)
  const parts = model.logprobs({ inputIds })
  mergeAndUnload(model)
  expect(distance(await logitsOf(model), tuned)).toBeLessThan(1e-6)
  expect(distance(await model.logprobs({ inputIds }).logprob.data() as Float32Array, await parts.logprob.data() as Float32Array)).toBeLessThan(1e-5)
})

test('two adapters train different tokens of one table, and the last one out leaves the model as it was', async () => {
  const model = await open('qwen2')
  const before = await logitsOf(model)
  await addAdapter(model, tokens([9]), { name: 'a' })
  await addAdapter(model, tokens([30]), { name: 'bc' })
  shift(model, 'a')
  shift(model, 'bc')
  setAdapter(model, ['a', 'bc'])
  const both = await logitsOf(model)
  setAdapter(model, 'a')
  expect(distance(await logitsOf(model), both)).toBeGreaterThan(1e-2)
  await addAdapter(model, tokens([30, 9]), { name: 'c' })
  expect(() => { setAdapter(model, ['a', 'c']) }).toThrow(/token 9 of model\.embed_tokens is trained by two active adapters/)
  for (const name of ['a', 'bc', 'c']) deleteAdapter(model, name)
  expect(await logitsOf(model)).toEqual(before)
})

test.each(['llama2', 'qwen2'])('%s in bfloat16: gradients are near those of float32', async (family) => {
  const gradients = await Promise.all((['float32', 'bfloat16'] as const).map(async (dtype) => {
    const model = await open(family, dtype)
    await addAdapter(model, tokens([9, 100]))
    shift(model, 'default')
    backward(model.forward({ inputIds, labels: inputIds }).loss!)
    const parameter = [...adapterOf(model, 'default').parameters()].find(([key]) => key.includes('token_adapter'))![1]
    expect(parameter.dtype).toBe('float32')
    return await parameter.grad!.data() as Float32Array
  }))
  expect(distance(gradients[1]!, [...gradients[0]!])).toBeLessThan(0.05)
})

test.each([
  ['an id beyond the table', tokens([5, 9999]), /trainableTokenIndices: expected ids below \d+, the rows of model\.embed_tokens, got 9999; call resizeTokenEmbeddings/],
  ['an id twice', tokens([5, 7, 5]), /expected ids of model\.embed_tokens, each once, got 5 twice/],
  ['no such layer', tokens({ embed_token: [5] }), /no embedding or output layer "embed_token"; did you mean "embed_tokens"/],
  ['a table with LoRA', { type: 'lora', r: 2, targetModules: ['embed_tokens'], trainableTokenIndices: [5] }, /model\.embed_tokens takes a LoRA update already/],
  ['a norm that is not there', { type: 'lntuning', targetModules: ['input_layer_norm'] }, /matches no norm of the model; did you mean "input_layernorm"\?; it has input_layernorm, post_attention_layernorm, norm/],
] as const)('%s is refused, and the model stays as it was', async (_, options, message) => {
  const model = await open('llama2')
  const before = cpu.memory().live
  await expect(addAdapter(model, options as AdapterInput)).rejects.toThrow(ConfigError)
  await expect(addAdapter(model, options as AdapterInput)).rejects.toThrow(message)
  expect(cpu.memory().live).toBeLessThanOrEqual(before)
  expect(model.parameters().every(({ requiresGrad }) => requiresGrad)).toBe(true)
})

test('a file of other rows, and kinds that anneal lacks, are refused by name', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'anneal-tokens-'))
  const model = await open('llama2')
  await addAdapter(model, tokens([5, 9]))
  await saveAdapter(model, folder)
  deleteAdapter(model, 'default')
  const path = join(folder, 'adapter_config.json')
  const config = JSON.parse(await readFile(path, 'utf8')) as object
  expect(config).toMatchObject({ trainable_token_indices: [5, 9] })
  await writeFile(path, JSON.stringify({ ...config, trainable_token_indices: [5] }))
  await expect(loadAdapter(model, folder)).rejects.toThrow(/embed_tokens\.token_adapter\.trainable_tokens_delta": expected shape \[1, \d+\], .*got \[2, \d+\]/)
  for (const type of ['ADAPTION_PROMPT', 'TRAINABLE_TOKENS']) {
    await writeFile(path, JSON.stringify({ ...config, peft_type: type }))
    await expect(loadAdapter(model, folder)).rejects.toThrow(FileFormatError)
    await expect(loadAdapter(model, folder)).rejects.toThrow(new RegExp(`peft_type: expected LORA, .*got "${type}"`))
  }
})
