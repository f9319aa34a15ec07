// Proves that whatever happens to the files of a model, a tokenizer, data or a cache of it, reading them ends soon, in a result that can be used or in a
// typed error: never a crash, a hang, an id outside the vocabulary or other rows than those of the data.
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { expect, test } from 'vitest'
import { parquetWriteBuffer } from 'hyparquet-writer'
import { loadDataset, type LoadedDataset } from '../../src/data/index.ts'
import { AnnealError } from '../../src/errors.ts'
import { generate } from '../../src/generate/index.ts'
import { AutoModelForCausalLM } from '../../src/models/index.ts'
import { Tokenizer } from '../../src/tokenizers/index.ts'
import { recordedTokenizer } from '../export/fixtures.ts'
import { temporaryFolder } from '../files/helpers.ts'
import { folderOf } from '../models/recorded.ts'
import { mutator } from './mutate.ts'

/** Most seconds one file may take, with room for a busy machine. */
const soon = 10

/** How many of `count` mutants were read; the others must have ended in one of anneal's errors. */
async function read(count: number, attempt: (i: number) => Promise<void>): Promise<number> {
  let done = 0
  for (let i = 0; i < count; i++) {
    const begin = performance.now()
    try {
      await attempt(i)
      done++
    } catch (error) {
      if (!(error instanceof AnnealError)) throw new Error(`mutant ${i} ended in an error of another kind`, { cause: error })
    }
    expect((performance.now() - begin) / 1000, `mutant ${i}`).toBeLessThan(soon)
  }
  return done
}

/** Both outcomes must be there, or the mutants test little. */
function expectBoth(done: number, count: number): void {
  expect(done).toBeGreaterThan(0)
  expect(done).toBeLessThan(count)
}

test.each(['gpt2', 'llama2', 'qwen3'])('a model folder: %s', async (family) => {
  const { bytes, json, pick, below } = mutator(`model ${family}`)
  const source = folderOf(family)
  const files = ['config.json', 'generation_config.json', 'model.safetensors']
  const folder = temporaryFolder()
  expectBoth(await read(40, async () => {
    for (const name of files) cpSync(join(source, name), join(folder, name))
    const name = pick(files)
    const original = readFileSync(join(source, name))
    writeFileSync(join(folder, name), name.endsWith('.json') && below(4) > 0 ? JSON.stringify(json(JSON.parse(original.toString()))) : bytes(original))
    const model = await AutoModelForCausalLM.fromPretrained(folder)
    try {
      const [answer] = await generate(model, null, [[1, 2, 3]], { maxNewTokens: 3 })
      for (const id of answer!.tokenIds) expect(id >= 0 && id < model.config.vocabSize).toBe(true)
    } finally {
      model.dispose()
    }
  }), 40)
})

test.each(['bert', 'gpt2', 'llama2', 'unigram'])('a tokenizer folder: %s', async (name) => {
  const { bytes, json, below } = mutator(`tokenizer ${name}`)
  const source = readFileSync(new URL(`../recorded/tokenizers/${name}.tokenizer.json`, import.meta.url))
  const parsed: unknown = JSON.parse(source.toString())
  const config = { bos_token: '<s>', eos_token: { content: '</s>', lstrip: false }, model_max_length: 64, chat_template: '{% for m in messages %}{{ m.role }}{% endfor %}', added_tokens_decoder: {} }
  const folder = temporaryFolder()
  const text = 'The work and the license, naïve \u6771京 12345 don\'t <s> \n\n  x'
  expectBoth(await read(40, async (i) => {
    writeFileSync(join(folder, 'tokenizer.json'), i % 5 === 0 ? bytes(source) : i % 5 < 4 ? JSON.stringify(json(parsed)) : source)
    writeFileSync(join(folder, 'tokenizer_config.json'), i % 5 < 4 ? JSON.stringify(config) : below(2) ? JSON.stringify(json(config)) : bytes(Buffer.from(JSON.stringify(config))))
    const tokenizer = await Tokenizer.fromPretrained(folder)
    const ids = tokenizer.encode(text)
    for (const id of ids) expect(Number.isInteger(id) && id >= 0 && id < tokenizer.embeddingRows).toBe(true)
    expect(tokenizer.decode(ids)).toBeTypeOf('string')
  }), 40)
})

const pairs = Array.from({ length: 40 }, (_, i) => ({ prompt: `p ${i}, "q"`, completion: ` c ${'x'.repeat(i)}\nline` }))
const conversations = Array.from({ length: 12 }, (_, i) => ({ messages: [{ role: 'user', content: `question ${i}` }, { role: 'assistant', content: `answer ${i * 7}` }] }))
const lines = (rows: readonly unknown[]): string => rows.map((row) => JSON.stringify(row)).join('\n')
const parquet = (codec: 'SNAPPY' | 'UNCOMPRESSED'): Buffer => Buffer.from(parquetWriteBuffer({
  columnData: [{ name: 'prompt', data: pairs.map(({ prompt }) => prompt), type: 'STRING' }, { name: 'completion', data: pairs.map(({ completion }) => completion), type: 'STRING' }], codec, rowGroupSize: 15,
}))
const recorded = (name: string): Buffer => readFileSync(new URL(`../recorded/data/${name}`, import.meta.url))
const sources: [string, Buffer, unknown[]?][] = [
  ['messages.jsonl', Buffer.from(lines(conversations)), conversations], ['pairs.jsonl', Buffer.from(lines(pairs)), pairs], ['pairs.json', Buffer.from(JSON.stringify(pairs)), pairs],
  ['pairs.csv', Buffer.from(`prompt,completion\n${pairs.map(({ prompt, completion }) => `"${prompt.replaceAll('"', '""')}","${completion}"`).join('\n')}\n`)],
  ['text.txt', Buffer.from('Some text.\n\nMore ü text\n'.repeat(20))], ['packed.jsonl.gz', gzipSync(lines(pairs))],
  ['plain.parquet', parquet('UNCOMPRESSED')], ['snappy.parquet', parquet('SNAPPY')], ['nested.parquet', recorded('messages-none.parquet')], ['zstd.parquet', recorded('messages-zstd.parquet')],
]

const tokenizer = recordedTokenizer('gpt2', { eos_token: '<|endoftext|>', chat_template: "{% for m in messages %}{{ m.role }}{% generation %}{{ m['content'] }}{% endgeneration %}{% endfor %}" })

function examplesOf(data: LoadedDataset): [number[], number[]][] {
  try {
    return Array.from({ length: data.train.length }, (_, i) => { const { inputIds, labels } = data.train.get(i); return [Array.from(inputIds), Array.from(labels)] })
  } finally {
    data.close()
  }
}

test.each(sources)('data: %s', async (name, original, rows) => {
  const { bytes, json, below } = mutator(`data ${name}`)
  const file = join(temporaryFolder(), name)
  const count = 60
  const done = await read(count, async () => {
    const changed = rows && below(2) === 0 ? json(rows) : undefined
    writeFileSync(file, changed === undefined ? bytes(original) : name.endsWith('.jsonl') && Array.isArray(changed) ? lines(changed) : JSON.stringify(changed))
    const data = await loadDataset({ tokenizer, files: file, cacheDir: false, maxLength: 64, onBadRow: below(2) ? 'skip' : 'error' })
    for (const ids of examplesOf(data).flat()) for (const id of ids) expect(id === -100 || (id >= 0 && id < tokenizer.embeddingRows)).toBe(true)
  })
  expect(done).toBeLessThan(count)
  expect(({} as { x?: unknown }).x).toBeUndefined()
})

test('a cache gives the rows of the data, or is made again', async () => {
  const folder = temporaryFolder()
  const files = join(folder, 'pairs.jsonl')
  writeFileSync(files, lines(pairs))
  const [cacheDir, whole] = [join(folder, 'cache'), join(folder, 'whole')]
  const load = async (): Promise<[number[], number[]][]> => examplesOf(await loadDataset({ tokenizer, files, cacheDir, maxLength: 64 }))
  const expected = await load()
  cpSync(cacheDir, whole, { recursive: true })
  const names = readdirSync(whole, { recursive: true, encoding: 'utf8' }).filter((name) => /\.(json|bin)$/.test(name))
  expect(names).toHaveLength(2)
  const { bytes, json, pick, below } = mutator('cache')
  const done = await read(80, async () => {
    rmSync(cacheDir, { recursive: true })
    mkdirSync(cacheDir)
    cpSync(whole, cacheDir, { recursive: true })
    const name = pick(names)
    const original = readFileSync(join(whole, name))
    writeFileSync(join(cacheDir, name), name.endsWith('.json') && below(2) === 0 ? JSON.stringify(json(JSON.parse(original.toString()))) : bytes(original))
    expect(await load()).toEqual(expected)
  })
  expect(done).toBeGreaterThan(74)
})
