import { ConfigError } from '../../errors.ts'
import type { DecoderConfig, RopeConfig } from '../../models/index.ts'
import { ropeFrequencies } from '../../models/rope.ts'
import { float32, text, uint32, type GgufValue } from './types.ts'
import type { GgufTensorSource } from './writer.ts'

/** The tensor that divides each frequency of the rotation. */
export const ropeFactorsName = 'rope_freqs.weight'

const cannot = (key: string, expected: string, got: unknown): never => {
  throw new ConfigError(`rope_parameters.${key}: expected ${expected}, which is all that GGUF can say, got ${JSON.stringify(got)}; export a Hugging Face folder instead`)
}

/** LongRoPE whose two lists are one and whose attention is not scaled is what rope_freqs says. */
const isPlainFactors = (rope: RopeConfig & { type: 'longrope' }): boolean =>
  rope.shortFactor.every((factor, i) => factor === rope.longFactor[i]) && ropeFrequencies(rope).attentionFactor === 1

/** The keys of the rotary embedding. Throws ConfigError for what llama.cpp cannot be told. */
export function ropeMetadata(arch: string, { rope }: DecoderConfig, warnings: string[]): [string, GgufValue][] {
  const base: [string, GgufValue][] = [[`${arch}.rope.dimension_count`, uint32(rope.rotaryDim)], [`${arch}.rope.freq_base`, float32(rope.theta)]]
  const scaling = (type: string, factor: number): [string, GgufValue][] => [[`${arch}.rope.scaling.type`, text(type)], [`${arch}.rope.scaling.factor`, float32(factor)]]
  switch (rope.type) {
    case 'default': case 'llama3': return base
    case 'linear': return [...base, ...scaling('linear', rope.factor)]
    case 'dynamic':
      warnings.push(`dynamic rotary scaling is left out: llama.cpp has none, and it changes nothing within ${rope.maxPositionEmbeddings} tokens, the context the file states`)
      return base
    case 'yarn': {
      if (!rope.truncate) cannot('truncate', 'true', false)
      const usual = ropeFrequencies({ ...rope, attentionFactor: undefined, mscale: undefined, mscaleAllDim: undefined }).attentionFactor
      const { attentionFactor } = ropeFrequencies(rope)
      if (Math.abs(attentionFactor - usual) > 1e-6 * usual) cannot('attention_factor', String(usual), attentionFactor)
      return [
        ...base, ...scaling('yarn', rope.factor), [`${arch}.rope.scaling.original_context_length`, uint32(rope.originalMaxPositionEmbeddings)],
        [`${arch}.rope.scaling.yarn_beta_fast`, float32(rope.betaFast)], [`${arch}.rope.scaling.yarn_beta_slow`, float32(rope.betaSlow)],
      ]
    }
    case 'longrope': return isPlainFactors(rope) ? base : cannot('rope_type', 'default, linear, dynamic, yarn, llama3, or longrope with one list of factors', 'longrope')
  }
}

/** rope_freqs, where frequencies are scaled one by one: Llama 3.1, or LongRoPE with one list. */
export function ropeFactors({ rope }: DecoderConfig): GgufTensorSource[] {
  if (rope.type !== 'llama3' && rope.type !== 'longrope') return []
  const plain = ropeFrequencies({ ...rope, type: 'default' }).inverseFrequencies
  const scaled = ropeFrequencies(rope).inverseFrequencies
  const factors = rope.type === 'longrope' ? Float32Array.from(rope.shortFactor) : plain.map((frequency, i) => frequency / scaled[i]!)
  return [{ name: ropeFactorsName, format: 'F32', shape: [factors.length], pieces: () => [new Uint8Array(factors.buffer)] }]
}
