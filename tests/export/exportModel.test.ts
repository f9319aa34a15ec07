// Proves that an export is compared with its source: agreement and KL are right, and what differs too much is an error.
import { cpSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { arrange } from '../../src/export/gguf/arrange.ts'
import { compareLogits, exportModel, heldOutLogits, loadGguf } from '../../src/export/index.ts'
import { AutoModelForCausalLM } from '../../src/models/index.ts'
import { Tokenizer } from '../../src/tokenizers/index.ts'
import { recordedModel, recordedTokenizer } from './fixtures.ts'
import { temporaryFolder } from './folder.ts'

const folder = temporaryFolder()

async function sourceFolder(family = 'qwen2', name = 'qwen2'): Promise<string> {
  const source = join(folder, `source-${family}`)
  if (existsSync(source)) return source
  const tokenizer = recordedTokenizer(name)
  const model = await recordedModel(family, tokenizer)
  await model.savePretrained(source)
  await tokenizer.savePretrained(source)
  model.dispose()
  return source
}

test('KL and agreement are those of the distributions', () => {
  const logits = (rows: number[][]) => ({ tokens: rows.length, vocabSize: 2, rows: rows.map((row) => Float32Array.from(row)) })
  const even = [0, 0]
  const skew = [Math.log(3), 0]
  const same = compareLogits(logits([skew, even]), logits([skew, even]))
  expect(same).toEqual({ tokens: 2, top1: 1, kl: 0, largestKl: 0 })
  // KL((1/2, 1/2) || (3/4, 1/4)) = log(2/3)/2 + log(2)/2.
  const other = compareLogits(logits([even, even]), logits([[0, Math.log(3)], even]))
  expect(other.largestKl).toBeCloseTo(Math.log(2 / 3) / 2 + Math.log(2) / 2, 6)
  expect(other.kl).toBeCloseTo(other.largestKl / 2, 9)
  expect(other.top1).toBe(0.5)
  expect(compareLogits(logits([even]), logits([[NaN, 0]])).kl).toBeNaN()
  expect(() => compareLogits(logits([even]), logits([even, even]))).toThrow(/compare: expected 1 rows/)
})

test('a GGUF file and a Hugging Face folder agree with the source', async () => {
  const model = await sourceFolder()
  for (const type of ['f32', 'bf16', 'q8_0'] as const) {
    const report = await exportModel({ model, output: join(folder, `model-${type}.gguf`), type, evalTokens: 100 })
    expect(report).toMatchObject({ sameTokens: true, agreement: { tokens: 100 } })
    expect(report.agreement!.kl).toBeLessThan(1e-3)
    if (type === 'f32') expect(report.agreement).toEqual({ tokens: 100, top1: 1, kl: 0, largestKl: 0 })
  }
  const output = join(folder, 'hf')
  const report = await exportModel({ model, output, format: 'huggingface', type: 'bf16', evalTokens: 100 })
  expect(report).toMatchObject({ sameTokens: true, warnings: [] })
  expect(report.bitsPerWeight).toBeGreaterThan(16)
  expect((await AutoModelForCausalLM.fromPretrained(output, { dtype: 'auto' })).dtype).toBe('bfloat16')
  expect((await Tokenizer.fromPretrained(output)).vocabSize).toBe(recordedTokenizer('qwen2').vocabSize)
})

test('a text of one\'s own is compared on, and no comparison is made where none is wanted', async () => {
  const model = await sourceFolder()
  const evalFile = join(folder, 'text.txt')
  writeFileSync(evalFile, 'The quick brown fox.')
  const own = await exportModel({ model, output: join(folder, 'own.gguf'), evalFile })
  expect(own.agreement!.tokens).toBe(recordedTokenizer('qwen2').encode('The quick brown fox.').length)
  expect(await exportModel({ model, output: join(folder, 'own.gguf'), verify: false })).toMatchObject({ agreement: undefined, sameTokens: undefined })
  writeFileSync(evalFile, '')
  await expect(exportModel({ model, output: join(folder, 'own.gguf'), evalFile })).rejects.toThrow(/at least one token/)
})

test('too little agreement is an error', async () => {
  const model = await sourceFolder('qwen3')
  const output = join(folder, 'poor.gguf')
  await expect(exportModel({ model, output, type: 'q4_0', minAgreement: 1 })).rejects.toThrow(/expected the same most likely token as the source after 100\.0 % of 256 tokens.*do not use it/)
  await expect(exportModel({ model, output, type: 'q4_0' })).resolves.toBeDefined()
})

test('a file whose rows of queries were not interleaved would disagree', async () => {
  const tokenizer = recordedTokenizer('llama2')
  const output = join(folder, 'right.gguf')
  await exportModel({ model: await sourceFolder('llama2', 'llama2'), output, type: 'f32' })
  const [right, wrong] = [(await loadGguf(output)).model, (await loadGguf(output)).model]
  const query = wrong.getParameter('model.layers.0.self_attn.q_proj.weight')
  query.tensor.copy_(arrange(Float32Array.from(await query.tensor.data(), Number), query.shape[0]!, { kind: 'heads', headDim: wrong.config.headDim }))
  const ids = tokenizer.encode('It was the best of times, it was the worst of times.')
  expect(compareLogits(await heldOutLogits(right, ids), await heldOutLogits(wrong, ids)).kl).toBeGreaterThan(1e-3)
  right.dispose()
  wrong.dispose()
})

test('adapters, folders in the way and impossible types are refused', async () => {
  const model = await sourceFolder()
  const adapter = join(folder, 'adapter')
  mkdirSync(adapter)
  cpSync(join(model, 'tokenizer.json'), join(adapter, 'tokenizer.json'))
  writeFileSync(join(adapter, 'adapter_config.json'), '{}')
  await expect(exportModel({ model: adapter, output: join(folder, 'a.gguf') })).rejects.toThrow(/got an adapter; merge it into its base model first/)
  await expect(exportModel({ model, output: folder })).rejects.toThrow(/output: expected a file such as .*model-bf16\.gguf, got the folder/)
  await expect(exportModel({ model, output: join(folder, 'x'), format: 'huggingface', type: 'q8_0' })).rejects.toThrow(/expected f32, f16 or bf16/)
  await expect(exportModel({ model, output: join(folder, 'a.gguf'), type: 'q8' as never })).rejects.toThrow(/type/)
  const gemma = await recordedModel('gemma3', recordedTokenizer('qwen2'))
  await gemma.savePretrained(join(folder, 'gemma3'))
  gemma.dispose()
  await recordedTokenizer('qwen2').savePretrained(join(folder, 'gemma3'))
  await expect(exportModel({ model: join(folder, 'gemma3'), output: join(folder, 'a.gguf') })).rejects.toThrow(/model_type: expected gpt2, llama, .*got "gemma3_text"; export a Hugging Face folder instead/)
  expect(readFileSync(join(model, 'config.json')).length).toBeGreaterThan(0)
})
