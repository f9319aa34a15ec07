// Proves that files of every kind become training rows through one call: cached, mixed, split and packed, with counts and warnings.
import { appendFileSync, readdirSync, utimesSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { ConfigError, DataError } from '../../src/errors.ts'
import { loadDataset, type LoadDatasetOptions } from '../../src/data/loadDataset.ts'
import type { Dataset } from '../../src/data/types.ts'
import { CharacterTokenizer, temporaryFolder, tokenizeConversation, write } from './support.ts'

const folder = temporaryFolder()
const cacheDir = join(folder, 'cache')
const tokenizer = new CharacterTokenizer()
const load = (options: Partial<LoadDatasetOptions<CharacterTokenizer>>) => loadDataset({ tokenizer, tokenizeConversation, cacheDir, ...options })
/** `close` apart, so that it can be called by itself. */
const opened = async (options: Parameters<typeof load>[0]) => {
  const loaded = await load(options)
  return { ...loaded, close: () => { loaded.close() } }
}
const texts = (dataset: Dataset) => Array.from({ length: dataset.length }, (_, i) => tokenizer.decode(dataset.get(i).inputIds))

const chat = write(folder, 'chat.jsonl', Array.from({ length: 20 }, (_, i) => JSON.stringify({ messages: [{ role: 'user', content: `q${i}` }, { role: 'assistant', content: `a${i}` }] })).join('\n'))
write(folder, 'books/one.txt', 'One')
write(folder, 'books/two.md', 'Two')
write(folder, 'table.csv', 'prompt,completion\n1+1=,2\n2+2=,4\n')

describe('loadDataset', () => {
  it('reads files of several kinds', async () => {
    const { train, stats, warnings, close } = await opened({ files: [join(folder, 'books'), join(folder, '*.csv'), chat] })
    expect(texts(train).slice(0, 5)).toEqual(['One<|eos|>', 'Two<|eos|>', '1+1=2<|eos|>', '2+2=4<|eos|>', '<|user|>q0<|end|><|assistant|>a0<|end|>'])
    expect(stats).toMatchObject({ rows: 24, examples: 24, trainRows: 24, evalRows: 0, cached: false, badRows: 0 })
    expect(stats.trainedShare).toBeCloseTo(stats.trainedTokens / stats.tokens)
    expect(warnings).toEqual([])
    close()
  })

  it('says that conversations are cut into several rows, from a cache too, and lets texts go on in the next row', async () => {
    const warningsOf = async (files: string, packing: 'bfd' | 'bfd_split' | 'wrapped', maxLength: number) => {
      const { warnings, close } = await opened({ files, packing, maxLength })
      close()
      return warnings.filter((one) => one.includes('several'))
    }
    for (const packing of ['bfd_split', 'wrapped', 'bfd_split'] as const) {
      expect(await warningsOf(chat, packing, 4)).toEqual([expect.stringMatching(new RegExp(`^20 rows are longer than maxLength \\(4\\) and packing ${packing} cuts them into several`))])
    }
    expect(await warningsOf(chat, 'bfd', 4)).toEqual([])
    expect(await warningsOf(chat, 'bfd_split', 100)).toEqual([])
    expect(await warningsOf(join(folder, 'books'), 'bfd_split', 3)).toEqual([])
  })

  it('uses the cache again until a file or an option changes', async () => {
    const file = write(folder, 'changing.jsonl', '{"text":"a"}\n')
    const cached = async (more: Partial<LoadDatasetOptions<CharacterTokenizer>> = {}) => {
      const loaded = await load({ files: file, ...more })
      loaded.close()
      return { cached: loaded.stats.cached, rows: loaded.stats.trainRows, fingerprint: loaded.fingerprint }
    }
    const first = await cached()
    expect(first.cached).toBe(false)
    expect(await cached()).toEqual({ ...first, cached: true })
    expect((await cached({ seed: 1 })).cached).toBe(true)
    expect((await cached({ maxLength: 512 })).cached).toBe(false)
    expect((await cached({ allowSpecial: true })).cached).toBe(false)
    appendFileSync(file, '{"text":"b"}\n')
    const longer = await cached()
    expect(longer).toMatchObject({ cached: false, rows: 2 })
    expect(longer.fingerprint).not.toBe(first.fingerprint)
    utimesSync(file, 1, 1)
    expect((await cached()).cached).toBe(false)
    const other = await loadDataset({ tokenizer: Object.assign(new CharacterTokenizer(), { fingerprint: 'other' }), cacheDir, files: file })
    expect(other.stats.cached).toBe(false)
    other.close()
  })

  it('can stay in memory', async () => {
    const before = readdirSync(cacheDir).length
    const inMemory = await load({ files: chat, cacheDir: false })
    const cached = await load({ files: chat })
    expect(texts(inMemory.train)).toEqual(texts(cached.train))
    expect(inMemory.stats).toEqual(cached.stats)
    cached.close()
    const rows = await load({ rows: [{ text: 'a' }], maxLength: 2 })
    expect(texts(rows.train)).toEqual(['a<|eos|>'])
    expect(readdirSync(cacheDir).length).toBeLessThanOrEqual(before + 1)
  })

  it('splits, shuffles and packs', async () => {
    const { train, eval: held, stats, close } = await opened({ files: chat, evalSplit: 0.2, packing: true, maxLength: 40, shuffleDataset: true })
    expect(stats.evalRows).toBe(held!.length)
    expect(stats.packingDensity).toBeGreaterThan(0.5)
    const all = [...texts(train), ...texts(held!)].join('').split('<|user|>').filter((text) => text).sort()
    expect(all).toEqual(Array.from({ length: 20 }, (_, i) => `q${i}<|end|><|assistant|>a${i}<|end|>`).sort())
    expect(train.get(0).sequenceLengths!.length).toBeGreaterThan(1)
    close()
  })

  it('takes rows for evaluation apart', async () => {
    const { train, eval: held, close } = await opened({ files: chat, evalRows: [{ messages: [{ role: 'user', content: 'e' }, { role: 'assistant', content: 'f' }] }], assistantOnlyLoss: true })
    expect([train.length, held!.length]).toEqual([20, 1])
    expect([...held!.get(0).labels].filter((label) => label !== -100)).toEqual([102, 1])
    close()
  })

  it('mixes sources with their own shapes', async () => {
    const { train, close } = await opened({
      datasets: [{ rows: Array.from({ length: 50 }, (_, i) => ({ body: `x${i}` })), columns: { text: 'body' }, weight: 0.9 }, { files: chat, weight: 0.1 }],
    })
    const fromChat = texts(train).filter((text) => text.startsWith('<|user|>')).length
    expect(fromChat).toBeGreaterThan(0)
    expect(fromChat).toBeLessThan(train.length / 3)
    close()
  })

  it('holds out rows of every source, and none that a mixture repeats in training', async () => {
    const rows = (name: string, count: number) => Array.from({ length: count }, (_, i) => ({ text: `${name}${i}` }))
    const { train, eval: held } = await load({
      datasets: [{ rows: rows('a', 100), weight: 1 }, { rows: rows('b', 10), weight: 1 }, { rows: rows('c', 1), weight: 1 }], mixStrategy: 'interleave_over', evalSplit: 0.2,
    })
    expect(held!.length).toBe(20 + 2)
    const training = new Set(texts(train))
    expect(texts(held!).filter((text) => training.has(text))).toEqual([])
    expect(training.size).toBe(80 + 8 + 1)
  })

  it('never cuts what is packed without loss', async () => {
    const text = 'abcdefghij'.repeat(5)
    for (const packing of ['bfd_split', 'wrapped'] as const) {
      const { train, stats } = await load({ rows: [{ text }], packing, maxLength: 16 })
      expect(stats).toMatchObject({ truncated: 0, tokens: 51 })
      expect(texts(train).join('')).toBe(`${text}<|eos|>`)
    }
    expect((await load({ rows: [{ text }], packing: true, maxLength: 16 })).stats).toMatchObject({ truncated: 1, tokens: 16 })
  })

  it('warns of what spoils training', async () => {
    const { warnings } = await load({ rows: [{ prompt: 'p'.repeat(30), completion: 'c' }, { prompt: 'p', completion: 'c'.repeat(30) }], maxLength: 20 })
    expect(warnings).toEqual([
      expect.stringMatching(/^1 of 2 rows were dropped: no token of them is trained; raise maxLength/),
      expect.stringMatching(/^2 of 2 rows lost their trained end to maxLength/),
      expect.stringMatching(/^no row trains the EOS token/),
    ])
  })

  it('refuses data that trains nothing, and options that contradict each other', async () => {
    await expect(load({ rows: [{ prompt: 'p'.repeat(30), completion: 'c' }], maxLength: 20 })).rejects.toThrow(/no example is left to train on: 1 of 1 rows have no trained token/)
    await expect(load({ rows: [] })).rejects.toThrow(DataError)
    await expect(load({})).rejects.toThrow(ConfigError)
    await expect(load({ files: chat, rows: [] })).rejects.toThrow(/either files or rows/)
    await expect(load({ files: chat, evalSplit: 0.1, evalFiles: chat })).rejects.toThrow(/either evalSplit or evalFiles/)
    await expect(load({ files: chat, datasets: [{ files: chat }] })).rejects.toThrow(/either datasets or files/)
    await expect(load({ files: chat, packing: true, maxLength: null })).rejects.toThrow(/packing needs a length/)
    await expect(load({ files: chat, maxLength: 1 })).rejects.toThrow(/maxLength: expected/)
    await expect(load({ files: join(folder, 'none.jsonl') })).rejects.toThrow(/no such file/)
    await expect(loadDataset({ tokenizer, rows: [{ messages: [{ role: 'user', content: 'a' }] }] })).rejects.toThrow(/the rows are conversations/)
    await expect(load({ files: chat, evalRows: [{ prompt: 'p'.repeat(30), completion: 'c' }], maxLength: 20 })).rejects.toThrow(/evalFiles: no example is left/)
  })
})
