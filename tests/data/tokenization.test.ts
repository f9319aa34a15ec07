// Proves that anneal's own Tokenizer works through the data pipeline: in worker threads as in this one, and with users' special tokens kept as text.
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { DataError } from '../../src/errors.ts'
import { loadDataset, type LoadDatasetOptions } from '../../src/data/loadDataset.ts'
import { tokenizerFingerprint } from '../../src/data/tokenization.ts'
import { byteToChar } from '../../src/tokenizers/byteLevel.ts'
import { chatMLTemplate, Tokenizer } from '../../src/tokenizers/index.ts'
import { temporaryFolder, write } from './support.ts'

const folder = temporaryFolder()
const start = 256, end = 257

/** Byte-level BPE without merges: byte b has id b. */
function byteTokenizer(): Tokenizer {
  const added = ['<|im_start|>', '<|im_end|>'].map((content, i) => ({ id: 256 + i, content, special: true, single_word: false, lstrip: false, rstrip: false, normalized: false }))
  const level = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true }
  return Tokenizer.fromJSON(
    { version: '1.0', added_tokens: added, normalizer: null, pre_tokenizer: level, post_processor: null, decoder: level, model: { type: 'BPE', vocab: Object.fromEntries(byteToChar.map((char, id) => [char, id])), merges: [] } },
    { eos_token: '<|im_end|>', chat_template: chatMLTemplate },
  )
}

const tokenizer = byteTokenizer()
const load = (options: Partial<LoadDatasetOptions<Tokenizer>>) => loadDataset({ tokenizer, cacheDir: join(folder, 'cache'), ...options })
const messages = [{ role: 'user', content: 'Write <|im_end|> please' }, { role: 'assistant', content: 'No.' }]

describe('loadDataset with a Tokenizer', () => {
  it('keeps special tokens that users write as text, unless asked', async () => {
    const count = async (rows: Record<string, unknown>[], allowSpecial: boolean) => [...(await load({ rows, allowSpecial })).train.get(0).inputIds].filter((id) => id === end).length
    expect(await count([{ messages }], false)).toBe(2)
    expect(await count([{ messages }], true)).toBe(3)
    expect(await count([{ text: 'a <|im_end|> b' }], false)).toBe(1)
    expect(await count([{ text: 'a <|im_end|> b' }], true)).toBe(2)
  })

  it('trains what the assistant says', async () => {
    const { train } = await load({ rows: [{ messages }], assistantOnlyLoss: true })
    const { inputIds, labels } = train.get(0)
    expect(tokenizer.decode([...labels].filter((label) => label !== -100))).toMatch(/^No\.<\|im_end\|>\s*$/)
    expect(inputIds[0]).toBe(start)
    const conversational = await load({ rows: [{ prompt: messages.slice(0, 1), completion: messages.slice(1) }] })
    expect(tokenizer.decode([...conversational.train.get(0).labels].filter((label) => label !== -100))).toMatch(/^No\.<\|im_end\|>\s*$/)
  })

  it('places what the chat template refuses', async () => {
    const strict = byteTokenizer()
    strict.chatTemplate = `{{ raise_exception('roles must alternate') }}`
    const file = write(folder, 'chat.jsonl', `\n${JSON.stringify({ messages })}\n`)
    const error: unknown = await load({ tokenizer: strict, files: file }).catch((reason: unknown) => reason)
    expect(error).toBeInstanceOf(DataError)
    expect((error as Error).message).toMatch(/chat\.jsonl:2: .*roles must alternate/)
    await expect(load({ tokenizer: strict, files: file, onBadRow: 'skip' })).rejects.toThrow(/no example is left to train on: .* 1 were malformed/)
  })

  it('gives the same from workers as from this thread', async () => {
    const file = write(folder, 'many.jsonl', Array.from({ length: 6000 }, (_, i) => JSON.stringify(i % 2 ? { messages } : { text: `text ${i} ü` })).join('\n'))
    const here = await load({ files: file, workers: 0, cacheDir: join(folder, 'here') })
    const there = await load({ files: file, workers: 2, cacheDir: join(folder, 'there') })
    expect(there.stats).toEqual(here.stats)
    expect(there.fingerprint).toBe(here.fingerprint)
    here.close()
    there.close()
    const shards = (name: string) => {
      const cache = join(folder, name, readdirSync(join(folder, name)).find((entry) => !entry.startsWith('tokenizer-'))!)
      return readdirSync(cache).sort().map((entry) => readFileSync(join(cache, entry)).toString('base64'))
    }
    expect(shards('there')).toEqual(shards('here'))
    expect(shards('there').length).toBeGreaterThan(2)
  })
})

describe('tokenizerFingerprint', () => {
  it('changes with the vocabulary and the chat template', () => {
    const other = byteTokenizer()
    expect(tokenizerFingerprint(other)).toBe(tokenizerFingerprint(tokenizer))
    other.chatTemplate = 'x'
    expect(tokenizerFingerprint(other)).not.toBe(tokenizerFingerprint(tokenizer))
    const larger = byteTokenizer()
    larger.addTokens(['<new>'])
    expect(tokenizerFingerprint(larger)).not.toBe(tokenizerFingerprint(tokenizer))
  })
})
