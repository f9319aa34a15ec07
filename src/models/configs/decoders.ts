import { z } from 'zod'
import { lazily } from '../../options.ts'
import {
  flag, index, layerCount, names, optional, parseFields, positive, probability, readActivation, readHeadDim, readTokenIds, refuse, size, text, tokenFields,
  type RawConfig,
} from './common.ts'
import { readRope, ropeFields } from './rope.ts'
import type { ConfigReader, DecoderConfig } from './types.ts'

/** Fields of every decoder of Llama's shape; defaults are transformers' where it has one that does not depend on the family. */
const fields = lazily(() => ({
  vocab_size: size,
  hidden_size: size,
  intermediate_size: size,
  num_hidden_layers: layerCount,
  num_attention_heads: size,
  num_key_value_heads: optional(size, undefined),
  head_dim: optional(size, undefined),
  hidden_act: optional(text, 'silu'),
  max_position_embeddings: optional(size, undefined),
  initializer_range: optional(positive, 0.02),
  rms_norm_eps: optional(positive, 1e-6),
  tie_word_embeddings: optional(flag, false),
  attention_dropout: optional(probability, 0),
  attention_bias: optional(flag, false),
  mlp_bias: optional(flag, false),
  use_sliding_window: optional(flag, false),
  sliding_window: size.nullish(),
  max_window_layers: optional(index, 28),
  layer_types: optional(names, undefined),
  ...tokenFields,
  ...ropeFields,
}))

type Fields = z.infer<z.ZodObject<typeof fields>>

/** Where a family of Llama's shape differs. */
interface Family {
  modelType: string
  architecture: string
  maxPositionEmbeddings: number
  qkvBias: (fields: Fields) => boolean
  outputBias: (fields: Fields) => boolean
  mlpBias: (fields: Fields) => boolean
  qkNorm: boolean
  headDim?: number
  slidingWindows: (fields: Fields, where: string) => number[]
}

const everyLayer = (f: Fields, window: number): number[] => Array.from({ length: f.num_hidden_layers }, () => window)

/** Missing means transformers' default, null means none. */
const slidingWindow = (f: Fields): number | undefined => (f.sliding_window === undefined ? 4096 : f.sliding_window ?? undefined)

/** Qwen: `layer_types`, or all layers from max_window_layers on where use_sliding_window says so. */
function qwenWindows(f: Fields, where: string): number[] {
  const window = f.use_sliding_window ? slidingWindow(f) : undefined
  if (!f.layer_types) return everyLayer(f, 0).map((_, layer) => (window !== undefined && layer >= f.max_window_layers ? window : 0))
  if (f.layer_types.length !== f.num_hidden_layers) refuse(where, 'layer_types', `one entry for each of num_hidden_layers (${f.num_hidden_layers})`, f.layer_types.length)
  return f.layer_types.map((type, layer) => {
    if (type === 'full_attention') return 0
    if (type !== 'sliding_attention') return refuse(where, `layer_types.${layer}`, '"full_attention" or "sliding_attention"', type)
    return window ?? refuse(where, `layer_types.${layer}`, '"full_attention", as use_sliding_window is off', type)
  })
}

function reader(family: Family): ConfigReader {
  const { modelType, architecture } = family
  return { modelType, architecture, read: (raw, where) => readDecoder(family, raw, where) }
}

function readDecoder(family: Family, raw: RawConfig, where: string): DecoderConfig {
  const f = parseFields(z.object(fields), raw, where)
  const heads = f.num_attention_heads
  const numKeyValueHeads = f.num_key_value_heads ?? heads
  if (heads % numKeyValueHeads !== 0) refuse(where, 'num_key_value_heads', `a divisor of num_attention_heads (${heads})`, numKeyValueHeads)
  const headDim = readHeadDim(where, f.head_dim ?? family.headDim, ['hidden_size', f.hidden_size], ['num_attention_heads', heads])
  const maxPositionEmbeddings = f.max_position_embeddings ?? family.maxPositionEmbeddings
  return {
    kind: 'decoder', modelType: family.modelType, architecture: family.architecture, raw,
    vocabSize: f.vocab_size, hiddenSize: f.hidden_size, intermediateSize: f.intermediate_size, numHiddenLayers: f.num_hidden_layers,
    numAttentionHeads: heads, numKeyValueHeads, headDim, hiddenAct: readActivation(where, 'hidden_act', f.hidden_act), maxPositionEmbeddings,
    initializerRange: f.initializer_range, tieWordEmbeddings: f.tie_word_embeddings, attentionDropout: f.attention_dropout, ...readTokenIds(f),
    rmsNormEps: f.rms_norm_eps, qkvBias: family.qkvBias(f), outputBias: family.outputBias(f), mlpBias: family.mlpBias(f), qkNorm: family.qkNorm,
    slidingWindows: family.slidingWindows(f, where),
    rope: readRope(where, f, { headDim, maxPositionEmbeddings, partialRotary: false }),
    attentionScale: 1 / Math.sqrt(headDim), embeddingScale: 1, normOffset: 0, postNorms: false,
  }
}

const yes = () => true
const no = () => false
const attentionBias = (f: Fields) => f.attention_bias

/** Llama 1, 2 and 3; also the many models that use its class. */
export const llama = reader({
  modelType: 'llama', architecture: 'LlamaForCausalLM', maxPositionEmbeddings: 2048,
  qkvBias: attentionBias, outputBias: attentionBias, mlpBias: (f) => f.mlp_bias, qkNorm: false, slidingWindows: (f) => everyLayer(f, 0),
})

export const mistral = reader({
  modelType: 'mistral', architecture: 'MistralForCausalLM', maxPositionEmbeddings: 131_072,
  qkvBias: no, outputBias: no, mlpBias: no, qkNorm: false, slidingWindows: (f) => everyLayer(f, slidingWindow(f) ?? 0),
})

/** Qwen2 and Qwen2.5. */
export const qwen2 = reader({
  modelType: 'qwen2', architecture: 'Qwen2ForCausalLM', maxPositionEmbeddings: 32_768,
  qkvBias: yes, outputBias: no, mlpBias: no, qkNorm: false, slidingWindows: qwenWindows,
})

export const qwen3 = reader({
  modelType: 'qwen3', architecture: 'Qwen3ForCausalLM', maxPositionEmbeddings: 32_768,
  qkvBias: attentionBias, outputBias: attentionBias, mlpBias: no, qkNorm: true, headDim: 128, slidingWindows: qwenWindows,
})
