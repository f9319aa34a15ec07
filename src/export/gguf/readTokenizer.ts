import { FileFormatError } from '../../errors.ts'
import { Tokenizer } from '../../tokenizers/index.ts'
import { Metadata } from './config.ts'
import { preTokenizerNamed } from './preTokenizer.ts'
import type { GgufFile } from './reader.ts'
import { mergesOfScores } from './spm.ts'
import { tokenTypes } from './tokenizer.ts'

const mark = '▁'

interface Lists { tokens: string[], types: number[] }

/** Vocabulary from text to id, without the places that no token has. */
const vocabOf = ({ tokens, types }: Lists): Map<string, number> =>
  new Map(tokens.flatMap((token, id): [string, number][] => (types[id] === tokenTypes.unused ? [] : [[token, id]])))

function scoresOf(file: GgufFile, { tokens }: Lists): number[] {
  const scores = new Metadata(file).list('tokenizer.ggml.scores', 'number')
  if (scores?.length !== tokens.length) throw new FileFormatError(`${file.path}: tokenizer.ggml.scores: expected ${tokens.length} numbers, one for each token, got ${scores?.length ?? 'nothing'}`)
  return scores
}

/** normalizer, pre_tokenizer, model and decoder of each kind of tokenizer; undefined where its cutting into words is not known here. */
function partsOf(file: GgufFile, lists: Lists): Record<string, unknown> | undefined {
  const metadata = new Metadata(file)
  const unknown = metadata.optional('tokenizer.ggml.unknown_token_id', 'number')
  const vocab = vocabOf(lists)
  const prefix = metadata.optional('tokenizer.ggml.add_space_prefix', 'boolean') ?? true
  switch (metadata.string('tokenizer.ggml.model')) {
    case 'gpt2': {
      const name = metadata.optional('tokenizer.ggml.pre', 'string') ?? 'gpt-2'
      const preTokenizer = preTokenizerNamed(name)
      const merges = metadata.list('tokenizer.ggml.merges', 'string') ?? []
      // llama.cpp takes whole words from these vocabularies before it merges.
      const model = { type: 'BPE', vocab: Object.fromEntries(vocab), merges, ignore_merges: name === 'llama-bpe' || name === 'tekken' }
      return preTokenizer && { normalizer: null, pre_tokenizer: preTokenizer, model, decoder: { type: 'ByteLevel' } }
    }
    case 'llama': {
      const scores = scoresOf(file, lists)
      const merges = mergesOfScores(vocab, (token) => (lists.types[vocab.get(token)!] === tokenTypes.normal ? scores[vocab.get(token)!] : undefined))
      const replace = { type: 'Replace', pattern: { String: ' ' }, content: mark }
      return {
        normalizer: { type: 'Sequence', normalizers: [...(prefix ? [{ type: 'Prepend', prepend: mark }] : []), replace] }, pre_tokenizer: null,
        model: { type: 'BPE', vocab: Object.fromEntries(vocab), merges, byte_fallback: true, fuse_unk: true, unk_token: unknown === undefined ? null : lists.tokens[unknown] },
        decoder: { type: 'Sequence', decoders: [
          { type: 'Replace', pattern: { String: mark }, content: ' ' }, { type: 'ByteFallback' }, { type: 'Fuse' }, ...(prefix ? [{ type: 'Strip', content: ' ', start: 1, stop: 0 }] : []),
        ] },
      }
    }
    case 't5': {
      const scores = scoresOf(file, lists)
      const extra = metadata.optional('tokenizer.ggml.remove_extra_whitespaces', 'boolean') ?? false
      const map = metadata.list('tokenizer.ggml.precompiled_charsmap', 'number')
      const metaspace = { type: 'Metaspace', replacement: mark, prepend_scheme: prefix ? 'always' : 'never', split: true }
      return {
        normalizer: { type: 'Sequence', normalizers: [
          ...(map ? [{ type: 'Precompiled', precompiled_charsmap: Buffer.from(map).toString('base64') }] : []),
          ...(extra ? [{ type: 'Replace', pattern: { Regex: ' {2,}' }, content: ' ' }] : []),
        ] },
        pre_tokenizer: metaspace, decoder: metaspace,
        model: { type: 'Unigram', unk_id: unknown ?? null, vocab: lists.tokens.map((token, id) => [token, scores[id]]), byte_fallback: false },
      }
    }
    default: return undefined
  }
}

/** Puts BOS and EOS around a text, where the file says so. */
function postProcessor(file: GgufFile, { tokens }: Lists): object | null {
  const metadata = new Metadata(file)
  const around = (['bos', 'eos'] as const).map((name) => {
    const id = metadata.optional(`tokenizer.ggml.${name}_token_id`, 'number')
    return metadata.optional(`tokenizer.ggml.add_${name}_token`, 'boolean') && id !== undefined ? tokens[id] : undefined
  })
  const [bos, eos] = around
  if (bos === undefined && eos === undefined) return null
  const special = (id: string | undefined) => (id === undefined ? [] : [{ SpecialToken: { id, type_id: 0 } }])
  const single = [...special(bos), { Sequence: { id: 'A', type_id: 0 } }, ...special(eos)]
  const ids = Object.fromEntries(around.flatMap((token) => (token === undefined ? [] : [[token, { id: token, ids: [tokens.indexOf(token)], tokens: [token] }]])))
  return { type: 'TemplateProcessing', single, pair: [...single, { Sequence: { id: 'B', type_id: 1 } }], special_tokens: ids }
}

function configOf(file: GgufFile, { tokens, types }: Lists): Record<string, unknown> {
  const metadata = new Metadata(file)
  const roles = ([['bos', 'bos_token'], ['eos', 'eos_token'], ['unknown', 'unk_token'], ['padding', 'pad_token']] as const).flatMap(([name, key]): [string, unknown][] => {
    const id = metadata.optional(`tokenizer.ggml.${name}_token_id`, 'number')
    // An ordinary token that ends a text must not become a control token, which text could not spell any more.
    return id === undefined || tokens[id] === undefined || types[id] === tokenTypes.normal ? [] : [[key, tokens[id]]]
  })
  const template = metadata.optional('tokenizer.chat_template', 'string')
  const named = metadata.list('tokenizer.chat_templates', 'string') ?? []
  const templates = named.map((name) => ({ name, template: metadata.string(`tokenizer.chat_template.${name}`) }))
  return {
    ...Object.fromEntries(roles),
    ...(templates.length > 0 ? { chat_template: [...(template === undefined ? [] : [{ name: 'default', template }]), ...templates] } : template === undefined ? {} : { chat_template: template }),
  }
}

/** The tokenizer of a file, as llama.cpp cuts text with it; undefined where its way of cutting words is not known here, or there is none. */
export function readGgufTokenizer(file: GgufFile): Tokenizer | undefined {
  const metadata = new Metadata(file)
  const tokens = metadata.list('tokenizer.ggml.tokens', 'string')
  if (!tokens) return undefined
  const types = metadata.list('tokenizer.ggml.token_type', 'number') ?? tokens.map(() => tokenTypes.normal)
  if (types.length !== tokens.length) throw new FileFormatError(`${file.path}: tokenizer.ggml.token_type: expected ${tokens.length} numbers, one for each token, got ${types.length}`)
  const lists: Lists = { tokens, types }
  const parts = partsOf(file, lists)
  if (!parts) return undefined
  const added = tokens.flatMap((content, id) => {
    const special = types[id] === tokenTypes.control || types[id] === tokenTypes.unknown
    return special || types[id] === tokenTypes.userDefined ? [{ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special }] : []
  })
  return Tokenizer.fromJSON({ version: '1.0', added_tokens: added, post_processor: postProcessor(file, lists), ...parts }, configOf(file, lists))
}
