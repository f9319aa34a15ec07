import { ShapeError } from '../errors.ts'
import { Conv1D, Embedding, type EmbeddingLayer, LayerNorm, type LinearLayer, Module } from '../nn/index.ts'
import { add, dropout, reshape, split } from '../ops/index.ts'
import type { Tensor } from '../tensor/index.ts'
import { selfAttention, type LayerContext } from './attention.ts'
import type { FlatBatch } from './batch.ts'
import { CausalLanguageModel } from './causal.ts'
import type { Gpt2Config } from './config.ts'
import { preNormLayer, runLayers, type LayerOutput, type ResidualLayer, type RunOptions } from './layers.ts'
import { outputLayer } from './outputLayer.ts'
import { joinEmbeddings } from './virtualTokens.ts'

/** The projections that end a residual branch start smaller by the square root of their number (Radford et al. 2019). */
const residualDeviation = (config: Gpt2Config): number => config.initializerRange / Math.sqrt(2 * config.numHiddenLayers)

class Gpt2Attention extends Module {
  c_attn: LinearLayer
  c_proj: LinearLayer
  readonly #config: Gpt2Config
  readonly #layer: number

  constructor(config: Gpt2Config, layer: number) {
    super()
    this.#config = config
    this.#layer = layer
    this.c_attn = new Conv1D(config.hiddenSize, 3 * config.hiddenSize, { deviation: config.initializerRange })
    this.c_proj = new Conv1D(config.hiddenSize, config.hiddenSize, { deviation: residualDeviation(config) })
  }

  /** x [tokens, hiddenSize]. */
  forward(x: Tensor, context: LayerContext): Tensor {
    const { hiddenSize, numAttentionHeads, headDim, attentionDropout, residPdrop, scaleAttnWeights, scaleAttnByInverseLayerIdx } = this.#config
    const [q, k, v] = split(this.c_attn.forward(x), [hiddenSize, hiddenSize, hiddenSize]).map((part) => reshape(part, [-1, numAttentionHeads, headDim]))
    const scale = (scaleAttnWeights ? 1 / Math.sqrt(headDim) : 1) / (scaleAttnByInverseLayerIdx ? this.#layer + 1 : 1)
    const out = selfAttention(q!, k!, v!, context, { layer: this.#layer, scale, window: 0, dropout: this.training ? attentionDropout : 0 })
    return dropout(this.c_proj.forward(reshape(out, [-1, hiddenSize])), this.training ? residPdrop : 0)
  }
}

class Gpt2Mlp extends Module {
  c_fc: LinearLayer
  c_proj: LinearLayer
  readonly #config: Gpt2Config

  constructor(config: Gpt2Config) {
    super()
    this.#config = config
    this.c_fc = new Conv1D(config.hiddenSize, config.intermediateSize, { deviation: config.initializerRange })
    this.c_proj = new Conv1D(config.intermediateSize, config.hiddenSize, { deviation: residualDeviation(config) })
  }

  forward(x: Tensor): Tensor {
    return dropout(this.c_proj.forward(this.c_fc.forward(x, this.#config.hiddenAct)), this.training ? this.#config.residPdrop : 0)
  }
}

class Gpt2Block extends Module implements ResidualLayer {
  readonly ln_1: LayerNorm
  attn: Gpt2Attention
  readonly ln_2: LayerNorm
  mlp: Gpt2Mlp

  constructor(config: Gpt2Config, layer: number) {
    super()
    this.ln_1 = new LayerNorm(config.hiddenSize, config.layerNormEpsilon)
    this.attn = new Gpt2Attention(config, layer)
    this.ln_2 = new LayerNorm(config.hiddenSize, config.layerNormEpsilon)
    this.mlp = new Gpt2Mlp(config)
  }

  forward(branch: Tensor, residual: Tensor | null, context: LayerContext): LayerOutput {
    return preNormLayer(branch, residual, {
      before: this.ln_1, attend: (x) => this.attn.forward(x, context), between: this.ln_2, mlp: (x) => this.mlp.forward(x),
    })
  }
}

class Gpt2Model extends Module {
  wte: EmbeddingLayer
  readonly wpe: Embedding
  readonly h: Gpt2Block[]
  readonly ln_f: LayerNorm
  readonly #config: Gpt2Config

  constructor(config: Gpt2Config) {
    super()
    this.#config = config
    this.wte = new Embedding(config.vocabSize, config.hiddenSize, { deviation: config.initializerRange })
    this.wpe = new Embedding(config.maxPositionEmbeddings, config.hiddenSize, { deviation: config.initializerRange })
    this.h = Array.from({ length: config.numHiddenLayers }, (_, layer) => new Gpt2Block(config, layer))
    this.ln_f = new LayerNorm(config.hiddenSize, config.layerNormEpsilon)
  }

  forward(batch: FlatBatch, context: LayerContext, options: RunOptions): Tensor {
    const { maxPositionEmbeddings, embdPdrop } = this.#config
    if (batch.length > maxPositionEmbeddings) {
      throw new ShapeError(`positionIds: expected positions below ${maxPositionEmbeddings}, GPT-2's n_positions, but a sequence of the batch needs ${batch.length}; shorten it`)
    }
    const embedded = add(joinEmbeddings(this.wte.forward(batch.inputIds), context.virtual), this.wpe.forward(batch.positionIds))
    return runLayers(this.h, this.ln_f, dropout(embedded, this.training ? embdPdrop : 0), context, options)
  }
}

/** GPT-2 (Radford et al. 2019). */
export class Gpt2LMHeadModel extends CausalLanguageModel {
  config: Gpt2Config
  readonly transformer: Gpt2Model
  lm_head: LinearLayer
  override readonly baseModelPrefix = 'transformer'
  override readonly ignoredTensors = /(?:^|\.)attn\.(?:bias|masked_bias)$/

  constructor(config: Gpt2Config) {
    super()
    this.config = config
    this.transformer = new Gpt2Model(config)
    this.lm_head = outputLayer(config, this.transformer.wte)
  }

  override getInputEmbeddings(): EmbeddingLayer { return this.transformer.wte }

  protected override hidden(batch: FlatBatch, context: Omit<LayerContext, 'rope'>, options: RunOptions): Tensor {
    return this.transformer.forward(batch, { ...context, rope: undefined }, options)
  }
}
