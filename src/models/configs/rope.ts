import { z } from 'zod'
import { ConfigError } from '../../errors.ts'
import { lazily } from '../../options.ts'
import { didYouMean } from '../../suggest.ts'
import { flag, object, optional, parseFields, positive, positives, refuse, show, size, text, type RawConfig } from './common.ts'

interface RopeBase {
  /** The base of the wavelengths. */
  readonly theta: number
  /** The size of a head and how many of its entries turn. */
  readonly headDim: number
  readonly rotaryDim: number
  readonly maxPositionEmbeddings: number
}

/** Rotary embedding and its scaling, as transformers' `rope_parameters`. */
export type RopeConfig =
  | RopeBase & { readonly type: 'default' }
  | RopeBase & { readonly type: 'linear', readonly factor: number }
  /** Dynamic NTK: the base grows with the length of the sequence beyond maxPositionEmbeddings. */
  | RopeBase & { readonly type: 'dynamic', readonly factor: number }
  | RopeBase & {
    readonly type: 'yarn'
    readonly factor: number
    readonly originalMaxPositionEmbeddings: number
    readonly attentionFactor: number | undefined
    readonly betaFast: number
    readonly betaSlow: number
    readonly mscale: number | undefined
    readonly mscaleAllDim: number | undefined
    readonly truncate: boolean
  }
  | RopeBase & {
    readonly type: 'llama3'
    readonly factor: number
    readonly lowFreqFactor: number
    readonly highFreqFactor: number
    readonly originalMaxPositionEmbeddings: number
  }
  | RopeBase & {
    readonly type: 'longrope'
    readonly factor: number
    readonly attentionFactor: number | undefined
    readonly shortFactor: readonly number[]
    readonly longFactor: readonly number[]
    readonly originalMaxPositionEmbeddings: number
  }

const ropeTypes = ['default', 'linear', 'dynamic', 'yarn', 'llama3', 'longrope'] as const

/** The fields of config.json that describe rotary embeddings: transformers 5 nests all in rope_parameters, earlier files use the others. */
export const ropeFields = lazily(() => ({
  rope_theta: optional(positive, undefined),
  partial_rotary_factor: optional(positive, undefined),
  rope_scaling: optional(object, undefined),
  rope_parameters: optional(object, undefined),
  original_max_position_embeddings: optional(size, undefined),
}))

type RopeFields = z.infer<z.ZodObject<typeof ropeFields>>

/** Both layouts in one file must agree where both speak. */
function requireAgreement(where: string, fields: RopeFields): void {
  const { rope_scaling: old, rope_parameters: current } = fields
  const pairs: [string, unknown, unknown][] = [['rope_theta', fields.rope_theta, current?.rope_theta]]
  for (const key of Object.keys(old ?? {})) {
    const known = key === 'type' ? current?.rope_type ?? current?.type : key === 'rope_type' ? current?.rope_type ?? current?.type : current?.[key]
    pairs.push([`rope_scaling.${key}`, old?.[key], known])
  }
  for (const [key, a, b] of pairs) {
    if (a !== undefined && a !== null && b !== undefined && b !== null && JSON.stringify(a) !== JSON.stringify(b)) {
      throw new ConfigError(`${where}: ${key} and rope_parameters contradict each other: ${show(a)} and ${show(b)}; remove one of them`)
    }
  }
}

/** What the rotary embedding needs to know of the model. */
export interface RopeModel {
  readonly headDim: number
  readonly maxPositionEmbeddings: number
  /** Whether the family turns only part of each head where partial_rotary_factor says so. */
  readonly partialRotary: boolean
}

/** Reads the rotary embedding of a decoder from either layout of config.json. */
export function readRope(where: string, fields: RopeFields, model: RopeModel): RopeConfig {
  requireAgreement(where, fields)
  const within = fields.rope_scaling ? 'rope_scaling' : 'rope_parameters'
  const raw: RawConfig = { ...fields.rope_parameters, ...fields.rope_scaling }
  const head = parseFields(z.object({
    rope_type: optional(text, undefined), type: optional(text, undefined), rope_theta: optional(positive, undefined), partial_rotary_factor: optional(positive, undefined),
  }), raw, where, within)
  const named = head.rope_type ?? head.type ?? 'default'
  const type = ropeTypes.find((known) => known === named)
    ?? refuse(where, `${within}.rope_type`, `one of ${ropeTypes.join(', ')}`, named, didYouMean(named, ropeTypes))
  const nested = Object.keys(raw).find((key) => typeof raw[key] === 'object' && raw[key] !== null && !Array.isArray(raw[key]))
  if (nested !== undefined) refuse(where, `${within}.${nested}`, 'one set of rotary parameters for all layers', raw[nested])

  const partial = head.partial_rotary_factor ?? fields.partial_rotary_factor ?? 1
  if (partial !== 1 && !model.partialRotary) refuse(where, 'partial_rotary_factor', '1: this architecture turns whole heads', partial)
  const rotaryDim = Math.trunc(model.headDim * partial)
  if (rotaryDim < 2 || rotaryDim % 2 !== 0 || rotaryDim > model.headDim) {
    refuse(where, 'partial_rotary_factor', `an even number of rotated entries, 2 to head_dim (${model.headDim})`, partial, `, which rotates ${rotaryDim}`)
  }
  const base: RopeBase = {
    theta: head.rope_theta ?? fields.rope_theta ?? 10_000,
    headDim: model.headDim, rotaryDim, maxPositionEmbeddings: model.maxPositionEmbeddings,
  }
  const scaling = () => parseFields(z.object({ factor: positive }), raw, where, within)
  const original = () => fields.original_max_position_embeddings
    ?? parseFields(z.object({ original_max_position_embeddings: optional(size, model.maxPositionEmbeddings) }), raw, where, within).original_max_position_embeddings
  /** YaRN and LongRoPE without a factor extend by the ratio of the two lengths. */
  const factorOrRatio = (length: number) => parseFields(z.object({ factor: optional(positive, model.maxPositionEmbeddings / length) }), raw, where, within).factor

  switch (type) {
    case 'default': return { ...base, type }
    case 'linear': return { ...base, type, ...scaling() }
    case 'dynamic': return { ...base, type, ...scaling() }
    case 'llama3': return readLlama3(where, within, raw, { ...base, ...scaling(), originalMaxPositionEmbeddings: original() })
    case 'yarn': {
      const yarn = parseFields(z.object({
        attention_factor: optional(positive, undefined), beta_fast: optional(positive, 32), beta_slow: optional(positive, 1),
        mscale: optional(positive, undefined), mscale_all_dim: optional(positive, undefined), truncate: optional(flag, true),
      }), raw, where, within)
      return {
        ...base, type, factor: factorOrRatio(original()), originalMaxPositionEmbeddings: original(), attentionFactor: yarn.attention_factor,
        betaFast: yarn.beta_fast, betaSlow: yarn.beta_slow, mscale: yarn.mscale, mscaleAllDim: yarn.mscale_all_dim, truncate: yarn.truncate,
      }
    }
    case 'longrope': {
      const long = parseFields(z.object({ short_factor: positives, long_factor: positives, attention_factor: optional(positive, undefined) }), raw, where, within)
      for (const key of ['short_factor', 'long_factor'] as const) {
        if (long[key].length !== rotaryDim / 2) refuse(where, `${within}.${key}`, `${rotaryDim / 2} numbers, half of the rotated entries`, long[key].length)
      }
      return {
        ...base, type, factor: factorOrRatio(original()), originalMaxPositionEmbeddings: original(), attentionFactor: long.attention_factor,
        shortFactor: long.short_factor, longFactor: long.long_factor,
      }
    }
  }
}

function readLlama3(where: string, within: string, raw: RawConfig, base: RopeBase & { factor: number, originalMaxPositionEmbeddings: number }): RopeConfig {
  const { low_freq_factor: lowFreqFactor, high_freq_factor: highFreqFactor } = parseFields(z.object({ low_freq_factor: positive, high_freq_factor: positive }), raw, where, within)
  if (highFreqFactor <= lowFreqFactor) refuse(where, `${within}.high_freq_factor`, `more than low_freq_factor (${lowFreqFactor})`, highFreqFactor)
  return { ...base, type: 'llama3', lowFreqFactor, highFreqFactor }
}
