import type { ActivationName, RawConfig } from './common.ts'
import type { RopeConfig } from './rope.ts'

/** What every model's config says. Names are transformers', in camelCase. */
export interface ModelConfigBase {
  /** `model_type` of config.json. */
  readonly modelType: string
  /** The class transformers loads it with. */
  readonly architecture: string
  readonly vocabSize: number
  readonly hiddenSize: number
  readonly intermediateSize: number
  readonly numHiddenLayers: number
  readonly numAttentionHeads: number
  readonly numKeyValueHeads: number
  readonly headDim: number
  readonly hiddenAct: ActivationName
  readonly maxPositionEmbeddings: number
  readonly initializerRange: number
  readonly tieWordEmbeddings: boolean
  readonly attentionDropout: number
  readonly bosTokenId: number | undefined
  /** Empty where the model names none. */
  readonly eosTokenIds: readonly number[]
  readonly padTokenId: number | undefined
  /** config.json as read, unknown keys included; what is written back starts from it. */
  readonly raw: RawConfig
}

/** A decoder of Llama's shape: pre-norm, rotary positions, gated MLP, grouped keys and values. */
export interface DecoderConfig extends ModelConfigBase {
  readonly kind: 'decoder'
  readonly rmsNormEps: number
  /** Biases of q_proj, k_proj and v_proj. */
  readonly qkvBias: boolean
  /** Bias of o_proj. */
  readonly outputBias: boolean
  readonly mlpBias: boolean
  /** RMSNorm over each head of queries and keys before the rotation (Qwen3, Gemma 3). */
  readonly qkNorm: boolean
  /** How many of the last keys a query sees, by layer; 0: all. */
  readonly slidingWindows: readonly number[]
  readonly rope: RopeConfig
  /** The rotation in layers with a window, where it is another (Gemma 3). */
  readonly localRope?: RopeConfig
  /** Scores are multiplied by this. */
  readonly attentionScale: number
  /** The embeddings are multiplied by this: √hiddenSize in Gemma, else 1. */
  readonly embeddingScale: number
  /** Added to the weight of every norm: 1 in Gemma, else 0. */
  readonly normOffset: number
  /** Whether what attention and MLP give is normalised too, before it is added (Gemma). */
  readonly postNorms: boolean
}

/** GPT-2: learned positions, LayerNorm, fused qkv, plain MLP. */
export interface Gpt2Config extends ModelConfigBase {
  readonly kind: 'gpt2'
  readonly layerNormEpsilon: number
  readonly residPdrop: number
  readonly embdPdrop: number
  readonly scaleAttnWeights: boolean
  readonly scaleAttnByInverseLayerIdx: boolean
}

/** An encoder of BERT's shape: every token sees every other, LayerNorm after each half of a layer, learned positions and token types. */
export interface EncoderConfig extends ModelConfigBase {
  readonly kind: 'encoder'
  readonly layerNormEps: number
  readonly hiddenDropoutProb: number
  /** Before a classifier. */
  readonly classifierDropout: number
  readonly typeVocabSize: number
  /** The row of the position table that the first token has: RoBERTa's come after the padding token's. maxPositionEmbeddings counts the rows from there. */
  readonly positionOffset: number
}

/** A causal language model's. */
export type ModelConfig = DecoderConfig | Gpt2Config
/** The config of any model that anneal builds: a decoder's or an encoder's. */
export type AnyModelConfig = ModelConfig | EncoderConfig

/** Reads config.json of one `model_type`. */
export interface ConfigReader<C extends AnyModelConfig = ModelConfig> {
  readonly modelType: string
  readonly architecture: string
  read(raw: RawConfig, where: string): C
}
