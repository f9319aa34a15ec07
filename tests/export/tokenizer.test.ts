// Proves that a GGUF file says of the tokenizer what llama.cpp needs: tokens and their kinds, merges or scores, special and stop tokens, chat template.
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { exportGguf, heldOutText, loadGguf, type GgufValue } from '../../src/export/index.ts'
import { detectPreTokenizer, preTokenizerNamed } from '../../src/export/gguf/preTokenizer.ts'
import { mergesOfScores, scoresOfMerges } from '../../src/export/gguf/spm.ts'
import { turnEnd } from '../../src/export/gguf/stopTokens.ts'
import { withoutGenerationTags } from '../../src/export/gguf/tokenizer.ts'
import { chatMLTemplate, Tokenizer } from '../../src/tokenizers/index.ts'
import { recordedModel, recordedTokenizer } from './fixtures.ts'
import { temporaryFolder } from './folder.ts'

const folder = temporaryFolder()

async function exported(family: string, tokenizer: Tokenizer, change?: (model: Awaited<ReturnType<typeof recordedModel>>) => void) {
  const model = await recordedModel(family, tokenizer)
  change?.(model)
  const path = join(folder, `${family}.gguf`)
  const { warnings } = await exportGguf(model, tokenizer, path, { type: 'bf16' })
  const loaded = await loadGguf(path)
  model.dispose()
  loaded.model.dispose()
  const get = (key: string): GgufValue['value'] | undefined => loaded.metadata.get(`tokenizer.${key}`)?.value
  return { ...loaded, warnings, get }
}

const messages = [{ role: 'user', content: 'Hi' }, { role: 'assistant', content: 'Hello' }] as const

test('a byte-level tokenizer comes back with its tokens, chat template and stop tokens', async () => {
  const source = recordedTokenizer('qwen2', { eos_token: '<|endoftext|>', chat_template: chatMLTemplate })
  const { get, tokenizer, model } = await exported('qwen2', source, (one) => { one.generationConfig = { eos_token_id: [600, 602] } })
  expect([get('ggml.model'), get('ggml.pre'), get('ggml.add_bos_token'), get('ggml.add_eos_token')]).toEqual(['gpt2', 'qwen2', false, false])
  // The template ends a turn with <|im_end|>, which is not the tokenizer's EOS.
  expect([get('ggml.eos_token_id'), get('ggml.eot_token_id')]).toEqual([source.tokenToId('<|endoftext|>'), source.tokenToId('<|im_end|>')])
  expect(model.generationConfig?.eos_token_id).toEqual(expect.arrayContaining([600, 602]))
  const types = get('ggml.token_type') as number[]
  expect([types[0], types[600], types.length]).toEqual([1, 3, source.embeddingRows])

  for (const text of [heldOutText, 'naïve 日本語 👩‍👩‍👧 \r\n\t 12345 <|im_start|>x']) expect(tokenizer!.encode(text)).toEqual(source.encode(text))
  expect(get('chat_template')).not.toMatch(/generation -?%\}/)
  expect(tokenizer!.applyChatTemplate(messages, { tokenize: false })).toBe(source.applyChatTemplate(messages, { tokenize: false }))
})

test('a token that the tokenizer puts before a text is BOS', async () => {
  const source = recordedTokenizer('llama3')
  const { get, tokenizer } = await exported('llama3', source)
  expect([get('ggml.pre'), get('ggml.bos_token_id'), get('ggml.add_bos_token')]).toEqual(['llama-bpe', 600, true])
  expect(tokenizer!.encode(heldOutText)).toEqual(source.encode(heldOutText))
})

test('BPE with byte fallback is written as SentencePiece has it', async () => {
  const source = recordedTokenizer('llama2', { bos_token: '<s>', eos_token: '</s>', unk_token: '<unk>' })
  const { get, tokenizer } = await exported('llama2', source)
  expect([get('ggml.model'), get('ggml.add_space_prefix'), get('ggml.unknown_token_id'), get('ggml.bos_token_id'), get('ggml.eos_token_id')]).toEqual(['llama', true, 0, 1, 2])
  const types = get('ggml.token_type') as number[]
  expect(types.slice(0, 4)).toEqual([2, 3, 3, 6])
  expect((get('ggml.scores') as number[])[source.tokenToId('or')!]).toBe(0)
  for (const text of [heldOutText, 'naïve 日本語 👍']) expect(tokenizer!.encode(text)).toEqual(source.encode(text))
  expect(tokenizer!.decode(tokenizer!.encode('naïve 日本語 👍'))).toBe('naïve 日本語 👍')
})

test('Unigram is written with its scores', async () => {
  const source = recordedTokenizer('unigram')
  const { get, tokenizer, warnings } = await exported('llama2', source)
  expect([get('ggml.model'), get('ggml.remove_extra_whitespaces')]).toEqual(['t5', true])
  expect(warnings.join()).toContain('NFKC')
  expect(tokenizer!.encode(heldOutText)).toEqual(source.encode(heldOutText))
})

test('merges that SentencePiece would do come back from their scores', () => {
  const vocab = new Map(['a', 'b', 'c', 'ab', 'bc', 'abc'].map((token, id) => [token, id]))
  const merges = [['a', 'b'], ['b', 'c'], ['a', 'bc'], ['ab', 'c']] as const
  const scores = scoresOfMerges(merges)
  expect(Object.fromEntries(scores)).toEqual({ ab: 0, bc: -1, abc: -2 })
  expect(mergesOfScores(vocab, (token) => scores.get(token))).toEqual(merges)
})

test('patterns have llama.cpp\'s names, and names their patterns', () => {
  for (const [name, expected] of [['gpt2', 'gpt-2'], ['llama3', 'llama-bpe'], ['qwen2', 'qwen2']] as const) {
    const { pre_tokenizer: preTokenizer } = JSON.parse(recordedTokenizer(name).toJSON()) as { pre_tokenizer: unknown }
    expect(detectPreTokenizer(preTokenizer)).toBe(expected)
  }
  for (const name of ['gpt-2', 'llama-bpe', 'qwen2', 'tekken', 'gpt-4o', 'smollm']) expect(detectPreTokenizer(preTokenizerNamed(name))).toBe(name)
  expect(preTokenizerNamed('no-such')).toBeUndefined()
  expect(detectPreTokenizer({ type: 'ByteLevel', add_prefix_space: true, use_regex: true })).toBeUndefined()
})

test('the end of a turn is found in the template', () => {
  const of = (template: string) => turnEnd(recordedTokenizer('qwen2', { chat_template: template }))
  expect(of(chatMLTemplate)).toBe('<|im_end|>')
  expect(of('{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}')).toBeUndefined()
  expect(of('{{ raise_exception("no") }}')).toBeUndefined()
  expect(turnEnd(recordedTokenizer('qwen2'))).toBeUndefined()
})

test('tags for training leave the template with their trimming', () => {
  expect(withoutGenerationTags('a {%- generation %} b {% endgeneration -%} c')).toBe('a {%- if true %} b {% endif -%} c')
})

test('a tokenizer that llama.cpp cannot follow is refused with the way out', async () => {
  const json = JSON.parse(recordedTokenizer('qwen2').toJSON()) as Record<string, unknown>
  const refused = async (change: Record<string, unknown>, options: { preTokenizer?: string } = {}) => {
    const tokenizer = Tokenizer.fromJSON({ ...json, ...change })
    const model = await recordedModel('qwen2', tokenizer)
    try { return await exportGguf(model, tokenizer, join(folder, 'refused.gguf'), options) } finally { model.dispose() }
  }
  const unknown = { type: 'Sequence', pretokenizers: [{ type: 'Split', pattern: { Regex: 'x+' }, behavior: 'Isolated', invert: false }, { type: 'ByteLevel', add_prefix_space: false, use_regex: false }] }
  await expect(refused({ pre_tokenizer: unknown })).rejects.toThrow(/pre_tokenizer: expected a pattern that llama\.cpp has.*--pre-tokenizer/)
  await expect(refused({ pre_tokenizer: unknown }, { preTokenizer: 'starcoder' })).resolves.toBeDefined()
  await expect(refused({ normalizer: { type: 'Lowercase' } })).rejects.toThrow(/normalizer: expected what llama\.cpp can do/)

  const bert = recordedTokenizer('bert')
  const model = await recordedModel('llama2', bert)
  await expect(exportGguf(model, bert, join(folder, 'refused.gguf'))).rejects.toThrow(/byte-level BPE, BPE with byte fallback, or Unigram.*got WordPiece/)
  model.resizeTokenEmbeddings(10)
  await expect(exportGguf(model, recordedTokenizer('llama2'), join(folder, 'refused.gguf'))).rejects.toThrow(/at most 10 tokens.*resizeTokenEmbeddings/)
  model.dispose()
})
