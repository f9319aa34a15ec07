import { Embedding, type EmbeddingLayer, Linear, type LinearLayer, Module, RMSNorm } from '../nn/index.ts'
import { gatedActivation, mul, reshape, ropePair } from '../ops/index.ts'
import type { Tensor } from '../tensor/index.ts'
import { selfAttention, type LayerContext } from './attention.ts'
import type { FlatBatch } from './batch.ts'
import { CausalLanguageModel } from './causal.ts'
import type { DecoderConfig } from './config.ts'
import { preNormLayer, runLayers, type LayerOutput, type ResidualLayer, type RunOptions } from './layers.ts'
import { outputLayer } from './outputLayer.ts'
import { RopeTables } from './ropeTables.ts'
import { joinEmbeddings } from './virtualTokens.ts'

const linear = (config: DecoderConfig, inFeatures: number, outFeatures: number, bias: boolean): LinearLayer =>
  new Linear(inFeatures, outFeatures, { bias, deviation: config.initializerRange })

const norm = (config: DecoderConfig, width = config.hiddenSize): RMSNorm => new RMSNorm(width, config.rmsNormEps, config.normOffset)

/** To nearest even: the upper half of a float32. */
function roundToBfloat16(x: number): number {
  const value = Float32Array.of(x)
  const [bits] = new Uint32Array(value.buffer)
  new Uint32Array(value.buffer)[0] = (bits! + 0x7fff + ((bits! >>> 16) & 1)) & 0xffff_0000
  return value[0]!
}

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
      this.q_norm = norm(config, headDim)
      this.k_norm = norm(config, headDim)
    }
  }

  /** x [tokens, hiddenSize]. */
  forward(x: Tensor, context: LayerContext): Tensor {
    const { headDim, numAttentionHeads, numKeyValueHeads, slidingWindows, attentionDropout, attentionScale } = this.#config
    const window = slidingWindows[this.#layer]!
    const heads = (projection: LinearLayer, count: number) => reshape(projection.forward(x), [-1, count, headDim])
    const normed = (states: Tensor, norm: RMSNorm | undefined) => norm ? norm.forward(states) : states
    const { cos, sin, row } = (window > 0 ? context.localRope : undefined) ?? context.rope!
    const [q, k] = ropePair(normed(heads(this.q_proj, numAttentionHeads), this.q_norm), normed(heads(this.k_proj, numKeyValueHeads), this.k_norm), cos, sin, row)
    const v = heads(this.v_proj, numKeyValueHeads)
    const out = selfAttention(q, k, v, context, {
      layer: this.#layer, scale: attentionScale, window, dropout: this.training ? attentionDropout : 0,
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
  /** Comes before the MLP, but where postNorms is set after attention. */
  readonly post_attention_layernorm: RMSNorm
  readonly pre_feedforward_layernorm: RMSNorm | undefined
  readonly post_feedforward_layernorm: RMSNorm | undefined

  constructor(config: DecoderConfig, layer: number) {
    super()
    this.self_attn = new DecoderAttention(config, layer)
    this.mlp = new DecoderMlp(config)
    this.input_layernorm = norm(config)
    this.post_attention_layernorm = norm(config)
    if (config.postNorms) {
      this.pre_feedforward_layernorm = norm(config)
      this.post_feedforward_layernorm = norm(config)
    }
  }

  forward(branch: Tensor, residual: Tensor | null, context: LayerContext): LayerOutput {
    const { input_layernorm: before, post_attention_layernorm: between, pre_feedforward_layernorm: preNorm, post_feedforward_layernorm: postNorm } = this
    const attend = (x: Tensor) => this.self_attn.forward(x, context)
    const mlp = (x: Tensor) => this.mlp.forward(x)
    if (!preNorm || !postNorm) return preNormLayer(branch, residual, { before, attend, between, mlp })
    return preNormLayer(branch, residual, { before, attend: (x) => between.forward(attend(x)), between: preNorm, mlp: (x) => postNorm.forward(mlp(x)) })
  }
}

class DecoderModel extends Module {
  embed_tokens: EmbeddingLayer
  readonly layers: DecoderLayer[]
  readonly norm: RMSNorm
  #tables: RopeTables | undefined
  #localTables: RopeTables | undefined
  readonly #config: DecoderConfig

  constructor(config: DecoderConfig) {
    super()
    this.#config = config
    this.embed_tokens = new Embedding(config.vocabSize, config.hiddenSize, { deviation: config.initializerRange, paddingIdx: config.padTokenId })
    this.layers = Array.from({ length: config.numHiddenLayers }, (_, layer) => new DecoderLayer(config, layer))
    this.norm = norm(config)
  }

  forward(batch: FlatBatch, shared: Omit<LayerContext, 'rope'>, options: RunOptions): Tensor {
    const { rope, localRope } = this.#config
    const { device } = this.embed_tokens
    this.#tables ??= new RopeTables(rope, device)
    if (localRope) this.#localTables ??= new RopeTables(localRope, device)
    const context: LayerContext = { ...shared, rope: this.#tables.lookup(batch), localRope: this.#localTables?.lookup(batch) }
    return runLayers(this.layers, this.norm, joinEmbeddings(this.#embed(batch.inputIds), context.virtual), context, options)
  }

  /** The embeddings, scaled as the model's dtype can say it. */
  #embed(ids: Tensor): Tensor {
    const { embeddingScale } = this.#config
    const embedded = this.embed_tokens.forward(ids)
    return embeddingScale === 1 ? embedded : mul(embedded, embedded.dtype === 'bfloat16' ? roundToBfloat16(embeddingScale) : embeddingScale)
  }

  override dispose(): void {
    this.#tables?.dispose()
    this.#localTables?.dispose()
    super.dispose()
  }
}

/** A decoder of Llama's shape: Llama, Mistral, Qwen2, Qwen3 and Gemma 3, as its config says. */
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
    this.lm_head = outputLayer(config, this.model.embed_tokens)
  }

  override getInputEmbeddings(): EmbeddingLayer { return this.model.embed_tokens }

  protected override hidden(batch: FlatBatch, context: Omit<LayerContext, 'rope'>, options: RunOptions): Tensor {
    return this.model.forward(batch, context, options)
  }
}
