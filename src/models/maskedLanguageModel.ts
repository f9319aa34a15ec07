import { ConfigError } from '../errors.ts'
import { type Embedding, LayerNorm, Linear, type LinearLayer, Module, Parameter, zeros } from '../nn/index.ts'
import { crossEntropy, embedding, ignoreIndex, linearCrossEntropy, mul, sum } from '../ops/index.ts'
import { scope, Tensor } from '../tensor/index.ts'
import type { FlatBatch, TokenInput } from './batch.ts'
import type { ActivationName, EncoderConfig } from './config.ts'
import { EncoderModel, flattenEncoderBatch, type EncoderInput } from './encoder.ts'
import { logitsOf } from './logits.ts'
import { PretrainedModel, type BaseOutput } from './pretrainedModel.ts'

/** What a masked language model's `forward` takes. */
export interface MaskedInput extends Omit<EncoderInput, 'labels' | 'shiftLabels'> {
  /** In the shape of inputIds: the token that was there before it was masked, -100 where none is asked for. */
  readonly labels?: TokenInput | undefined
  /** Default: only without labels. */
  readonly outputLogits?: boolean
  /** The loss is the sum over labels divided by this. Default: the number of labels that count. */
  readonly numItems?: number
  readonly labelSmoothing?: number
}

/** What a masked language model's `forward` gives. */
export interface MaskedOutput {
  /** [], where labels were given. */
  readonly loss?: Tensor
  /** Negative log-likelihood of each label that counts, in their order, float32 [labels]; one 0 where none counts. Not differentiable. */
  readonly nll?: Tensor
  /** 1 where such a label has the largest logit. */
  readonly correct?: Tensor
  /** How many labels count. */
  readonly numLabels?: number
  /** float32 [tokens, vocabulary], without padding: sequence i has rows cuSeqlens[i] to cuSeqlens[i + 1]. */
  readonly logits?: Tensor
  readonly hiddenStates?: readonly Tensor[]
  readonly attentions?: readonly (readonly Tensor[])[]
  readonly cuSeqlens: Int32Array
}

/** An encoder that says which token stands behind a mask. */
export abstract class MaskedLanguageModel extends PretrainedModel {
  config: EncoderConfig
  override readonly ignoredTensors = /(?:^|\.)position_ids$|^cls\.seq_relationship\.|(?:^|\.)pooler\./

  constructor(config: EncoderConfig) {
    super()
    this.config = config
  }

  abstract get encoder(): EncoderModel
  /** The head before the output layer: hidden states [rows, hiddenSize] to [rows, hiddenSize]. */
  protected abstract transform(hidden: Tensor): Tensor
  abstract override getOutputEmbeddings(): LinearLayer

  override getInputEmbeddings(): Embedding { return this.encoder.getInputEmbeddings() }

  /**
   * Runs the model. Everything is computed without padding. With labels the head sees only the tokens whose label counts, and its loss comes from hidden
   * states, a part of the logits at a time: tokens × vocabulary logits exist only where asked for.
   */
  forward(input: MaskedInput): MaskedOutput {
    return scope(() => {
      const batch = this.#layOut(input)
      const { lastHiddenState: hidden, hiddenStates, attentions } = this.encoder.run(batch, input, this.gradientCheckpointing)
      return {
        ...(batch.labelValues ? this.#loss(hidden, batch.labelValues, input) : {}),
        ...(input.outputLogits ?? !batch.labels ? { logits: this.logits(hidden) } : {}),
        ...(hiddenStates ? { hiddenStates } : {}), ...(attentions ? { attentions } : {}), cuSeqlens: batch.cuSeqlens,
      }
    })
  }

  override base(input: MaskedInput): BaseOutput { return scope(() => this.encoder.run(this.#layOut(input), input, this.gradientCheckpointing)) }

  /** Labels stand at the token they are about: nothing is shifted. */
  #layOut(input: MaskedInput): FlatBatch { return flattenEncoderBatch({ ...input, labels: undefined, shiftLabels: input.labels }, this.config, this.device) }

  #loss(hidden: Tensor, values: Int32Array, { numItems, labelSmoothing = 0 }: MaskedInput): Pick<MaskedOutput, 'loss' | 'nll' | 'correct' | 'numLabels'> {
    const counted = Array.from(values.keys()).filter((t) => values[t] !== ignoreIndex)
    const rows = counted.length ? counted : [0]
    const { device } = hidden
    const ints = (numbers: readonly number[]): Tensor => Tensor.from(Int32Array.from(numbers), [numbers.length], { device })
    const chosen = this.transform(embedding(hidden, ints(rows)))
    const labels = ints(rows.map((t) => values[t]!))
    const items = numItems ?? Math.max(counted.length, 1)
    const head = this.getOutputEmbeddings()
    if (head instanceof Linear) {
      return { ...linearCrossEntropy(chosen, head.weight.tensor, labels, { numItems: items, labelSmoothing, bias: head.bias?.tensor ?? null }), numLabels: counted.length }
    }
    const nll = crossEntropy(logitsOf(head, chosen), labels, { labelSmoothing })
    return { loss: mul(sum(nll), 1 / items), nll, numLabels: counted.length }
  }

  /** Logits [rows, vocabulary] of the encoder's hidden states [rows, hiddenSize]; float32 where the model has 16 bits. */
  logits(hidden: Tensor): Tensor { return scope(() => logitsOf(this.getOutputEmbeddings(), this.transform(hidden))) }
}

/** The output layer: the embeddings' weight, and the head's bias. */
function outputLayer(config: EncoderConfig, { weight }: Embedding, bias: Parameter): Linear {
  if (!config.tieWordEmbeddings) throw new ConfigError(`tie_word_embeddings: expected true, as the output layer of ${config.modelType} is its embeddings, got false`)
  const decoder = new Linear(config.hiddenSize, config.vocabSize, { bias: true, deviation: config.initializerRange })
  decoder.weight = weight
  decoder.bias = bias
  return decoder
}

class BertTransform extends Module {
  dense: LinearLayer
  readonly LayerNorm: LayerNorm
  readonly #activation: ActivationName

  constructor({ hiddenSize, layerNormEps, initializerRange, hiddenAct }: EncoderConfig) {
    super()
    this.#activation = hiddenAct
    this.dense = new Linear(hiddenSize, hiddenSize, { bias: true, deviation: initializerRange })
    this.LayerNorm = new LayerNorm(hiddenSize, layerNormEps)
  }

  forward(hidden: Tensor): Tensor { return this.LayerNorm.forward(this.dense.forward(hidden, this.#activation)) }
}

class BertPredictions extends Module {
  /** The decoder's, under the name that checkpoints have. */
  bias: Parameter
  transform: BertTransform
  decoder: LinearLayer

  constructor(config: EncoderConfig, embeddings: Embedding) {
    super()
    this.bias = new Parameter([config.vocabSize], zeros)
    this.transform = new BertTransform(config)
    this.decoder = outputLayer(config, embeddings, this.bias)
  }
}

class BertHead extends Module {
  predictions: BertPredictions

  constructor(config: EncoderConfig, embeddings: Embedding) {
    super()
    this.predictions = new BertPredictions(config, embeddings)
  }
}

/** BERT with its masked-language-model head. */
export class BertForMaskedLM extends MaskedLanguageModel {
  readonly bert: EncoderModel
  readonly cls: BertHead
  override readonly baseModelPrefix = 'bert'

  constructor(config: EncoderConfig) {
    super(config)
    this.bert = new EncoderModel(config, { pooler: false })
    this.cls = new BertHead(config, this.bert.getInputEmbeddings())
  }

  override get encoder(): EncoderModel { return this.bert }
  protected override transform(hidden: Tensor): Tensor { return this.cls.predictions.transform.forward(hidden) }
  override getOutputEmbeddings(): LinearLayer { return this.cls.predictions.decoder }
}

class RobertaHead extends Module {
  /** The decoder's, under the name that checkpoints have. */
  bias: Parameter
  dense: LinearLayer
  readonly layer_norm: LayerNorm
  decoder: LinearLayer

  constructor(config: EncoderConfig, embeddings: Embedding) {
    super()
    const { hiddenSize, layerNormEps, initializerRange, vocabSize } = config
    this.bias = new Parameter([vocabSize], zeros)
    this.dense = new Linear(hiddenSize, hiddenSize, { bias: true, deviation: initializerRange })
    this.layer_norm = new LayerNorm(hiddenSize, layerNormEps)
    this.decoder = outputLayer(config, embeddings, this.bias)
  }

  forward(hidden: Tensor): Tensor { return this.layer_norm.forward(this.dense.forward(hidden, 'gelu')) }
}

/** RoBERTa with its masked-language-model head. */
export class RobertaForMaskedLM extends MaskedLanguageModel {
  readonly roberta: EncoderModel
  readonly lm_head: RobertaHead
  override readonly baseModelPrefix = 'roberta'

  constructor(config: EncoderConfig) {
    super(config)
    this.roberta = new EncoderModel(config, { pooler: false })
    this.lm_head = new RobertaHead(config, this.roberta.getInputEmbeddings())
  }

  override get encoder(): EncoderModel { return this.roberta }
  protected override transform(hidden: Tensor): Tensor { return this.lm_head.forward(hidden) }
  override getOutputEmbeddings(): LinearLayer { return this.lm_head.decoder }
}
