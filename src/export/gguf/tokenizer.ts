import { ConfigError } from '../../errors.ts'
import type { CausalLanguageModel } from '../../models/index.ts'
import type { Tokenizer } from '../../tokenizers/index.ts'
import { readNormalizer } from './normalizer.ts'
import { preTokenizerName, preTokenizerParts } from './preTokenizer.ts'
import { mergesOfScores, scoresOfMerges, type Merge } from './spm.ts'
import { stopTokens } from './stopTokens.ts'
import { bool, list, text, uint32, type GgufValue } from './types.ts'

/** tokenizer.ggml.token_type. */
export const tokenTypes = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const

/** The parts of a tokenizer.json that matter here. */
interface Source {
  readonly normalizer?: unknown
  readonly pre_tokenizer?: unknown
  readonly model: {
    readonly type?: string
    readonly vocab: Readonly<Record<string, number>> | readonly (readonly [string, number])[]
    readonly merges?: readonly (string | Merge)[]
    readonly byte_fallback?: boolean
    readonly unk_token?: string | null
    readonly unk_id?: number | null
  }
}

/** llama.cpp's kind of tokenizer: byte-level BPE, SentencePiece's BPE, SentencePiece's Unigram. */
export type GgufTokenizerModel = 'gpt2' | 'llama' | 't5'

function modelOf(tokenizer: Tokenizer, source: Source): GgufTokenizerModel {
  const byteLevel = preTokenizerParts(source.pre_tokenizer).at(-1)?.type === 'ByteLevel'
  if (tokenizer.modelType === 'BPE' && byteLevel) return 'gpt2'
  if (tokenizer.modelType === 'BPE' && source.model.byte_fallback === true) return 'llama'
  if (tokenizer.modelType === 'Unigram' && !byteLevel) return 't5'
  throw new ConfigError(`tokenizer: expected byte-level BPE, BPE with byte fallback, or Unigram, which llama.cpp can read, got ${tokenizer.modelType}; export a Hugging Face folder instead`)
}

const byteToken = /^<0x[0-9A-F]{2}>$/

/** Texts and types of all ids; ids without a token are `[PAD…]`, unused. */
function tokenLists(tokenizer: Tokenizer, vocabSize: number, model: GgufTokenizerModel, unknown: number | undefined): { tokens: string[], types: number[] } {
  const added = new Map(tokenizer.addedTokens.map((token) => [token.id, token]))
  const tokens: string[] = []
  const types: number[] = []
  for (let id = 0; id < vocabSize; id++) {
    const token = tokenizer.idToToken(id)
    const own = added.get(id)
    tokens.push(token ?? `[PAD${id}]`)
    if (token === undefined) types.push(tokenTypes.unused)
    else if (model !== 'gpt2' && id === unknown) types.push(tokenTypes.unknown)
    else if (own) types.push(own.special ? tokenTypes.control : tokenTypes.userDefined)
    else types.push(model !== 'gpt2' && byteToken.test(token) ? tokenTypes.byte : tokenTypes.normal)
  }
  return { tokens, types }
}

/** A template without the tags that only training needs: llama.cpp's Jinja does not know `{% generation %}`. */
export const withoutGenerationTags = (template: string): string =>
  template.replace(/\{%(-?)\s*generation\s*(-?)%\}/g, '{%$1 if true $2%}').replace(/\{%(-?)\s*endgeneration\s*(-?)%\}/g, '{%$1 endif $2%}')

function templateEntries({ chatTemplates }: Tokenizer['config']): [string, GgufValue][] {
  const named = Object.keys(chatTemplates).filter((name) => name !== 'default')
  return [
    ...(chatTemplates.default === undefined ? [] : [['tokenizer.chat_template', text(withoutGenerationTags(chatTemplates.default))]] as [string, GgufValue][]),
    ...(named.length > 0 ? [['tokenizer.chat_templates', list('string', named)]] as [string, GgufValue][] : []),
    ...named.map((name): [string, GgufValue] => [`tokenizer.chat_template.${name}`, text(withoutGenerationTags(chatTemplates[name]!))]),
  ]
}

const pairOf = (merge: string | Merge): Merge => (typeof merge === 'string' ? merge.split(' ') as unknown as Merge : merge)
const mergesOf = ({ model }: Source): Merge[] => (model.merges ?? []).filter((merge) => typeof merge !== 'string' || !merge.startsWith('#version')).map(pairOf)

/** Scores of SentencePiece's BPE: by the merges, the lowest for single characters. */
function bpeScores(source: Source, tokens: readonly string[], warnings: string[]): number[] {
  const merges = mergesOf(source)
  const scores = scoresOfMerges(merges)
  const vocab = new Map(Object.entries(source.model.vocab as Readonly<Record<string, number>>))
  const implied = mergesOfScores(vocab, (token) => scores.get(token))
  if (implied.length !== merges.length || implied.some(([left, right], i) => left !== merges[i]![0] || right !== merges[i]![1])) {
    warnings.push('the tokenizer has other merges than SentencePiece would do with its vocabulary: llama.cpp cuts some words otherwise')
  }
  return tokens.map((token) => scores.get(token) ?? (vocab.has(token) && !byteToken.test(token) ? -scores.size : 0))
}

/** What the keys of one kind of tokenizer are. */
function modelEntries(model: GgufTokenizerModel, source: Source, tokens: readonly string[], preTokenizer: string | undefined, warnings: string[]): [string, GgufValue][] {
  const normalizer = readNormalizer(source.normalizer, model, warnings)
  if (model === 'gpt2') {
    return [
      ['tokenizer.ggml.pre', text(preTokenizerName(source.pre_tokenizer, preTokenizer))],
      ['tokenizer.ggml.merges', list('string', mergesOf(source).map((merge) => merge.join(' ')))],
    ]
  }
  const metaspace = preTokenizerParts(source.pre_tokenizer).find((part) => part.type === 'Metaspace')
  const scheme = metaspace?.prepend_scheme ?? (metaspace?.add_prefix_space === false ? 'never' : 'always')
  const prefix: [string, GgufValue] = ['tokenizer.ggml.add_space_prefix', bool(normalizer.prepends || (metaspace !== undefined && scheme !== 'never'))]
  const pre: [string, GgufValue] = ['tokenizer.ggml.pre', text(preTokenizer ?? 'default')]
  if (model === 'llama') return [pre, ['tokenizer.ggml.scores', list('float32', bpeScores(source, tokens, warnings))], prefix]
  if (source.model.byte_fallback) warnings.push('llama.cpp reads characters outside the Unigram vocabulary as the unknown token, not as bytes')
  const scores = new Map(source.model.vocab as readonly (readonly [string, number])[])
  return [
    pre, ['tokenizer.ggml.scores', list('float32', tokens.map((token) => scores.get(token) ?? 0))], prefix,
    ['tokenizer.ggml.remove_extra_whitespaces', bool(normalizer.removesExtraBlanks)],
    ...(normalizer.precompiled ? [['tokenizer.ggml.precompiled_charsmap', list('uint8', [...normalizer.precompiled])]] as [string, GgufValue][] : []),
  ]
}

/** The tokens that the post-processor puts before and after a text, seen from what it does. GGUF can say one of each. */
function enclosing(tokenizer: Tokenizer): { before: number | undefined, after: number | undefined } {
  const plain = tokenizer.encode('a', { addSpecialTokens: false })
  const whole = tokenizer.encode('a')
  const at = whole.findIndex((_, i) => plain.every((id, j) => whole[i + j] === id))
  const after = whole.slice(at + plain.length)
  if (at < 0 || at > 1 || after.length > 1) {
    throw new ConfigError(`tokenizer: expected at most one token before and one after a text, which is what llama.cpp can add, got ${JSON.stringify(whole.map((id) => tokenizer.idToToken(id)))} for "a"; export a Hugging Face folder instead`)
  }
  return { before: at === 1 ? whole[0] : undefined, after: after[0] }
}

/**
 * The keys of the tokenizer: tokens, merges or scores, special tokens, the tokens that end an answer, and the chat templates. `preTokenizer` names
 * llama.cpp's cutting into words where it cannot be told from the pattern. What llama.cpp will do otherwise is added to `warnings`.
 */
export function tokenizerMetadata(model: CausalLanguageModel, tokenizer: Tokenizer, preTokenizer: string | undefined, warnings: string[]): Map<string, GgufValue> {
  const { vocabSize, bosTokenId, padTokenId } = model.config
  if (tokenizer.embeddingRows > vocabSize) {
    throw new ConfigError(`tokenizer: expected at most ${vocabSize} tokens, as the model's embeddings have rows, got ${tokenizer.embeddingRows}; give the tokenizer of the model, or call model.resizeTokenEmbeddings(${tokenizer.embeddingRows}) and train it`)
  }
  const source = JSON.parse(tokenizer.toJSON()) as Source
  const kind = modelOf(tokenizer, source)
  const unknown = tokenizer.unkTokenId ?? source.model.unk_id ?? (source.model.unk_token == null ? undefined : tokenizer.tokenToId(source.model.unk_token))
  const { tokens, types } = tokenLists(tokenizer, vocabSize, kind, unknown)
  const { before, after } = enclosing(tokenizer)
  const { eos, eot, eom } = stopTokens(model, tokenizer, after, warnings)
  const bos = before ?? tokenizer.bosTokenId ?? bosTokenId
  const ids: [string, number | undefined][] = [['bos', bos], ['eos', eos], ['eot', eot], ['eom', eom], ['unknown', unknown], ['padding', tokenizer.padTokenId ?? padTokenId]]
  return new Map<string, GgufValue>([
    ['tokenizer.ggml.model', text(kind)],
    ['tokenizer.ggml.tokens', list('string', tokens)],
    ['tokenizer.ggml.token_type', list('int32', types)],
    ...modelEntries(kind, source, tokens, preTokenizer, warnings),
    ...ids.flatMap(([name, id]): [string, GgufValue][] => (id === undefined ? [] : [[`tokenizer.ggml.${name}_token_id`, uint32(id)]])),
    ['tokenizer.ggml.add_bos_token', bool(before !== undefined)],
    ['tokenizer.ggml.add_eos_token', bool(after !== undefined)],
    ...templateEntries(tokenizer.config),
  ])
}
