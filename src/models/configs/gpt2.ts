import { z } from 'zod'
import { lazily } from '../../options.ts'
import { flag, layerCount, optional, parseFields, positive, probability, readActivation, readHeadDim, readTokenIds, refuse, size, text, tokenFields, type RawConfig } from './common.ts'
import type { ConfigReader, Gpt2Config } from './types.ts'

/** transformers accepts the general names for GPT-2's own. */
const aliases: Readonly<Record<string, string>> = {
  hidden_size: 'n_embd', max_position_embeddings: 'n_positions', num_attention_heads: 'n_head', num_hidden_layers: 'n_layer', intermediate_size: 'n_inner',
}

/** True for a general name that config.json of GPT-2 does not use. */
export const isGpt2Alias = (key: string): boolean => Object.hasOwn(aliases, key)

const fields = lazily(() => z.object({
  vocab_size: size,
  n_positions: optional(size, 1024),
  n_embd: size,
  n_layer: layerCount,
  n_head: size,
  n_inner: optional(size, undefined),
  activation_function: optional(text, 'gelu_new'),
  resid_pdrop: optional(probability, 0.1),
  embd_pdrop: optional(probability, 0.1),
  attn_pdrop: optional(probability, 0.1),
  layer_norm_epsilon: optional(positive, 1e-5),
  initializer_range: optional(positive, 0.02),
  scale_attn_weights: optional(flag, true),
  scale_attn_by_inverse_layer_idx: optional(flag, false),
  add_cross_attention: optional(flag, false),
  tie_word_embeddings: optional(flag, true),
  ...tokenFields,
}))

function read(raw: RawConfig, where: string): Gpt2Config {
  const own = { ...raw }
  for (const [general, name] of Object.entries(aliases)) {
    const value = raw[general]
    if (value === undefined || value === null) continue
    if (raw[name] !== undefined && raw[name] !== null && raw[name] !== value) refuse(where, general, `the value of ${name} (${JSON.stringify(raw[name])})`, value)
    own[name] = value
  }
  const f = parseFields(fields, own, where)
  if (f.add_cross_attention) refuse(where, 'add_cross_attention', 'false: anneal has GPT-2 as a decoder only', true)
  return {
    kind: 'gpt2', modelType: 'gpt2', architecture: 'GPT2LMHeadModel', raw,
    vocabSize: f.vocab_size, hiddenSize: f.n_embd, intermediateSize: f.n_inner ?? 4 * f.n_embd, numHiddenLayers: f.n_layer,
    numAttentionHeads: f.n_head, numKeyValueHeads: f.n_head, headDim: readHeadDim(where, undefined, ['n_embd', f.n_embd], ['n_head', f.n_head]),
    hiddenAct: readActivation(where, 'activation_function', f.activation_function), maxPositionEmbeddings: f.n_positions,
    initializerRange: f.initializer_range, tieWordEmbeddings: f.tie_word_embeddings, attentionDropout: f.attn_pdrop, ...readTokenIds(f),
    layerNormEpsilon: f.layer_norm_epsilon, residPdrop: f.resid_pdrop, embdPdrop: f.embd_pdrop,
    scaleAttnWeights: f.scale_attn_weights, scaleAttnByInverseLayerIdx: f.scale_attn_by_inverse_layer_idx,
  }
}

export const gpt2: ConfigReader = { modelType: 'gpt2', architecture: 'GPT2LMHeadModel', read }
