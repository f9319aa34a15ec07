import type { RopeConfig } from './configs/rope.ts'

const { fround } = Math

/** base^(2i / dim) for i < dim / 2, each step rounded to float32 as PyTorch does. */
function wavelengthBases(base: number, dim: number): Float32Array {
  return Float32Array.from({ length: dim / 2 }, (_, i) => Math.pow(fround(base), fround((2 * i) / dim)))
}

const reciprocals = (values: Float32Array): Float32Array => values.map((value) => 1 / value)

/** Inverse frequencies of the rotated pairs and the factor on cos and sin. */
export interface RopeFrequencies {
  readonly inverseFrequencies: Float32Array
  readonly attentionFactor: number
}

/**
 * What transformers' modeling_rope_utils computes for `config`. `length` is the highest position of the call plus one; only dynamic NTK and
 * LongRoPE depend on it.
 */
export function ropeFrequencies(config: RopeConfig, length = 0): RopeFrequencies {
  const plain = () => reciprocals(wavelengthBases(config.theta, config.rotaryDim))
  switch (config.type) {
    case 'default': return { inverseFrequencies: plain(), attentionFactor: 1 }
    case 'linear': return { inverseFrequencies: plain().map((f) => f / fround(config.factor)), attentionFactor: 1 }
    case 'dynamic': return { inverseFrequencies: dynamic(config, length), attentionFactor: 1 }
    case 'yarn': return yarn(config)
    case 'llama3': return { inverseFrequencies: llama3(config, plain()), attentionFactor: 1 }
    case 'longrope': return longRope(config, length)
  }
}

/** Dynamic NTK: base (factor length / max - (factor - 1))^(dim / (dim - 2)). */
function dynamic(config: RopeConfig & { type: 'dynamic' }, length: number): Float32Array {
  const { factor, rotaryDim: dim, maxPositionEmbeddings: max } = config
  const growth = (factor * Math.max(length, max)) / max - (factor - 1)
  return reciprocals(wavelengthBases(config.theta * Math.pow(growth, dim / (dim - 2)), dim))
}

/** YaRN (Peng et al. 2023, arXiv 2309.00071): high frequencies stay, low ones are interpolated, a linear ramp between. */
function yarn(config: RopeConfig & { type: 'yarn' }): RopeFrequencies {
  const { factor, rotaryDim: dim, theta, originalMaxPositionEmbeddings: original, mscale, mscaleAllDim } = config
  const scale = (m: number) => (factor <= 1 ? 1 : 0.1 * m * Math.log(factor) + 1)
  const attentionFactor = config.attentionFactor ?? (mscale && mscaleAllDim ? scale(mscale) / scale(mscaleAllDim) : scale(1))
  /** The dimension that turns `rotations` times over the original length. */
  const dimension = (rotations: number) => (dim * Math.log(original / (rotations * 2 * Math.PI))) / (2 * Math.log(theta))
  const round = config.truncate ? { low: Math.floor, high: Math.ceil } : { low: Number, high: Number }
  const low = Math.max(round.low(dimension(config.betaFast)), 0)
  let high = Math.min(round.high(dimension(config.betaSlow)), dim - 1)
  if (low === high) high += 0.001
  const inverseFrequencies = wavelengthBases(theta, dim).map((base, i) => {
    const ramp = fround(Math.min(Math.max(fround(fround(i - low) / fround(high - low)), 0), 1))
    const keep = fround(1 - ramp)
    return fround(fround(1 / fround(fround(factor) * base)) * fround(1 - keep)) + fround(fround(1 / base) * keep)
  })
  return { inverseFrequencies, attentionFactor }
}

/** Llama 3.1: wavelengths beyond the original context are stretched by `factor`, with a smooth passage. */
function llama3(config: RopeConfig & { type: 'llama3' }, plain: Float32Array): Float32Array {
  const { factor, lowFreqFactor: lowFactor, highFreqFactor: highFactor, originalMaxPositionEmbeddings: original } = config
  return plain.map((frequency) => {
    const wavelength = fround((2 * Math.PI) / frequency)
    if (wavelength > original / lowFactor) return frequency / factor
    if (wavelength < original / highFactor) return frequency
    const smooth = fround(fround(fround(original / wavelength) - lowFactor) / (highFactor - lowFactor))
    return fround(fround(fround(1 - smooth) * frequency) / factor) + fround(smooth * frequency)
  })
}

/** LongRoPE (Ding et al. 2024, arXiv 2402.13753): a factor per frequency, one list within the original length and one beyond it. */
function longRope(config: RopeConfig & { type: 'longrope' }, length: number): RopeFrequencies {
  const { factor, originalMaxPositionEmbeddings: original } = config
  const factors = length > original ? config.longFactor : config.shortFactor
  const attentionFactor = config.attentionFactor ?? (factor <= 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(original)))
  const bases = wavelengthBases(config.theta, config.rotaryDim)
  return { inverseFrequencies: bases.map((base, i) => 1 / fround(fround(factors[i]!) * base)), attentionFactor }
}

/** Which frequencies a length needs: 0 for those of short sequences, else a number that equal lengths share. */
export function ropeLengthKey(config: RopeConfig, length: number): number {
  if (config.type === 'dynamic') return length > config.maxPositionEmbeddings ? length : 0
  if (config.type === 'longrope') return length > config.originalMaxPositionEmbeddings ? 1 : 0
  return 0
}

/** cos and sin of each position: float32 [positions, rotaryDim / 2], the attention factor included. */
export function ropeRows({ inverseFrequencies, attentionFactor }: RopeFrequencies, positions: Int32Array): { cos: Float32Array, sin: Float32Array } {
  const half = inverseFrequencies.length
  const cos = new Float32Array(positions.length * half)
  const sin = new Float32Array(positions.length * half)
  const factor = fround(attentionFactor)
  for (let p = 0; p < positions.length; p++) {
    for (let i = 0; i < half; i++) {
      const angle = fround(positions[p]! * inverseFrequencies[i]!)
      cos[p * half + i] = fround(Math.cos(angle)) * factor
      sin[p * half + i] = fround(Math.sin(angle)) * factor
    }
  }
  return { cos, sin }
}
