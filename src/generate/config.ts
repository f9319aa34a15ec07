import { z } from 'zod'
import { ConfigError } from '../errors.ts'
import { lazily, parseOptions, type OptionsOf } from '../options.ts'

const whole = lazily(() => z.int().min(0))
const positive = lazily(() => z.int().min(1))
const tokenId = lazily(() => z.int().min(0))
/** What float32 holds. */
const bias = lazily(() => z.number().min(-3.4028234663852886e38).max(3.4028234663852886e38))
const tokenIds = lazily(() => z.union([tokenId, z.array(tokenId)]).nullable())

/**
 * How to generate: transformers' GenerationConfig in camelCase, with its defaults. The same schema checks the API's options, the CLI's flags and
 * YAML files.
 */
export const generationShape = lazily(() => ({
  maxNewTokens: positive.optional().describe('Most tokens to generate; 20 when neither this nor maxLength is given'),
  maxLength: positive.optional().describe('Most tokens of prompt and answer together, where maxNewTokens is not given'),
  minNewTokens: whole.optional().describe('No end-of-sequence token before this many tokens'),
  minLength: whole.default(0).describe('The same counted with the prompt, where minNewTokens is not given'),
  doSample: z.boolean().default(false).describe('Draw tokens at random instead of taking the most likely one'),
  temperature: z.number().min(0).default(1).describe('Logits are divided by this before drawing; 0 takes the most likely token'),
  topK: whole.default(50).describe('Draw from the most likely tokens only; 0 for all'),
  topP: z.number().min(0).max(1).default(1).describe('Draw from the fewest tokens whose probabilities reach this sum'),
  minP: z.number().min(0).max(1).default(0).describe('Leave out tokens less likely than this share of the most likely one'),
  repetitionPenalty: z.number().positive().default(1).describe('Makes tokens of prompt and answer less likely to come again; 1 for none (Keskar et al. 2019)'),
  sequenceBias: z.array(z.tuple([z.array(tokenId).min(1), bias])).default([]).describe('Pairs [ids, bias]: the bias is added to the logit of the last id after the others'),
  noRepeatNgramSize: whole.default(0).describe('No sequence of this many tokens comes twice, in prompt and answer; 0 for off'),
  badWordsIds: z.array(z.array(tokenId).min(1)).default([]).describe('Sequences of token ids that never come: the last id is banned after the others. A token alone that ends answers is left out'),
  forcedEosTokenId: tokenIds.optional().describe('Token ids of which one must come as the last token where an answer is not over before'),
  suppressTokens: z.array(tokenId).default([]).describe('Token ids that never come'),
  eosTokenId: tokenIds.optional().describe('Token ids that end an answer; null or [] for none. Default: the model\'s, else the tokenizer\'s'),
  padTokenId: tokenId.nullable().optional().describe('Accepted for compatibility; anneal does not pad'),
  stopStrings: z.union([z.string().min(1), z.array(z.string().min(1))]).default([]).describe('Texts that end an answer; they are not part of its text'),
  numReturnSequences: positive.default(1).describe('Answers for each prompt'),
  numBeams: z.literal(1).default(1).describe('Accepted for compatibility; anneal has no beam search'),
  seed: whole.max(Number.MAX_SAFE_INTEGER).optional().describe('Draws depend on this, the prompt and the place only. Default: from manualSeed()'),
} as const))

/** The options of sampling, as a zod schema; names are those of transformers' GenerationConfig in camelCase. */
export const generationSchema = lazily(() => z.strictObject(generationShape))

/** What a user gives. */
export type GenerationOptions = OptionsOf<typeof generationSchema>

/** With defaults filled in, and lists where one value was allowed. */
export interface GenerationConfig extends Omit<z.output<typeof generationSchema>, 'eosTokenId' | 'forcedEosTokenId' | 'padTokenId' | 'stopStrings' | 'numBeams'> {
  eosTokenIds: readonly number[]
  forcedEosTokenIds: readonly number[]
  stopStrings: readonly string[]
}

const snakeCase = (key: string): string => key.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)
const listOf = <T>(value: T | readonly T[] | null | undefined): readonly T[] => value === null || value === undefined ? [] : Array.isArray(value) ? value : [value as T]

/** Where options of generation come from that a call does not give. */
export interface ConfigSources {
  /** generation_config.json of the model; keys anneal has no use for are ignored. */
  readonly model?: Readonly<Record<string, unknown>> | undefined
  /** End-of-sequence ids where neither the options nor the model's file name any. */
  readonly eosTokenIds?: readonly number[] | undefined
}

/** The options over those of the model's generation_config.json over transformers' defaults. Throws ConfigError naming each wrong option. */
export function resolveGenerationConfig(options: GenerationOptions = {}, { model = {}, eosTokenIds = [] }: ConfigSources = {}): GenerationConfig {
  const given = Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined))
  parseOptions(generationSchema, given, 'generation options')
  const stored = storedOptions(model)
  // A length that the caller asks for is not overruled by the other kind of length in the file.
  if (given.maxLength !== undefined) delete stored.maxNewTokens
  if (given.minLength !== undefined) delete stored.minNewTokens
  const { eosTokenId, forcedEosTokenId, padTokenId: _pad, numBeams: _beams, stopStrings, ...rest } = parseOptions(generationSchema, { ...stored, ...given }, 'generation options')
  return { ...rest, eosTokenIds: eosTokenId === undefined ? eosTokenIds : listOf(eosTokenId), forcedEosTokenIds: listOf(forcedEosTokenId), stopStrings: listOf(stopStrings) }
}

/** What generation_config.json says of the options here. */
function storedOptions(model: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const stored = Object.fromEntries(Object.keys(generationShape).flatMap((name) => {
    const value = model[snakeCase(name)]
    return value === undefined || value === null ? [] : [[name, value]]
  }))
  try {
    parseOptions(generationSchema, stored, 'generation options')
  } catch (error) {
    if (error instanceof ConfigError) throw new ConfigError(`generation_config.json: ${error.message}`, { cause: error })
    throw error
  }
  return stored
}

/** Tokens that transformers generates where no length is given. */
const defaultNewTokens = 20

/** How many tokens may follow a prompt of `promptLength` tokens. Throws ConfigError where there is room for none. */
export function newTokenLimit(config: GenerationConfig, promptLength: number, contextLength: number): number {
  if (promptLength >= contextLength) {
    throw new ConfigError(`the prompt has ${promptLength} tokens, but the model's context holds ${contextLength} with the answer; shorten the prompt to ${contextLength - 1} tokens or fewer`)
  }
  const room = contextLength - promptLength
  if (config.maxNewTokens !== undefined) return Math.min(config.maxNewTokens, room)
  if (config.maxLength === undefined) return Math.min(defaultNewTokens, room)
  if (promptLength >= config.maxLength) {
    throw new ConfigError(`the prompt has ${promptLength} tokens, but maxLength is ${config.maxLength}; make it larger, or give maxNewTokens`)
  }
  return Math.min(config.maxLength - promptLength, room)
}

/** How many tokens must come before one may end the answer. */
export const leastNewTokens = ({ minNewTokens, minLength }: GenerationConfig, promptLength: number): number => minNewTokens ?? Math.max(0, minLength - promptLength)
