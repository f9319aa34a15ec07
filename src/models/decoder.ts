import { Embedding, Linear, type LinearLayer, Module, RMSNorm } from '../nn/index.ts'
import { gatedActivation, reshape, ropePair } from '../ops/index.ts'
import type { Tensor } from '../tensor/index.ts'
import { selfAttention, type LayerContext } from './attention.ts'
import type { FlatBatch } from './batch.ts'
import { CausalLanguageModel } from './causal.ts'
import type { DecoderConfig } from './config.ts'
import { preNormLayer, runLayers, type LayerOutput, type ResidualLayer, type RunOptions } from './layers.ts'
import { RopeTables } from './ropeTables.ts'
import { joinEmbeddings } from './virtualTokens.ts'

const linear = (config: DecoderConfig, inFeatures: number, outFeatures: number, bias: boolean): LinearLayer =>
  new Linear(inFeatures, outFeatures, { bias, deviation: config.initializerRange })

/** Grouped-query self-attention with rotary positions. */
class DecoderAttention extends Module {
  q_proj: LinearLayer
  k_proj: LinearLayer
  v_proj: LinearLayer
  o_proj: LinearLayer
  readonly q_norm: RMSNorm | undefined
  readonly k_norm: RMSNorm | undefined
  readonly #config: DecoderConfig
  readonly #layer: number

  constructor(config: DecoderConfig, layer: number) {
    super()
    const { hiddenSize, headDim, numAttentionHeads, numKeyValueHeads, qkvBias, outputBias } = config
    this.#config = config
    this.#layer = layer
    this.q_proj = linear(config, hiddenSize, numAttentionHeads * headDim, qkvBias)
    this.k_proj = linear(config, hiddenSize, numKeyValueHeads * headDim, qkvBias)
    this.v_proj = linear(config, hiddenSize, numKeyValueHeads * headDim, qkvBias)
    this.o_proj = linear(config, numAttentionHeads * headDim, hiddenSize, outputBias)
    if (config.qkNorm) {
      this.q_norm = new RMSNorm(headDim, config.rmsNormEps)
      this.k_norm = new RMSNorm(headDim, config.rmsNormEps)
    }
  }

  /** x [tokens, hiddenSize]. */
  forward(x: Tensor, context: LayerContext): Tensor {
    const { headDim, numAttentionHeads, numKeyValueHeads, slidingWindows, attentionDropout } = this.#config
    const heads = (projection: LinearLayer, count: number) => reshape(projection.forward(x), [-1, count, headDim])
    const normed = (states: Tensor, norm: RMSNorm | undefined) => norm ? norm.forward(states) : states
    const { cos, sin, row } = context.rope!
    const [q, k] = ropePair(normed(heads(this.q_proj, numAttentionHeads), this.q_norm), normed(heads(this.k_proj, numKeyValueHeads), this.k_norm), cos, sin, row)
    const v = heads(this.v_proj, numKeyValueHeads)
    const out = selfAttention(q, k, v, context, {
      layer: this.#layer, scale: 1 / Math.sqrt(headDim), window: slidingWindows[this.#layer]!, dropout: this.training ? attentionDropout : 0,
    })
    return this.o_proj.forward(reshape(out, [-1, numAttentionHeads * headDim]))
  }
}

/** down(activation(gate(x)) * up(x)). */
class DecoderMlp extends Module {
  gate_proj: LinearLayer
  up_proj: LinearLayer
  down_proj: LinearLayer
  readonly #config: DecoderConfig

  constructor(config: DecoderConfig) {
    super()
    const { hiddenSize, intermediateSize, mlpBias } = config
    this.#config = config
    this.gate_proj = linear(config, hiddenSize, intermediateSize, mlpBias)
    this.up_proj = linear(config, hiddenSize, intermediateSize, mlpBias)
    this.down_proj = linear(config, intermediateSize, hiddenSize, mlpBias)
  }

  forward(x: Tensor): Tensor {
    return this.down_proj.forward(gatedActivation(this.gate_proj.forward(x), this.up_proj.forward(x), this.#config.hiddenAct))
  }
}

class DecoderLayer extends Module implements ResidualLayer {
  self_attn: DecoderAttention
  mlp: DecoderMlp
  readonly input_layernorm: RMSNorm
  readonly post_attention_layernorm: RMSNorm

  constructor(config: DecoderConfig, layer: number) {
    super()
    this.self_attn = new DecoderAttention(config, layer)
    this.mlp = new DecoderMlp(config)
    this.input_layernorm = new RMSNorm(config.hiddenSize, config.rmsNormEps)
    this.post_attention_layernorm = new RMSNorm(config.hiddenSize, config.rmsNormEps)
  }

  forward(branch: Tensor, residual: Tensor | null, context: LayerContext): LayerOutput {
    return preNormLayer(branch, residual, {
      before: this.input_layernorm, attend: (x) => this.self_attn.forward(x, context), between: this.post_attention_layernorm, mlp: (x) => this.mlp.forward(x),
    })
  }
}

class DecoderModel extends Module {
  readonly embed_tokens: Embedding
  readonly layers: DecoderLayer[]
  readonly norm: RMSNorm
  #tables: RopeTables | undefined
  readonly #config: DecoderConfig

  constructor(config: DecoderConfig) {
    super()
    this.#config = config
    this.embed_tokens = new Embedding(config.vocabSize, config.hiddenSize, { deviation: config.initializerRange, paddingIdx: config.padTokenId })
    this.layers = Array.from({ length: config.numHiddenLayers }, (_, layer) => new DecoderLayer(config, layer))
    this.norm = new RMSNorm(config.hiddenSize, config.rmsNormEps)
  }

  forward(batch: FlatBatch, shared: Omit<LayerContext, 'rope'>, options: RunOptions): Tensor {
    this.#tables ??= new RopeTables(this.#config.rope, this.embed_tokens.weight.device)
    const context: LayerContext = { ...shared, rope: this.#tables.lookup(batch) }
    return runLayers(this.layers, this.norm, joinEmbeddings(this.embed_tokens.forward(batch.inputIds), context.virtual), context, options)
  }

  override dispose(): void {
    this.#tables?.dispose()
    super.dispose()
  }
}

/** A decoder of Llama's shape: Llama, Mistral, Qwen2 and Qwen3, as its config says. */
export class DecoderForCausalLM extends CausalLanguageModel {
  config: DecoderConfig
  readonly model: DecoderModel
  lm_head: LinearLayer
  override readonly baseModelPrefix = 'model'
  override readonly ignoredTensors = /(?:^|\.)rotary_emb\.inv_freq$/

  constructor(config: DecoderConfig) {
    super()
    this.config = config
    this.model = new DecoderModel(config)
    const head = new Linear(config.hiddenSize, config.vocabSize, { deviation: config.initializerRange })
    if (config.tieWordEmbeddings) head.weight = this.model.embed_tokens.weight
    this.lm_head = head
  }

  override getInputEmbeddings(): Embedding { return this.model.embed_tokens }

  protected override hidden(batch: FlatBatch, context: Omit<LayerContext, 'rope'>, options: RunOptions): Tensor {
    return this.model.forward(batch, context, options)
  }
}
