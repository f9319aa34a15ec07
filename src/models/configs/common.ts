import { z } from 'zod'
import { ConfigError } from '../../errors.ts'
import type { JsonValue } from '../../files/index.ts'
import { lazily } from '../../options.ts'
import { didYouMean } from '../../suggest.ts'

/** config.json as read. */
export type RawConfig = Readonly<{ [key: string]: JsonValue }>

/** Activations by the names of operations.h. */
export type ActivationName = 'gelu' | 'gelu_tanh' | 'silu' | 'relu' | 'tanh' | 'quick_gelu'

/** transformers' names for the activations anneal computes. */
const activations: Readonly<Record<string, ActivationName>> = {
  silu: 'silu', swish: 'silu', gelu: 'gelu', gelu_new: 'gelu_tanh', gelu_fast: 'gelu_tanh', gelu_pytorch_tanh: 'gelu_tanh',
  relu: 'relu', tanh: 'tanh', quick_gelu: 'quick_gelu',
}

/** How a value of config.json reads in a message. */
export const show = (value: unknown): string => (value === undefined ? 'nothing' : JSON.stringify(value).slice(0, 80))

/** Throws the ConfigError `where: field: expected …, got …`. */
export function refuse(where: string, field: string, expected: string, got: unknown, next = ''): never {
  throw new ConfigError(`${where}: ${field}: expected ${expected}, got ${show(got)}${next}`)
}

/** A field with a test; the text says what is expected. */
const field = <T>(expected: string, test: (value: unknown) => boolean) => lazily(() => z.custom<T>(test, { error: expected }))

const whole = (value: unknown): value is number => typeof value === 'number' && Number.isSafeInteger(value)

/** A size: 1 to 2^31 - 1. */
export const size = field<number>('a whole number from 1 to 2147483647', (v) => whole(v) && v >= 1 && v <= 0x7fffffff)
/** A number of layers; the limit keeps a damaged file from building a model forever. */
export const layerCount = field<number>('a whole number from 1 to 10000', (v) => whole(v) && v >= 1 && v <= 10_000)
export const index = field<number>('a whole number, 0 or more', (v) => whole(v) && v >= 0)
export const positive = field<number>('a number above 0', (v) => typeof v === 'number' && Number.isFinite(v) && v > 0)
export const probability = field<number>('a number from 0 up to, not including, 1', (v) => typeof v === 'number' && v >= 0 && v < 1)
export const flag = field<boolean>('true or false', (v) => typeof v === 'boolean')
export const positives = field<number[]>('a list of numbers above 0', (v) => Array.isArray(v) && v.every((x) => typeof x === 'number' && Number.isFinite(x) && x > 0))
/** transformers 5 writes lists of end-of-sequence ids too; some old files say -1 for "none". */
export const tokenIds = field<number | number[]>('a token id or a list of token ids', (v) => (Array.isArray(v) ? v : [v]).every((id) => whole(id) && id >= -1))
export const tokenId = field<number>('a token id', (v) => whole(v) && v >= -1)
export const names = field<string[]>('a list of names', (v) => Array.isArray(v) && v.every((x) => typeof x === 'string'))
export const text = field<string>('a string', (v) => typeof v === 'string')
export const object = field<RawConfig>('an object', (v) => typeof v === 'object' && v !== null && !Array.isArray(v))

/** A field that may be missing or null, then `fallback`. */
export const optional = <T, F>(schema: z.ZodType<T>, fallback: F) => schema.nullish().transform((value): T | F => value ?? fallback)

/** Parses the fields a family needs; unknown keys are left alone. */
export function parseFields<S extends z.ZodType>(schema: S, raw: unknown, where: string, within = ''): z.infer<S> {
  const result = schema.safeParse(raw)
  if (result.success) return result.data
  const issue = result.error.issues[0]!
  const path = issue.path.map(String)
  let value: unknown = raw
  for (const key of path) value = typeof value === 'object' && value !== null ? (value as Record<string, unknown>)[key] : undefined
  return refuse(where, [...(within ? [within] : []), ...path].join('.'), issue.message, value)
}

/** Fields every family has under these names. */
export const tokenFields = lazily(() => ({
  bos_token_id: optional(tokenId, undefined),
  eos_token_id: optional(tokenIds, undefined),
  pad_token_id: optional(tokenId, undefined),
}))

/** Token ids as the model uses them: -1 means none. */
export function readTokenIds(fields: { bos_token_id: number | undefined, eos_token_id: number | number[] | undefined, pad_token_id: number | undefined }): {
  bosTokenId: number | undefined, eosTokenIds: readonly number[], padTokenId: number | undefined
} {
  const one = (id: number | undefined) => (id === -1 ? undefined : id)
  return {
    bosTokenId: one(fields.bos_token_id),
    eosTokenIds: [fields.eos_token_id ?? []].flat().filter((id) => id >= 0),
    padTokenId: one(fields.pad_token_id),
  }
}

/** The activation of that name; a ConfigError listing the known ones. */
export function readActivation(where: string, key: string, name: string): ActivationName {
  const found = Object.hasOwn(activations, name) ? activations[name] : undefined
  return found ?? refuse(where, key, `one of ${Object.keys(activations).join(', ')}`, name, didYouMean(name, Object.keys(activations)))
}

/** The size of a head: given, or hidden size over heads. The attention kernels need a multiple of 8 up to 256. */
export function readHeadDim(where: string, given: number | undefined, hidden: [key: string, size: number], heads: [key: string, count: number]): number {
  if (given === undefined && hidden[1] % heads[1] !== 0) {
    refuse(where, hidden[0], `a multiple of ${heads[0]} (${heads[1]}), as there is no head_dim`, hidden[1])
  }
  const headDim = given ?? hidden[1] / heads[1]
  if (headDim % 8 !== 0 || headDim > 256) {
    refuse(where, given === undefined ? `${hidden[0]} / ${heads[0]}` : 'head_dim', 'a head size that is a multiple of 8 and at most 256', headDim)
  }
  return headDim
}
