// Proves that trained tokenizers equal Hugging Face's where those are deterministic, work, and are saved and read back unchanged.
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Tokenizer as NativeTokenizer } from 'tokenizers'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { TokenizerError } from '../../src/errors.ts'
import { chatMLTemplate, Tokenizer, tokenizeConversation, trainBpe, trainTokenizer, trainUnigram, trainWordPiece, type TrainTokenizerOptions } from '../../src/tokenizers/index.ts'
import { corpus, readText, recorded, tokenizerJSON, variedTexts } from './recorded.ts'

interface Saved { model: { vocab: Record<string, number>, merges: [string, string][] } }
const parse = (json: string) => JSON.parse(json) as Saved
const pattern = String.raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`

let dir = ''
beforeAll(async () => { dir = await mkdtemp(join(tmpdir(), 'tokenizers-')) })
afterAll(async () => { await rm(dir, { recursive: true }) })

describe('trainBpe', () => {
  it('writes the tokenizer.json that Hugging Face writes', async () => {
    const tokenizer = await trainBpe(corpus, { vocabSize: 700 })
    const theirs = parse(tokenizerJSON('gpt2')).model
    const ours = parse(tokenizer.toJSON()).model
    expect(ours.merges).toEqual(theirs.merges)
    expect(ours.vocab).toEqual(theirs.vocab)
  })

  it('learns the same merges with another pattern and normalizer', async () => {
    const preTokenizer = { type: 'Sequence', pretokenizers: [
      { type: 'Split', pattern: { Regex: pattern }, behavior: 'Isolated', invert: false },
      { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false },
    ] }
    const tokenizer = await trainBpe(corpus, { vocabSize: 600, preTokenizer, normalizer: { type: 'NFC' } })
    expect(parse(tokenizer.toJSON()).model.merges).toEqual(parse(tokenizerJSON('qwen2')).model.merges)
  })

  it('obeys minFrequency, maxTokenLength and special tokens', async () => {
    const tokenizer = await trainBpe(corpus, {
      vocabSize: 2000, minFrequency: 4, maxTokenLength: 5, specialTokens: ['<a>', '<b>'],
      preTokenizer: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
    })
    expect(parse(tokenizer.toJSON()).model.merges).toEqual(recorded.limitedMerges)
    expect(tokenizer.encode('<b>')).toEqual([1])
  })

  it('keeps every byte, whatever the text was', async () => {
    const tokenizer = await trainBpe(['only ascii'], { vocabSize: 300 })
    for (const text of variedTexts()) {
      expect(tokenizer.decode(tokenizer.encode(text))).toBe(text.replace(/\p{Surrogate}/gu, '\ufffd'))
    }
  })

  it('is the same whether texts come at once or in pieces, and equals the native reading of its file', async () => {
    async function* slowly() {
      for (const text of corpus) {
        await Promise.resolve()
        yield text
      }
    }
    const tokenizer = await trainBpe(slowly(), { vocabSize: 500, specialTokens: ['<|end|>'] })
    expect(tokenizer.toJSON()).toBe((await trainBpe(corpus, { vocabSize: 500, specialTokens: ['<|end|>'] })).toJSON())
    const native = NativeTokenizer.fromString(tokenizer.toJSON())
    for (const text of variedTexts()) expect(tokenizer.encode(text)).toEqual((await native.encode(text)).getIds())
  })

  it('lets other work run, and stops when asked', async () => {
    let ticks = 0
    const timer = setInterval(() => ticks++, 1)
    const texts = Array.from({ length: 40 }, (_, i) => corpus.join('\n\n').replaceAll('e', String.fromCharCode(97 + (i % 26))))
    await trainBpe(texts, { vocabSize: 5000 })
    clearInterval(timer)
    expect(ticks).toBeGreaterThan(5)
    const controller = new AbortController()
    setTimeout(() => { controller.abort() }, 5)
    await expect(trainBpe(texts, { signal: controller.signal })).rejects.toThrow(/abort/i)
  })

  it('names what is wrong', async () => {
    await expect(trainBpe([])).rejects.toThrow(/no text/)
    await expect(trainBpe(corpus, { vocabSize: 100 })).rejects.toThrow(/vocabSize 100/)
    await expect(trainBpe(corpus, { vocabSize: -1 })).rejects.toThrow(/vocabSize/)
    await expect(trainBpe(corpus, { specialTokens: ['a', 'a'] })).rejects.toThrow(/twice/)
    await expect(trainBpe(corpus, { unkToken: '<unk>' })).rejects.toThrow(/unkToken/)
    await expect(trainBpe(corpus, { preTokenizer: { type: 'Nonsense' } })).rejects.toThrow(/Nonsense/)
    await expect(trainBpe([1 as unknown as string])).rejects.toThrow(TokenizerError)
  })
})

describe('trainWordPiece', () => {
  it('learns the words that Hugging Face learns', async () => {
    const tokenizer = await trainWordPiece(corpus, { vocabSize: 500 })
    const theirs = Object.keys(parse(tokenizerJSON('bert')).model.vocab)
    const shared = theirs.filter((token) => tokenizer.tokenToId(token) !== undefined).length
    // Hugging Face breaks ties by ids that depend on the order of a hash table.
    expect(shared / theirs.length).toBeGreaterThan(0.95)
    expect(tokenizer.vocabSize).toBe(500)
    expect(tokenizer.decode(tokenizer.encode('The License, and the work'), { skipSpecialTokens: true })).toBe('the license, and the work')
    expect(tokenizer.encode('the').at(0)).toBe(tokenizer.clsTokenId)
    const native = NativeTokenizer.fromString(tokenizer.toJSON())
    for (const text of variedTexts()) expect(tokenizer.encode(text)).toEqual((await native.encode(text)).getIds())
  })
})

describe('trainUnigram', () => {
  const prefix = { type: 'Metaspace', replacement: '\u2581', prepend_scheme: 'always', split: true }

  it('needs no more tokens than Hugging Face', async () => {
    const theirs = Tokenizer.fromJSON(tokenizerJSON('unigram'))
    const normalizer = { type: 'Sequence', normalizers: [{ type: 'NFKC' }, { type: 'Replace', pattern: { Regex: ' {2,}' }, content: ' ' }] }
    const ours = await trainUnigram(corpus, { vocabSize: theirs.vocabSize, byteFallback: false, normalizer, preTokenizer: prefix })
    expect(ours.vocabSize).toBe(theirs.vocabSize)
    const length = (tokenizer: Tokenizer) => corpus.reduce((sum, text) => sum + tokenizer.encode(text).length, 0)
    expect(length(ours)).toBeLessThan(length(theirs) * 1.02)
  })

  it('loses no character, thanks to bytes, and equals the native reading of its file', async () => {
    const tokenizer = await trainUnigram(corpus, { vocabSize: 700 })
    expect(tokenizer.encode('\u{1f389}')).not.toContain(tokenizer.unkTokenId)
    expect(tokenizer.decode(tokenizer.encode('the \u{1f389} party \u6771'))).toBe('the \u{1f389} party \u6771')
    const native = NativeTokenizer.fromString(tokenizer.toJSON())
    for (const text of variedTexts()) {
      const ids = (await native.encode(text)).getIds()
      expect(tokenizer.encode(text), JSON.stringify(text)).toEqual(ids)
      expect(tokenizer.decode(ids)).toBe(await native.decode(ids, false))
    }
  })

  it('is the same each time', async () => {
    expect((await trainUnigram(corpus, { vocabSize: 500 })).toJSON()).toBe((await trainUnigram(corpus, { vocabSize: 500 })).toJSON())
  })
})

describe('trainTokenizer', () => {
  it.each(['bpe', 'wordpiece', 'unigram'] as const)('trains %s from files and saves a folder that reads back the same', async (type) => {
    const file = join(dir, `${type}.txt`)
    await writeFile(file, readText('corpus.txt'))
    const outputDir = join(dir, type)
    const tokenizer = await trainTokenizer({
      type, files: [file], vocabSize: 600, outputDir, chatTemplate: chatMLTemplate, modelMaxLength: 512,
      roles: { eosToken: '<|im_end|>', bosToken: '<|im_start|>', padToken: '<pad>' },
    })
    expect(tokenizer.vocabSize).toBe(600)
    const again = await Tokenizer.fromPretrained(outputDir)
    expect(again.eosToken).toBe('<|im_end|>')
    expect(again.padTokenId).toBe(tokenizer.tokenToId('<pad>'))
    expect(again.config.modelMaxLength).toBe(512)
    const messages = [{ role: 'user', content: 'the work' }, { role: 'assistant', content: 'the license' }]
    const conversation = tokenizeConversation(again, messages)
    expect(conversation).toEqual(tokenizeConversation(tokenizer, messages))
    expect(conversation.assistantMask.some((bit) => bit === 1)).toBe(true)
    const copy = join(dir, `${type}-copy`)
    await again.savePretrained(copy)
    for (const name of ['tokenizer.json', 'tokenizer_config.json', 'chat_template.jinja']) {
      expect(await readFile(join(copy, name), 'utf8')).toBe(await readFile(join(outputDir, name), 'utf8'))
    }
  })

  it('reads line by line as Hugging Face does, if asked', async () => {
    const file = join(dir, 'lines.txt')
    await writeFile(file, readText('corpus.txt'))
    const tokenizer = await trainTokenizer({ type: 'bpe', files: [file], vocabSize: 600, splitLines: true })
    const lines = await trainBpe(readText('corpus.txt').split(/(?<=\n)/), { vocabSize: 600 })
    expect(tokenizer.toJSON()).toBe(lines.toJSON())
  })

  it('names the missing file', async () => {
    await expect(trainTokenizer({ type: 'bpe', files: [join(dir, 'none.txt')] })).rejects.toThrow(/none\.txt/)
    await expect(trainTokenizer({ type: 'bpe', files: [] })).rejects.toThrow(/files is empty/)
    await expect(trainTokenizer({ files: [join(dir, 'none.txt')] } as unknown as TrainTokenizerOptions)).rejects.toThrow('type: expected bpe, wordpiece or unigram, got undefined')
  })
})
