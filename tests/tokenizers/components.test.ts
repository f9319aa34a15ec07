// Proves single components against the native tokenizers: normalizers, pre-tokenizers, decoders and post-processors that no fixture uses.
import { Tokenizer as NativeTokenizer } from 'tokenizers'
import { describe, expect, it } from 'vitest'
import { Tokenizer } from '../../src/tokenizers/index.ts'
import { tokenizerJSON, variedTexts } from './recorded.ts'

const base = JSON.parse(tokenizerJSON('unigram')) as Record<string, unknown>
const bpe = JSON.parse(tokenizerJSON('gpt2')) as Record<string, unknown>
const qwen = String.raw`(?i:'s|'t|'re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`

/** A tokenizer.json with some parts replaced; single characters as vocabulary make every cut visible. */
async function agree(parts: Record<string, unknown>, from = base): Promise<void> {
  const json = JSON.stringify({ ...from, added_tokens: [], normalizer: null, ...parts })
  const native = NativeTokenizer.fromString(json)
  const own = Tokenizer.fromJSON(json)
  for (const text of variedTexts()) {
    const ids = (await native.encode(text)).getIds()
    expect(own.encode(text), JSON.stringify(text)).toEqual(ids)
    expect(own.decode(ids)).toBe(await native.decode(ids, false))
  }
}

describe('normalizers', () => {
  it.each([
    { type: 'NFD' }, { type: 'NFKD' }, { type: 'Lowercase' }, { type: 'StripAccents' }, { type: 'Nmt' },
    { type: 'Strip', strip_left: true, strip_right: false }, { type: 'Strip', strip_left: false, strip_right: true },
    { type: 'Prepend', prepend: 'a' }, { type: 'ByteLevel' },
    { type: 'BertNormalizer', clean_text: true, handle_chinese_chars: true, strip_accents: null, lowercase: false },
    { type: 'Sequence', normalizers: [{ type: 'Replace', pattern: { Regex: '[aeiou]+' }, content: '$&' }, { type: 'Replace', pattern: { String: ' ' }, content: '' }] },
  ])('%j', async (normalizer) => { await agree({ normalizer }) })
})

describe('pre-tokenizers', () => {
  it.each([
    { type: 'Whitespace' }, { type: 'WhitespaceSplit' }, { type: 'BertPreTokenizer' }, { type: 'UnicodeScripts' },
    { type: 'Digits', individual_digits: true }, { type: 'Digits', individual_digits: false },
    { type: 'CharDelimiterSplit', delimiter: 'e' }, { type: 'FixedLength', length: 3 },
    ...['Removed', 'Isolated', 'MergedWithPrevious', 'MergedWithNext', 'Contiguous'].flatMap((behavior) => [
      { type: 'Punctuation', behavior },
      { type: 'Split', pattern: { Regex: '[a-f ]' }, behavior, invert: false },
      { type: 'Split', pattern: { String: 'th' }, behavior, invert: true },
    ]),
    { type: 'Split', pattern: { Regex: qwen }, behavior: 'Isolated', invert: false },
    { type: 'Split', pattern: { Regex: String.raw`(?i)the|\w++\b|[[:digit:]]+|[^a-c&&[^ x-z]]|(?>\s+)` }, behavior: 'Isolated', invert: false },
    { type: 'Metaspace', replacement: '_', prepend_scheme: 'first', split: false },
    { type: 'Metaspace', replacement: '\u2581', prepend_scheme: 'never', split: true },
  ])('%j', async (preTokenizer) => { await agree({ pre_tokenizer: preTokenizer }) })
  it.each([
    { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
    { type: 'Sequence', pretokenizers: [{ type: 'Digits', individual_digits: true }, { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: false }] },
  ])('%j', async (preTokenizer) => { await agree({ pre_tokenizer: preTokenizer }, bpe) })
})

describe('decoders', () => {
  it.each([
    null,
    { type: 'WordPiece', prefix: '\u2581', cleanup: true }, { type: 'BPEDecoder', suffix: 'e' }, { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
    { type: 'CTC', pad_token: 'a', word_delimiter_token: '\u2581', cleanup: true },
    { type: 'Metaspace', replacement: '\u2581', prepend_scheme: 'never', split: true },
    { type: 'Sequence', decoders: [{ type: 'Replace', pattern: { Regex: '[\u2581x]' }, content: ' ' }, { type: 'Fuse' }, { type: 'Strip', content: ' ', start: 2, stop: 0 }] },
  ])('%j', async (decoder) => { await agree({ decoder }) })
})

describe('post-processors', () => {
  it.each([
    { type: 'RobertaProcessing', sep: ['</s>', 2], cls: ['<s>', 1], trim_offsets: true, add_prefix_space: false },
    { type: 'BertProcessing', sep: ['</s>', 2], cls: ['<s>', 1] },
  ])('%j', async (processor) => {
    const json = JSON.stringify({ ...base, post_processor: processor })
    const native = await NativeTokenizer.fromString(json).encode('one text', 'and two')
    expect(Tokenizer.fromJSON(json).encodePair('one text', 'and two')).toEqual({ inputIds: native.getIds(), tokenTypeIds: native.getTypeIds() })
  })
})

describe('models', () => {
  it('WordLevel', async () => {
    const vocab = { '<unk>': 0, the: 1, of: 2, license: 3, and: 4 }
    await agree({ model: { type: 'WordLevel', vocab, unk_token: '<unk>' }, pre_tokenizer: { type: 'Whitespace' }, decoder: null })
  })

  it('BPE with a prefix, a suffix and unknown characters', async () => {
    const vocab = Object.fromEntries(['<unk>', 't', '##h', '##e</w>', '##he</w>', 'the</w>', 'a</w>', 'o', '##f</w>', 'of</w>'].map((token, id) => [token, id]))
    const merges = [['##h', '##e</w>'], ['t', '##he</w>'], ['o', '##f</w>']]
    for (const fuse of [true, false]) {
      await agree({
        model: { type: 'BPE', vocab, merges, unk_token: '<unk>', continuing_subword_prefix: '##', end_of_word_suffix: '</w>', fuse_unk: fuse },
        pre_tokenizer: { type: 'WhitespaceSplit' }, decoder: null,
      })
    }
  })

  it('Precompiled character maps', async () => {
    // A trie with one entry, made by hand: "\u00e9" (C3 A9) becomes "e".
    const map = precompiledMap()
    await agree({ normalizer: { type: 'Precompiled', precompiled_charsmap: map } })
    const tokenizer = Tokenizer.fromJSON({ ...base, added_tokens: [], normalizer: { type: 'Precompiled', precompiled_charsmap: map } })
    expect(tokenizer.decode(tokenizer.encode('th\u00e9'))).toBe('the')
  })
})

/** Builds a darts-clone double array for the single key C3 A9 with value 0. */
function precompiledMap(): string {
  const units = new Uint32Array(1024)
  const offset = (value: number) => value << 10
  // Root: children at 0 ^ 256 ^ byte.
  units[0] = offset(256)
  const first = 256 ^ 0xc3
  units[first] = offset(first ^ 512) | 0xc3
  const second = 512 ^ 0xa9
  // This node has a leaf, at its children's place for the zero byte.
  units[second] = offset(second ^ 768) | (1 << 8) | 0xa9
  units[768] = 0x80000000
  const out = Buffer.alloc(4 + units.length * 4 + 2)
  out.writeUInt32LE(units.length * 4, 0)
  units.forEach((unit, i) => out.writeUInt32LE(unit >>> 0, 4 + 4 * i))
  out.write('e\0', 4 + units.length * 4, 'latin1')
  return out.toString('base64')
}
