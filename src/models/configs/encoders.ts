import { z } from 'zod'
import { lazily } from '../../options.ts'
import { flag, layerCount, optional, parseFields, positive, probability, readActivation, readHeadDim, readTokenIds, refuse, size, text, tokenFields, type RawConfig } from './common.ts'
import type { ConfigReader, EncoderConfig } from './types.ts'

const fields = lazily(() => z.object({
  vocab_size: size,
  hidden_size: optional(size, 768),
  num_hidden_layers: optional(layerCount, 12),
  num_attention_heads: optional(size, 12),
  intermediate_size: optional(size, 3072),
  hidden_act: optional(text, 'gelu'),
  hidden_dropout_prob: optional(probability, 0.1),
  attention_probs_dropout_prob: optional(probability, 0.1),
  classifier_dropout: optional(probability, undefined),
  max_position_embeddings: optional(size, 512),
  type_vocab_size: optional(size, 2),
  initializer_range: optional(positive, 0.02),
  layer_norm_eps: optional(positive, 1e-12),
  tie_word_embeddings: optional(flag, true),
  position_embedding_type: optional(text, 'absolute'),
  is_decoder: optional(flag, false),
  add_cross_attention: optional(flag, false),
  ...tokenFields,
}))

/** Where a family of BERT's shape differs. */
interface Family {
  modelType: string
  architecture: string
  padTokenId: number
  /** Whether positions are counted from the padding token's id + 1. */
  positionsAfterPadding: boolean
}

const reader = (family: Family): ConfigReader<EncoderConfig> => ({ modelType: family.modelType, architecture: family.architecture, read: (raw, where) => read(family, raw, where) })

function read(family: Family, raw: RawConfig, where: string): EncoderConfig {
  const f = parseFields(fields, raw, where)
  if (f.is_decoder || f.add_cross_attention) refuse(where, f.is_decoder ? 'is_decoder' : 'add_cross_attention', `false: anneal has ${family.modelType} as an encoder only`, true)
  if (f.position_embedding_type !== 'absolute') refuse(where, 'position_embedding_type', '"absolute"', f.position_embedding_type)
  const tokens = readTokenIds(f)
  const padTokenId = f.pad_token_id === undefined ? family.padTokenId : tokens.padTokenId
  const positionOffset = family.positionsAfterPadding ? (padTokenId ?? family.padTokenId) + 1 : 0
  if (f.max_position_embeddings <= positionOffset) refuse(where, 'max_position_embeddings', `more than ${positionOffset}, as positions begin after the padding token's id`, f.max_position_embeddings)
  return {
    kind: 'encoder', modelType: family.modelType, architecture: family.architecture, raw,
    vocabSize: f.vocab_size, hiddenSize: f.hidden_size, intermediateSize: f.intermediate_size, numHiddenLayers: f.num_hidden_layers,
    numAttentionHeads: f.num_attention_heads, numKeyValueHeads: f.num_attention_heads,
    headDim: readHeadDim(where, undefined, ['hidden_size', f.hidden_size], ['num_attention_heads', f.num_attention_heads]),
    hiddenAct: readActivation(where, 'hidden_act', f.hidden_act), maxPositionEmbeddings: f.max_position_embeddings - positionOffset,
    initializerRange: f.initializer_range, tieWordEmbeddings: f.tie_word_embeddings, attentionDropout: f.attention_probs_dropout_prob, ...tokens, padTokenId,
    layerNormEps: f.layer_norm_eps, hiddenDropoutProb: f.hidden_dropout_prob, classifierDropout: f.classifier_dropout ?? f.hidden_dropout_prob,
    typeVocabSize: f.type_vocab_size, positionOffset,
  }
}

/** BERT (Devlin et al. 2018). */
export const bert = reader({ modelType: 'bert', architecture: 'BertForMaskedLM', padTokenId: 0, positionsAfterPadding: false })

/** RoBERTa (Liu et al. 2019). */
export const roberta = reader({ modelType: 'roberta', architecture: 'RobertaForMaskedLM', padTokenId: 1, positionsAfterPadding: true })
