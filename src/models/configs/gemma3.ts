import { z } from 'zod'
import { lazily } from '../../options.ts'
import {
  flag, layerCount, names, object, optional, parseFields, positive, probability, readActivation, readHeadDim, readTokenIds, refuse, size, text, tokenFields, type RawConfig,
} from './common.ts'
import { readRope, ropeFields, type RopeConfig } from './rope.ts'
import type { ConfigReader, DecoderConfig } from './types.ts'

const fields = lazily(() => z.object({
  vocab_size: size,
  hidden_size: size,
  intermediate_size: size,
  num_hidden_layers: layerCount,
  num_attention_heads: size,
  num_key_value_heads: optional(size, undefined),
  head_dim: optional(size, 256),
  hidden_activation: optional(text, 'gelu_pytorch_tanh'),
  max_position_embeddings: optional(size, 131_072),
  initializer_range: optional(positive, 0.02),
  rms_norm_eps: optional(positive, 1e-6),
  tie_word_embeddings: optional(flag, true),
  attention_bias: optional(flag, false),
  attention_dropout: optional(probability, 0),
  query_pre_attn_scalar: optional(positive, 256),
  sliding_window: optional(size, 4096),
  sliding_window_pattern: optional(size, 6),
  layer_types: optional(names, undefined),
  rope_local_base_freq: optional(positive, undefined),
  final_logit_softcapping: optional(positive, undefined),
  attn_logit_softcapping: optional(positive, undefined),
  use_bidirectional_attention: optional(flag, false),
  ...tokenFields,
  ...ropeFields,
}))

type Fields = z.infer<typeof fields>

/** `layer_types`, or full attention in every sixth layer. */
function readWindows(f: Fields, where: string): number[] {
  const types = f.layer_types ?? Array.from({ length: f.num_hidden_layers }, (_, layer) => ((layer + 1) % f.sliding_window_pattern ? 'sliding_attention' : 'full_attention'))
  if (types.length !== f.num_hidden_layers) refuse(where, 'layer_types', `one entry for each of num_hidden_layers (${f.num_hidden_layers})`, types.length)
  return types.map((type, layer) => {
    if (type === 'full_attention') return 0
    return type === 'sliding_attention' ? f.sliding_window : refuse(where, `layer_types.${layer}`, '"full_attention" or "sliding_attention"', type)
  })
}

const perLayer = lazily(() => z.object({ full_attention: optional(object, undefined), sliding_attention: optional(object, undefined) }))

/** Both rotations: transformers 5 nests them by type of layer in rope_parameters, earlier files have rope_theta, rope_scaling and rope_local_base_freq. */
function readRopes(f: Fields, where: string, headDim: number): { rope: RopeConfig, localRope: RopeConfig } {
  const { full_attention: full, sliding_attention: local } = f.rope_parameters ? parseFields(perLayer, f.rope_parameters, where, 'rope_parameters') : {}
  const model = { headDim, maxPositionEmbeddings: f.max_position_embeddings, partialRotary: false }
  const one = (parameters: RawConfig | undefined, theta: number | undefined, usual: number, scaling: RawConfig | undefined) =>
    readRope(where, { ...f, rope_parameters: parameters, rope_scaling: scaling, rope_theta: theta ?? (parameters?.rope_theta === undefined ? usual : undefined) }, model)
  const rope = one(full, f.rope_theta, 1_000_000, f.rope_scaling)
  const localRope = one(local, f.rope_local_base_freq, 10_000, undefined)
  // Frequencies that change with a sequence's length are looked after for one rotation only.
  if (localRope.type !== 'default' && localRope.type !== 'linear') refuse(where, 'rope_parameters.sliding_attention.rope_type', '"default" or "linear"', localRope.type)
  return { rope, localRope }
}

function read(raw: RawConfig, where: string): DecoderConfig {
  const f = parseFields(fields, raw, where)
  for (const key of ['final_logit_softcapping', 'attn_logit_softcapping'] as const) {
    if (f[key] !== undefined) refuse(where, key, 'null, as Gemma 3 was released', f[key])
  }
  if (f.use_bidirectional_attention) refuse(where, 'use_bidirectional_attention', 'false: anneal has Gemma 3 as a causal language model only', true)
  const heads = f.num_attention_heads
  const numKeyValueHeads = f.num_key_value_heads ?? heads
  if (heads % numKeyValueHeads !== 0) refuse(where, 'num_key_value_heads', `a divisor of num_attention_heads (${heads})`, numKeyValueHeads)
  const headDim = readHeadDim(where, f.head_dim, ['hidden_size', f.hidden_size], ['num_attention_heads', heads])
  return {
    kind: 'decoder', modelType: 'gemma3_text', architecture: 'Gemma3ForCausalLM', raw,
    vocabSize: f.vocab_size, hiddenSize: f.hidden_size, intermediateSize: f.intermediate_size, numHiddenLayers: f.num_hidden_layers,
    numAttentionHeads: heads, numKeyValueHeads, headDim, hiddenAct: readActivation(where, 'hidden_activation', f.hidden_activation),
    maxPositionEmbeddings: f.max_position_embeddings, initializerRange: f.initializer_range, tieWordEmbeddings: f.tie_word_embeddings,
    attentionDropout: f.attention_dropout, ...readTokenIds(f), rmsNormEps: f.rms_norm_eps,
    qkvBias: f.attention_bias, outputBias: f.attention_bias, mlpBias: false, qkNorm: true, slidingWindows: readWindows(f, where), ...readRopes(f, where, headDim),
    attentionScale: 1 / Math.sqrt(f.query_pre_attn_scalar), embeddingScale: Math.sqrt(f.hidden_size), normOffset: 1, postNorms: true,
  }
}

/** Gemma 3 without its vision tower, as the 270M and 1B models are. */
export const gemma3: ConfigReader = { modelType: 'gemma3_text', architecture: 'Gemma3ForCausalLM', read }
