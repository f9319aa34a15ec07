// Proves that damaged tokenizer files and dangerous patterns end in an error that names the place, and never hang or crash.
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { TokenizerError } from '../../src/errors.ts'
import { Tokenizer } from '../../src/tokenizers/index.ts'
import { tokenizerJSON } from './recorded.ts'

type Json = Record<string, unknown>
const parsed = (name = 'gpt2') => JSON.parse(tokenizerJSON(name)) as Json & { model: Json, added_tokens: Json[] }
const added = (id: number, content: string) => ({ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true })

describe('damaged tokenizer.json', () => {
  const cases: [string, (json: ReturnType<typeof parsed>) => unknown, RegExp][] = [
    ['no object', () => [], /tokenizer\.json: expected an object/],
    ['no model', (json) => { json.model = null as unknown as Json }, /tokenizer\.json\.model/],
    ['an unknown model', (json) => { json.model['type'] = 'Magic' }, /model\.type: unknown model "Magic"/],
    ['an unknown normalizer', (json) => { json['normalizer'] = { type: 'Magic' } }, /normalizer\.type: unknown normalizer "Magic"/],
    ['an unknown pre-tokenizer inside a sequence', (json) => { json['pre_tokenizer'] = { type: 'Sequence', pretokenizers: [{ type: 'Magic' }] } }, /pre_tokenizer\.pretokenizers\[0\]\.type/],
    ['an unknown decoder', (json) => { json['decoder'] = { type: 'Magic' } }, /decoder\.type/],
    ['an unknown post-processor', (json) => { json['post_processor'] = { type: 'Magic' } }, /post_processor\.type/],
    ['a vocabulary that is a list', (json) => { json.model['vocab'] = [] }, /model\.vocab: expected an object/],
    ['an id that is a string', (json) => { (json.model['vocab'] as Json)['a'] = '5' }, /vocab: the id of "a"/],
    ['a giant id', (json) => { (json.model['vocab'] as Json)['a'] = 2 ** 31 }, /vocab: the id of "a"/],
    ['two tokens with one id', (json) => { (json.model['vocab'] as Json)['brand-new'] = 3 }, /same id 3/],
    ['a merge of an unknown token', (json) => { json.model['merges'] = [['zzzz', 'a']] }, /merges\[0\]: "zzzz"/],
    ['a merge of three parts', (json) => { json.model['merges'] = ['a b c'] }, /merges\[0\]/],
    ['an unknown token outside the vocabulary', (json) => { json.model['unk_token'] = '<none>' }, /unk_token/],
    ['dropout', (json) => { json.model['dropout'] = 0.1 }, /dropout/],
    ['an empty added token', (json) => { json.added_tokens = [added(700, '')] }, /added_tokens\[0\]\.content/],
    ['two added tokens with one id', (json) => { json.added_tokens = [added(700, 'x1'), added(700, 'x2')] }, /added_tokens\[1\]\.id: "x1" and "x2"/],
    ['an added token twice', (json) => { json.added_tokens = [added(700, 'x1'), added(701, 'x1')] }, /added_tokens\[1\]\.content/],
    ['a hole before an added token', (json) => { json.added_tokens = [added(999, 'x1')] }, /added_tokens\[0\]\.id: "x1" has id 999/],
    ['an added token with the id of another', (json) => { json.added_tokens = [added(5, 'x1')] }, /added_tokens\[0\]\.id/],
    ['a negative id', (json) => { json.added_tokens = [added(-1, 'x1')] }, /added_tokens\[0\]\.id/],
    ['a template with an undeclared token', (json) => { json['post_processor'] = { type: 'TemplateProcessing', single: [{ SpecialToken: { id: '[X]', type_id: 0 } }], pair: [], special_tokens: {} } }, /"\[X\]" is not among/],
    ['a template with an id outside', (json) => { json['post_processor'] = { type: 'TemplateProcessing', single: [], pair: [], special_tokens: { x: { id: 'x', ids: [99999], tokens: ['x'] } } } }, /special_tokens\.x\.ids/],
    ['garbage in Precompiled', (json) => { json['normalizer'] = { type: 'Precompiled', precompiled_charsmap: 'AAAA' } }, /normalizer: the precompiled_charsmap/],
    ['text in Precompiled', (json) => { json['normalizer'] = { type: 'Precompiled', precompiled_charsmap: '\u2603' } }, /not base64/],
    ['a broken pattern', (json) => { json['pre_tokenizer'] = { type: 'Split', pattern: { Regex: '(a' }, behavior: 'Isolated' } }, /pre_tokenizer\.pattern/],
    ['a back reference', (json) => { json['pre_tokenizer'] = { type: 'Split', pattern: { Regex: String.raw`(a)\1` }, behavior: 'Isolated' } }, /\\1, which is not supported/],
    ['an unknown behaviour', (json) => { json['pre_tokenizer'] = { type: 'Split', pattern: { Regex: 'a' }, behavior: 'Eaten' } }, /behavior: expected one of/],
    ['deep nesting', (json) => {
      let inner: object = { type: 'NFC' }
      for (let i = 0; i < 100; i++) inner = { type: 'Sequence', normalizers: [inner] }
      json['normalizer'] = inner
    }, /nested deeper/],
  ]
  it.each(cases)('%s', (_, damage, message) => {
    const json = parsed()
    const result = damage(json)
    const source = JSON.stringify(Array.isArray(result) ? result : json)
    expect(() => Tokenizer.fromJSON(source)).toThrow(TokenizerError)
    expect(() => Tokenizer.fromJSON(source)).toThrow(message)
  })

  it('ends every cut or changed file in an error or a tokenizer that works', () => {
    let seed = 7
    const random = (below: number) => (seed = (seed * 1103515245 + 12345) & 0x7fffffff) % below
    for (const name of ['gpt2', 'qwen2', 'bert', 'unigram'] as const) {
      const source = tokenizerJSON(name)
      for (let i = 0; i < 60; i++) {
        const at = random(i % 2 === 0 ? Math.min(2500, source.length) : source.length)
        const mutant = i % 3 === 0 ? source.slice(0, at) : source.slice(0, at) + String.fromCharCode(32 + random(95)) + source.slice(at + 1 + random(3))
        try {
          Tokenizer.fromJSON(mutant).encode('The work and the license \u6771')
        } catch (error) {
          expect(error).toBeInstanceOf(TokenizerError)
        }
      }
    }
  })
})

describe('folders', () => {
  it('names the missing, the damaged and the contradictory file', async () => {
    const dir = await mkdtemp(join(tmpdir(), 'tokenizers-'))
    try {
      await expect(Tokenizer.fromPretrained(dir)).rejects.toThrow(/tokenizer\.json: no such file/)
      await writeFile(join(dir, 'tokenizer.json'), Buffer.from([0x7b, 0xff, 0xfe]))
      await expect(Tokenizer.fromPretrained(dir)).rejects.toThrow(/not valid UTF-8/)
      await writeFile(join(dir, 'tokenizer.json'), tokenizerJSON('gpt2').slice(0, 1000))
      await expect(Tokenizer.fromPretrained(dir)).rejects.toThrow(/tokenizer\.json: not valid JSON/)
      await writeFile(join(dir, 'tokenizer.json'), tokenizerJSON('gpt2'))
      await writeFile(join(dir, 'tokenizer_config.json'), '{"eos_token": 5}')
      await expect(Tokenizer.fromPretrained(dir)).rejects.toThrow(/tokenizer_config\.json\.eos_token/)
      await writeFile(join(dir, 'tokenizer_config.json'), '{"added_tokens_decoder": {"3": {"content": "<|endoftext|>"}}}')
      await expect(Tokenizer.fromPretrained(dir)).rejects.toThrow(/do not belong together/)
      await writeFile(join(dir, 'tokenizer_config.json'), '{"eos_token": {"content": "<|endoftext|>"}, "pad_token": "<pad>", "model_max_length": 1e30}')
      const tokenizer = await Tokenizer.fromPretrained(dir)
      expect(tokenizer.eosTokenId).toBe(700)
      expect(tokenizer.padTokenId).toBe(701)
      expect(tokenizer.config.modelMaxLength).toBeUndefined()
    } finally {
      await rm(dir, { recursive: true })
    }
  })
})

describe('patterns', () => {
  const withPattern = (pattern: string) => Tokenizer.fromJSON({ ...parsed(), pre_tokenizer: { type: 'Split', pattern: { Regex: pattern }, behavior: 'Isolated', invert: false } })

  it.each(['(a+)+b', '(a|a)*b', '(a|aa)+b', String.raw`(\w+\s?)+!`, '(?:a*)*b', 'a*a*a*a*a*b'])('stops %s on a long text', (pattern) => {
    const start = performance.now()
    expect(() => withPattern(pattern).encode('a'.repeat(100_000))).toThrow(/was stopped/)
    expect(performance.now() - start).toBeLessThan(5000)
  })

  it('runs the patterns of published models on a long text', () => {
    for (const name of ['gpt2', 'qwen2', 'llama3'] as const) {
      const tokenizer = Tokenizer.fromJSON(tokenizerJSON(name))
      for (const text of ['a'.repeat(200_000), ' '.repeat(200_000), `${' '.repeat(100_000)}x`, '\n '.repeat(50_000), '!'.repeat(100_000)]) {
        expect(tokenizer.decode(tokenizer.encode(text, { addSpecialTokens: false }))).toBe(text)
      }
    }
  })
})

describe('special tokens in text', () => {
  it('are read as text on request', () => {
    const tokenizer = Tokenizer.fromJSON(tokenizerJSON('qwen2'))
    const text = 'a<|im_end|>b<tool_call>'
    const end = tokenizer.tokenToId('<|im_end|>')!
    expect(tokenizer.encode(text)).toContain(end)
    expect(tokenizer.encode(text, { allowSpecial: 'all' })).toContain(end)
    const plain = tokenizer.encode(text, { allowSpecial: false })
    expect(plain).not.toContain(end)
    expect(plain).toContain(tokenizer.tokenToId('<tool_call>'))
    expect(tokenizer.decode(plain)).toBe(text)
  })

  it('are not reached through the model either', () => {
    const json = { ...parsed('bert'), pre_tokenizer: { type: 'WhitespaceSplit' } }
    const tokenizer = Tokenizer.fromJSON(json)
    const sep = tokenizer.tokenToId('[SEP]')!
    expect(tokenizer.encode('[sep] a [SEP]', { addSpecialTokens: false })).toContain(sep)
    expect(tokenizer.encode('a [SEP]', { addSpecialTokens: false, allowSpecial: false })).not.toContain(sep)
  })
})
