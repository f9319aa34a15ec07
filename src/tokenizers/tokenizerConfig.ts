import type { AddedToken } from './addedTokens.ts'
import { describe, Fields } from './fields.ts'

/** The roles that a special token can have. */
export type NamedSpecialToken = 'bosToken' | 'eosToken' | 'unkToken' | 'padToken' | 'sepToken' | 'clsToken' | 'maskToken'

/** The roles and the keys of tokenizer_config.json that name their tokens. */
export const specialTokenKeys: readonly (readonly [NamedSpecialToken, string])[] = [
  ['bosToken', 'bos_token'], ['eosToken', 'eos_token'], ['unkToken', 'unk_token'], ['padToken', 'pad_token'],
  ['sepToken', 'sep_token'], ['clsToken', 'cls_token'], ['maskToken', 'mask_token'],
]

/** What anneal uses of tokenizer_config.json; the rest is kept as it was. */
export interface TokenizerConfig {
  tokens: Partial<Record<NamedSpecialToken, string>>
  /** Chat templates by name; the usual one is 'default'. */
  chatTemplates: Record<string, string>
  cleanUpTokenizationSpaces: boolean
  /** Longest input of the model, where the file has a sensible one. */
  modelMaxLength: number | undefined
  /** `added_tokens_decoder`, by id. */
  readonly addedTokens: readonly AddedToken[]
  /** Every other field of the file. */
  readonly rest: Readonly<Record<string, unknown>>
}

/** Reads the parsed tokenizer_config.json; named tokens that it lacks are taken from special_tokens_map.json. */
export function readTokenizerConfig(value: object, path: string, specialTokensMap: object = {}): TokenizerConfig {
  const fields = new Fields(value, path)
  const map = new Fields(specialTokensMap, 'special_tokens_map.json')
  const tokens: TokenizerConfig['tokens'] = {}
  for (const [name, key] of specialTokenKeys) {
    const token = readToken(fields, key) ?? readToken(map, key)
    if (token !== undefined) tokens[name] = token
  }
  const own = new Set(['chat_template', 'clean_up_tokenization_spaces', 'added_tokens_decoder', ...specialTokenKeys.map(([, key]) => key)])
  const rest = Object.fromEntries(Object.entries(fields.value).filter(([key]) => !own.has(key)))
  const longest = fields.raw('model_max_length')
  return {
    tokens,
    chatTemplates: readChatTemplates(fields),
    cleanUpTokenizationSpaces: fields.boolean('clean_up_tokenization_spaces', false),
    modelMaxLength: typeof longest === 'number' && Number.isSafeInteger(longest) && longest > 0 ? longest : undefined,
    addedTokens: readAddedTokens(fields),
    rest,
  }
}

/** A token is written as its text or as an object with `content`. */
function readToken(fields: Fields, key: string): string | undefined {
  if (!fields.has(key)) return undefined
  const value = fields.raw(key)
  const token = typeof value === 'object' ? fields.object(key).string('content') : fields.string(key)
  return token === '' ? undefined : token
}

function readChatTemplates(fields: Fields): Record<string, string> {
  const templates: Record<string, string> = Object.create(null) as Record<string, string>
  if (!fields.has('chat_template')) return templates
  if (typeof fields.raw('chat_template') === 'string') {
    templates['default'] = fields.string('chat_template')
    return templates
  }
  for (const entry of fields.objects('chat_template')) templates[entry.string('name')] = entry.string('template')
  return templates
}

function readAddedTokens(fields: Fields): AddedToken[] {
  if (!fields.has('added_tokens_decoder')) return []
  const table = fields.object('added_tokens_decoder')
  return Object.keys(table.value).map((key): AddedToken => {
    const id = Number(key)
    if (!Number.isSafeInteger(id) || id < 0) table.fail(key, `expected an id as the key, got ${describe(key)}`)
    const entry = table.object(key)
    const special = entry.boolean('special', false)
    return {
      id,
      content: entry.string('content'),
      singleWord: entry.boolean('single_word', false),
      lstrip: entry.boolean('lstrip', false),
      rstrip: entry.boolean('rstrip', false),
      normalized: entry.boolean('normalized', !special),
      special,
    }
  }).sort((a, b) => a.id - b.id)
}
