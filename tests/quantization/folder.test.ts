// Proves that quantizeFolder writes a folder that is read again, with its tokenizer, and reports its size and its perplexity before and after.
import { readFileSync } from 'node:fs'
import { access } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { perplexityOfFiles } from '../../src/eval/index.ts'
import { AutoModelForCausalLM, quantizedLayers } from '../../src/models/index.ts'
import { quantizeFolder } from '../../src/quantization/index.ts'
import { Tokenizer } from '../../src/tokenizers/index.ts'
import { readAll, workplace } from './folders.ts'

const { kept, newFolder } = workplace()
const corpus = fileURLToPath(new URL('../recorded/tokenizers/corpus.txt', import.meta.url))

async function folder(): Promise<string> {
  const tokenizer = Tokenizer.fromJSON(readFileSync(new URL('../recorded/tokenizers/gpt2.tokenizer.json', import.meta.url), 'utf8'))
  const model = kept(AutoModelForCausalLM.fromConfig({ modelType: 'llama', vocabSize: tokenizer.vocabSize, hiddenSize: 64, intermediateSize: 128, numHiddenLayers: 2, numAttentionHeads: 4, numKeyValueHeads: 2, maxPositionEmbeddings: 128 }, { seed: 7 }))
  const path = newFolder()
  await model.savePretrained(path)
  await tokenizer.savePretrained(path)
  return path
}
const perplexityOf = async (path: string): Promise<number> =>
  (await perplexityOfFiles(kept(await AutoModelForCausalLM.fromPretrained(path)), await Tokenizer.fromPretrained(path), corpus, { maxLength: 64 })).perplexity

test('rounding, GPTQ and AWQ', async () => {
  const model = await folder()
  const before = await perplexityOf(model)
  for (const [method, format, bits] of [['rtn', 'nf4', 4.5], ['gptq', 'int4', 4.625], ['awq', 'nf4', 4.5]] as const) {
    const output = newFolder()
    const report = await quantizeFolder({ model, output, method, format, ...(format === 'int4' ? { block: 32 } : {}), calibrationFiles: corpus, calibrationSamples: 8, calibrationLength: 64, evalFile: corpus, maxLength: 64 })
    expect(report).toMatchObject({ output, method, format, layers: 14, bitsPerWeight: bits })
    expect(report.perplexity!.before).toBeCloseTo(before, 6)
    expect(report.perplexity!.after).not.toBe(report.perplexity!.before)
    expect(report.perplexity!.after / await perplexityOf(output)).toBeCloseTo(1, 6)
    const bytes = [...await readAll(output)].reduce((sum, [, entry]) => sum + entry.bytes.length, 0)
    expect(Math.abs(bytes / report.byteLength - 1)).toBeLessThan(0.2)
  }
})

test('a folder without a tokenizer is rounded all the same, with double quantisation', async () => {
  const source = newFolder()
  await kept(AutoModelForCausalLM.fromConfig({ modelType: 'llama', vocabSize: 64, hiddenSize: 128, intermediateSize: 512, numHiddenLayers: 2, numAttentionHeads: 4, numKeyValueHeads: 4 })).savePretrained(source)
  const output = newFolder()
  const report = await quantizeFolder({ model: source, output, format: 'nf4', doubleQuant: true })
  expect(report.bitsPerWeight).toBeCloseTo(4.127, 2)
  expect(report.perplexity).toBeUndefined()
  expect(quantizedLayers(kept(await AutoModelForCausalLM.fromPretrained(output))).size).toBe(14)
  await expect(access(join(output, 'tokenizer.json'))).rejects.toThrow()
})

test('refuses its own folder, calibration without text, and a quantised model', async () => {
  const model = await folder()
  await expect(quantizeFolder({ model, output: join(model, '.'), format: 'nf4' })).rejects.toThrow(/output: expected another folder/)
  await expect(quantizeFolder({ model, output: newFolder(), format: 'int4', block: 32, method: 'gptq' })).rejects.toThrow(/calibrationFiles: expected text, which gptq needs/)
  const output = newFolder()
  await quantizeFolder({ model, output, format: 'nf4' })
  await expect(quantizeFolder({ model: output, output: newFolder(), format: 'int8' })).rejects.toThrow(/quantised already, by bitsandbytes/)
  await expect(quantizeFolder({ model: output, output: newFolder(), format: 'int8', evalFile: corpus })).rejects.toThrow(/quantised already, as nf4/)
})
