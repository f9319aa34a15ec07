import { byteToChar } from '../../src/tokenizers/byteLevel.ts'

/** A tokenizer.json of the shape and size of Qwen2.5's: a byte-level BPE whose tokens are merged from two others. */
export function largeTokenizer(size: number): Record<string, unknown> {
  const tokens: string[] = [...byteToChar]
  const known = new Set(tokens)
  const merges: string[] = []
  let state = 1
  const below = (n: number): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor(state / 2 ** 32 * n)
  }
  while (tokens.length < size) {
    const [left, right] = [tokens[below(Math.min(tokens.length, 3000))]!, tokens[below(Math.min(tokens.length, 3000))]!]
    const whole = left + right
    if (whole.length > 12 || known.has(whole)) continue
    known.add(whole)
    tokens.push(whole)
    merges.push(`${left} ${right}`)
  }
  const byteLevel = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: false }
  return {
    version: '1.0', truncation: null, padding: null,
    added_tokens: [{ id: size, content: '<|endoftext|>', single_word: false, lstrip: false, rstrip: false, normalized: false, special: true }],
    normalizer: { type: 'NFC' }, pre_tokenizer: { ...byteLevel, use_regex: true }, post_processor: null, decoder: { ...byteLevel, use_regex: false },
    model: { type: 'BPE', dropout: null, unk_token: null, continuing_subword_prefix: '', end_of_word_suffix: '', fuse_unk: false, byte_fallback: false, vocab: Object.fromEntries(tokens.map((token, id) => [token, id])), merges },
  }
}
