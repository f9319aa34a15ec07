// Proves that losses are weighted by tokens whatever the batches, and that windows and sizes of text are counted as they should.
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { memoryDataset, type Example } from '../../src/data/index.ts'
import { evaluateLoss, perplexity, perplexityOfFiles } from '../../src/eval/index.ts'
import { slidingWindows } from '../../src/eval/windows.ts'
import { AutoModelForCausalLM, type CausalLanguageModel } from '../../src/models/index.ts'
import type { Tokenizer } from '../../src/tokenizers/index.ts'
import { recorded, textModel } from '../generate/support.ts'
import { folderOf, recordedOf } from '../models/recorded.ts'

let llama: CausalLanguageModel
let model: CausalLanguageModel
let tokenizer: Tokenizer
let folder: string
beforeAll(async () => {
  llama = await AutoModelForCausalLM.fromPretrained(folderOf('llama2'))
  ;({ model, tokenizer } = await textModel())
  folder = await mkdtemp(join(tmpdir(), 'anneal-eval-'))
})
afterAll(async () => {
  llama.dispose()
  model.dispose()
  await rm(folder, { recursive: true })
})

const { inputIds, labels, loss } = recordedOf('llama2').default!
const example = (ids: number[], own: number[], sequenceLengths?: number[]): Example => ({ inputIds: Int32Array.from(ids), labels: Int32Array.from(own), ...(sequenceLengths ? { sequenceLengths } : {}) })

describe('evaluateLoss', () => {
  const separate = memoryDataset(inputIds.map((ids, i) => example(ids, labels[i]!)))

  test('is transformers\' loss, in one batch or many, packed or not', async () => {
    const packed = memoryDataset([example(inputIds.flat(), labels.flat(), inputIds.map((ids) => ids.length))])
    const whole = await evaluateLoss(llama, separate)
    expect(Math.abs(whole.loss / loss - 1)).toBeLessThan(1e-5)
    expect(whole.perplexity).toBeCloseTo(Math.exp(loss), 2)
    expect(whole.tokens).toBe(labels.flatMap((row) => row.slice(1)).filter((label) => label !== -100).length)
    for (const [dataset, maxTokensPerBatch] of [[separate, 1], [separate, 21], [packed, 2048], [packed, 7]] as const) {
      const other = await evaluateLoss(llama, dataset, { maxTokensPerBatch })
      expect([other.loss, other.accuracy, other.tokens]).toEqual([whole.loss, whole.accuracy, whole.tokens])
    }
  })

  test('tells its progress, stops by signal, leaves the mode and the memory as they were', async () => {
    llama.train()
    await llama.device.fence()
    const before = llama.device.memory().live
    const seen: number[] = []
    const result = await evaluateLoss(llama, separate, { maxTokensPerBatch: 10, onProgress: ({ tokens }) => { seen.push(tokens) } })
    expect(seen.length).toBe(3)
    expect(seen.at(-1)).toBe(result.tokens)
    const controller = new AbortController()
    const stopped = evaluateLoss(llama, separate, { maxTokensPerBatch: 10, signal: controller.signal, onProgress: () => { controller.abort(new Error('enough')) } })
    await expect(stopped).rejects.toThrow('enough')
    expect([...llama.namedModules()].every(([, module]) => module.training)).toBe(true)
    await llama.device.fence()
    expect(llama.device.memory().live).toBe(before)
    llama.eval()
  })

  test('nothing to predict is an error', async () => {
    await expect(evaluateLoss(llama, memoryDataset([]))).rejects.toThrow('nothing to evaluate')
    await expect(evaluateLoss(llama, memoryDataset([example([5], [5]), example([5, 6], [-100, -100])]))).rejects.toThrow('nothing to evaluate')
    await expect(evaluateLoss(llama, separate, { maxTokensPerBatch: 0 })).rejects.toThrow('maxTokensPerBatch: expected')
  })
})

describe('sliding windows', () => {
  test.each(recorded.windows)('of $maxLength tokens by $stride give the loss of transformers\' guide', async ({ inputIds: ids, maxLength, stride, nll, tokens, correct }) => {
    const windows = [...slidingWindows(Int32Array.from(ids), maxLength, stride)]
    const result = await evaluateLoss(llama, memoryDataset(windows.map(({ inputIds: own, labels: wanted }) => ({ inputIds: own, labels: wanted }))), { maxTokensPerBatch: 100 })
    expect(result.tokens).toBe(tokens)
    expect(Math.abs(result.loss * tokens / nll - 1)).toBeLessThan(1e-5)
    expect(Math.round(result.accuracy * tokens)).toBe(correct)
    expect(tokens).toBe(ids.length - 1)
  })
})

describe('perplexity', () => {
  const texts = ['the quick brown fox', 'größer als 你好 🦊 und so weiter', 'a']

  test('weights by tokens, and counts the predicted bytes and characters', async () => {
    const result = await perplexity(model, tokenizer, texts)
    const ids = texts.map((text) => tokenizer.encode(text))
    expect(result.tokens).toBe(ids.flat().length - 3)
    expect(result.documents).toBe(3)
    const direct = await evaluateLoss(model, memoryDataset(ids.map((own) => example(own, own))))
    expect(result.loss).toBeCloseTo(direct.loss, 6)
    const predicted = texts.map((text, i) => text.slice(tokenizer.tokenEnds(text, ids[i]!)![0]))
    expect(result.bytes).toBe(Buffer.byteLength(predicted.join('')))
    expect(result.characters).toBe(Array.from(predicted.join('')).length)
    expect(result.bitsPerByte).toBeCloseTo(result.loss * result.tokens / Math.LN2 / result.bytes, 9)
    expect(result.bitsPerCharacter * result.characters).toBeCloseTo(result.bitsPerByte * result.bytes, 6)
  })

  test('of one string, of a stream of strings, and of a long text in windows', async () => {
    const long = texts.join(' ').repeat(12)
    async function* streamed() { yield* [long].map((text) => text) ; await Promise.resolve() }
    const result = await perplexity(model, tokenizer, long, { maxLength: 64, stride: 16 })
    expect(await perplexity(model, tokenizer, streamed(), { maxLength: 64, stride: 16 })).toMatchObject({ loss: result.loss, tokens: result.tokens })
    expect(result.tokens).toBe(tokenizer.encode(long).length - 1)
    const disjoint = await perplexity(model, tokenizer, long, { maxLength: 64, stride: 63 })
    expect(disjoint.tokens).toBe(result.tokens)
    expect(disjoint.loss).not.toBe(result.loss)
  })

  test('of files: text, Markdown and rows with a text', async () => {
    await writeFile(join(folder, 'a.txt'), texts[0]!)
    await writeFile(join(folder, 'b.md'), texts[1]!)
    await writeFile(join(folder, 'c.jsonl'), `{"text": ${JSON.stringify(texts[2])}}\n`)
    const expected = await perplexity(model, tokenizer, texts)
    const { loss: mean, bytes, documents } = await perplexityOfFiles(model, tokenizer, folder)
    expect([mean, bytes, documents]).toEqual([expected.loss, expected.bytes, 3])
    await writeFile(join(folder, 'd.jsonl'), '{"prompt": "x", "completion": "y"}\n')
    await expect(perplexityOfFiles(model, tokenizer, join(folder, 'd.jsonl'))).rejects.toThrow(/d\.jsonl:1: perplexity needs texts/)
  })

  test('a first token that is special leaves all of the text to predict', async () => {
    const result = await perplexity(model, tokenizer, ['the lazy dog'])
    expect(result.bytes).toBeLessThan(12)
    const withStart = { encode: (text: string) => [0, ...tokenizer.encode(text)], specialTokenIds: [0] } as unknown as Tokenizer
    expect((await perplexity(model, withStart, ['the lazy dog'])).bytes).toBe(12)
  })

  test('wrong windows are named', async () => {
    await expect(perplexity(model, tokenizer, texts, { maxLength: 257 })).rejects.toThrow('maxLength: expected a whole number from 2 to 256')
    await expect(perplexity(model, tokenizer, texts, { maxLength: 8, stride: 8 })).rejects.toThrow('stride: expected a whole number from 1 to 7')
  })
})
