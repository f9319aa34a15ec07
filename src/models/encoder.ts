import { ShapeError } from '../errors.ts'
import { Embedding, LayerNorm, Linear, type LinearLayer, Module } from '../nn/index.ts'
import { add, dropout, embedding, reshape, Spans, withPlans } from '../ops/index.ts'
import { checkpoint, scope, Tensor, type Device } from '../tensor/index.ts'
import { selfAttention, type LayerContext } from './attention.ts'
import { flattenBatch, type BatchInput, type FlatBatch, type TokenArray, type TokenInput } from './batch.ts'
import type { EncoderConfig } from './config.ts'
import { PretrainedModel, type BaseOutput, type OutputChoice } from './pretrainedModel.ts'

/** What an encoder's `forward` takes. */
export interface EncoderInput extends Omit<BatchInput, 'cache' | 'cacheSequences'>, OutputChoice {
  /** Which of two texts each token belongs to, in the shape of inputIds. Default: all to the first. */
  readonly tokenTypeIds?: TokenInput | undefined
}

/** What an encoder's `forward` gives. */
export interface EncoderOutput extends BaseOutput {
  /** What the pooler makes of each sequence's first token, [sequences, hiddenSize]; undefined where the model has none. */
  readonly poolerOutput?: Tensor
  readonly cuSeqlens: Int32Array
}

const projection = (config: EncoderConfig, inputs: number, outputs: number): Linear => new Linear(inputs, outputs, { bias: true, deviation: config.initializerRange })

class EncoderEmbeddings extends Module {
  readonly word_embeddings: Embedding
  readonly position_embeddings: Embedding
  readonly token_type_embeddings: Embedding
  readonly LayerNorm: LayerNorm
  readonly #config: EncoderConfig

  constructor(config: EncoderConfig) {
    super()
    this.#config = config
    const { hiddenSize, initializerRange: deviation, positionOffset, padTokenId } = config
    this.word_embeddings = new Embedding(config.vocabSize, hiddenSize, { deviation, paddingIdx: padTokenId })
    this.position_embeddings = new Embedding(config.maxPositionEmbeddings + positionOffset, hiddenSize, { deviation, paddingIdx: positionOffset > 0 ? padTokenId : undefined })
    this.token_type_embeddings = new Embedding(config.typeVocabSize, hiddenSize, { deviation })
    this.LayerNorm = new LayerNorm(hiddenSize, config.layerNormEps)
  }

  forward({ inputIds, positions, positionIds, tokenTypeIds, length }: FlatBatch): Tensor {
    const { maxPositionEmbeddings, positionOffset, hiddenDropoutProb, modelType } = this.#config
    if (length > maxPositionEmbeddings) {
      throw new ShapeError(`positionIds: expected positions below ${maxPositionEmbeddings}, those ${modelType} has, but a sequence of the batch needs ${length}; shorten it`)
    }
    const { device } = inputIds
    const places = positionOffset === 0 ? positionIds : Tensor.from(positions.map((position) => position + positionOffset), [positions.length], { device })
    const types = tokenTypeIds ?? Tensor.from(new Int32Array(positions.length), [positions.length], { device })
    const sum = add(this.word_embeddings.forward(inputIds), this.token_type_embeddings.forward(types))
    return dropout(this.LayerNorm.forwardSum(this.position_embeddings.forward(places), sum)[0], this.training ? hiddenDropoutProb : 0)
  }
}

/** Queries, keys and values; every token sees the whole of its sequence. */
class EncoderSelfAttention extends Module {
  query: LinearLayer
  key: LinearLayer
  value: LinearLayer
  readonly #config: EncoderConfig
  readonly #layer: number

  constructor(config: EncoderConfig, layer: number) {
    super()
    this.#config = config
    this.#layer = layer
    const { hiddenSize } = config
    this.query = projection(config, hiddenSize, hiddenSize)
    this.key = projection(config, hiddenSize, hiddenSize)
    this.value = projection(config, hiddenSize, hiddenSize)
  }

  forward(x: Tensor, context: LayerContext): Tensor {
    const { numAttentionHeads, headDim, hiddenSize, attentionDropout } = this.#config
    const [q, k, v] = [this.query, this.key, this.value].map((layer) => reshape(layer.forward(x), [-1, numAttentionHeads, headDim]))
    const options = { layer: this.#layer, scale: 1 / Math.sqrt(headDim), window: 0, dropout: this.training ? attentionDropout : 0, causal: false }
    return reshape(selfAttention(q!, k!, v!, context, options), [-1, hiddenSize])
  }
}

/** The end of each half of a layer: LayerNorm(x + dense(branch)). */
class EncoderResidual extends Module {
  dense: LinearLayer
  readonly LayerNorm: LayerNorm
  readonly #config: EncoderConfig

  constructor(config: EncoderConfig, inputs: number) {
    super()
    this.#config = config
    this.dense = projection(config, inputs, config.hiddenSize)
    this.LayerNorm = new LayerNorm(config.hiddenSize, config.layerNormEps)
  }

  forward(branch: Tensor, x: Tensor): Tensor {
    return this.LayerNorm.forwardSum(dropout(this.dense.forward(branch), this.training ? this.#config.hiddenDropoutProb : 0), x)[0]
  }
}

class EncoderAttention extends Module {
  self: EncoderSelfAttention
  output: EncoderResidual

  constructor(config: EncoderConfig, layer: number) {
    super()
    this.self = new EncoderSelfAttention(config, layer)
    this.output = new EncoderResidual(config, config.hiddenSize)
  }

  forward(x: Tensor, context: LayerContext): Tensor { return scope(() => this.output.forward(this.self.forward(x, context), x)) }
}

class EncoderIntermediate extends Module {
  dense: LinearLayer
  readonly #config: EncoderConfig

  constructor(config: EncoderConfig) {
    super()
    this.#config = config
    this.dense = projection(config, config.hiddenSize, config.intermediateSize)
  }

  forward(x: Tensor): Tensor { return this.dense.forward(x, this.#config.hiddenAct) }
}

class EncoderLayer extends Module {
  attention: EncoderAttention
  intermediate: EncoderIntermediate
  output: EncoderResidual

  constructor(config: EncoderConfig, layer: number) {
    super()
    this.attention = new EncoderAttention(config, layer)
    this.intermediate = new EncoderIntermediate(config)
    this.output = new EncoderResidual(config, config.intermediateSize)
  }

  forward(x: Tensor, context: LayerContext): Tensor {
    const attended = this.attention.forward(x, context)
    return scope(() => this.output.forward(this.intermediate.forward(attended), attended))
  }
}

/** The layer's result, whose inside is computed again in backward(): it needs spans that live until then. */
function recomputed(layer: EncoderLayer, x: Tensor, context: LayerContext): Tensor {
  return checkpoint((input) => {
    const spans = new Spans(context.spans.spans, input.device)
    return withPlans(spans, (plans) => layer.forward(input, { ...context, spans, plans }))
  }, x)
}

class EncoderLayers extends Module {
  readonly layer: EncoderLayer[]

  constructor(config: EncoderConfig) {
    super()
    this.layer = Array.from({ length: config.numHiddenLayers }, (_, layer) => new EncoderLayer(config, layer))
  }

  /** All layers in turn; `hiddenStates` receives the input of each, and the result. */
  forward(embedded: Tensor, context: LayerContext, { recompute, hiddenStates }: { recompute: boolean, hiddenStates: Tensor[] | undefined }): Tensor {
    let x = embedded
    for (const layer of this.layer) {
      hiddenStates?.push(x)
      x = recompute ? recomputed(layer, x, context) : layer.forward(x, context)
    }
    hiddenStates?.push(x)
    return x
  }
}

/** tanh(dense(first token)). */
class EncoderPooler extends Module {
  dense: LinearLayer

  constructor(config: EncoderConfig) {
    super()
    this.dense = projection(config, config.hiddenSize, config.hiddenSize)
  }

  forward(first: Tensor): Tensor { return this.dense.forward(first, 'tanh') }
}

/** The first token of each sequence, [sequences, hiddenSize]. */
export function firstTokens(hidden: Tensor, cuSeqlens: Int32Array): Tensor {
  const rows = cuSeqlens.slice(0, -1)
  rows.forEach((row, i) => { if (cuSeqlens[i + 1] === row) throw new ShapeError(`inputIds: sequence ${i} is empty; an encoder's summary needs at least one token`) })
  // A row of the hidden states by number is what embedding() computes, with its gradient.
  return embedding(hidden, Tensor.from(rows, [rows.length], { device: hidden.device }))
}

/** Lays a batch out, flat and without padding; also checks token types. */
export function flattenEncoderBatch(input: BatchInput & Pick<EncoderInput, 'tokenTypeIds'>, { vocabSize, typeVocabSize, modelType }: EncoderConfig, device: Device): FlatBatch {
  const types = Array.from<number | TokenArray>(input.tokenTypeIds ?? []).flatMap((one) => (typeof one === 'number' ? one : Array.from(one)))
  const wrong = types.find((type) => !(type >= 0 && type < typeVocabSize))
  if (wrong !== undefined) throw new ShapeError(`tokenTypeIds: expected ${typeVocabSize === 1 ? '0, the only type' : `0 to ${typeVocabSize - 1}, the types`} ${modelType} has, got ${wrong}`)
  return flattenBatch(input, vocabSize, device)
}

/** An encoder without a head: BertModel or RobertaModel, as its config says. */
export class EncoderModel extends PretrainedModel {
  config: EncoderConfig
  readonly embeddings: EncoderEmbeddings
  readonly encoder: EncoderLayers
  pooler: EncoderPooler | null
  override readonly ignoredTensors = /(?:^|\.)position_ids$|^(?:cls|lm_head|classifier|qa_outputs)\.|(?:^|\.)pooler\./

  constructor(config: EncoderConfig, { pooler = true }: { pooler?: boolean } = {}) {
    super()
    this.config = config
    this.embeddings = new EncoderEmbeddings(config)
    this.encoder = new EncoderLayers(config)
    this.pooler = pooler ? new EncoderPooler(config) : null
  }

  override get baseModelPrefix(): string { return this.config.modelType }
  override getInputEmbeddings(): Embedding { return this.embeddings.word_embeddings }
  override getOutputEmbeddings(): undefined { return undefined }

  /** Runs the model, without padding: all sequences one after another, each seeing only itself. */
  forward(input: EncoderInput): EncoderOutput {
    return scope(() => {
      const batch = flattenEncoderBatch(input, this.config, this.device)
      const output = this.run(batch, input, this.gradientCheckpointing)
      return { ...output, ...(this.pooler ? { poolerOutput: this.pooler.forward(firstTokens(output.lastHiddenState, batch.cuSeqlens)) } : {}), cuSeqlens: batch.cuSeqlens }
    })
  }

  override base(input: EncoderInput): BaseOutput { return scope(() => this.run(flattenEncoderBatch(input, this.config, this.device), input, this.gradientCheckpointing)) }

  /** @internal Runs embeddings and layers on a batch that is laid out already. */
  run(batch: FlatBatch, { outputHiddenStates = false, outputAttentions = false }: OutputChoice, gradientCheckpointing: boolean): BaseOutput {
    const { labels } = batch
    const hiddenStates: Tensor[] | undefined = outputHiddenStates ? [] : undefined
    const attentions: Tensor[][] | undefined = outputAttentions ? [] : undefined
    const lastHiddenState = withPlans(batch.spans, (plans) => this.encoder.forward(
      this.embeddings.forward(batch), { spans: batch.spans, plans, rope: undefined, cache: undefined, slots: undefined, virtual: undefined, attentions },
      { recompute: gradientCheckpointing && this.training && !attentions, hiddenStates },
    ))
    return {
      lastHiddenState, ...(hiddenStates ? { hiddenStates } : {}), ...(labels ? { labels } : {}),
      ...(attentions ? { attentions: attentions.map((layer) => layer.map(intoScope)) } : {}),
    }
  }
}

/** The same numbers with their gradient history, held by the current scope. */
function intoScope(tensor: Tensor): Tensor {
  const own = reshape(tensor, tensor.shape)
  tensor.dispose()
  return own
}
