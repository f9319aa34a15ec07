import { type Embedding, Linear, type LinearLayer, Module } from '../nn/index.ts'
import { dropout } from '../ops/index.ts'
import { scope, type Tensor } from '../tensor/index.ts'
import type { ClassifierKind } from './classifierLabels.ts'
import type { EncoderConfig } from './config.ts'
import { EncoderModel, firstTokens, type EncoderInput } from './encoder.ts'
import { logitsOf } from './logits.ts'
import { PretrainedModel, type BaseOutput } from './pretrainedModel.ts'

const outputLayer = (config: EncoderConfig, labels: number): Linear => new Linear(config.hiddenSize, labels, { bias: true, deviation: config.initializerRange })

/** An encoder with a classifier: one answer a sequence, or one a token. */
export abstract class EncoderClassifier extends PretrainedModel {
  config: EncoderConfig
  override readonly ignoredTensors = /(?:^|\.)position_ids$|^(?:cls|lm_head)\.|(?:^|\.)pooler\./
  /** Parameters that a checkpoint without this head lacks. */
  readonly newTensors = /^classifier\.|\.pooler\./
  readonly #encoder: EncoderModel
  readonly #output: Linear

  constructor(config: EncoderConfig, labels: number, { pooler }: { pooler: boolean }) {
    super()
    this.config = config
    this.#encoder = new EncoderModel(config, { pooler })
    this.#output = outputLayer(config, labels)
    // Checkpoints call it bert or roberta.
    Object.defineProperty(this, config.modelType, { value: this.#encoder, enumerable: true })
  }

  get encoder(): EncoderModel { return this.#encoder }
  /** The layer that gives the labels' logits, as it was built: an adapter may stand in its place. */
  get output(): Linear { return this.#output }

  override get baseModelPrefix(): string { return this.config.modelType }
  override getInputEmbeddings(): Embedding { return this.#encoder.getInputEmbeddings() }
  override getOutputEmbeddings(): undefined { return undefined }

  override base(input: EncoderInput): BaseOutput {
    this.#encoder.gradientCheckpointing = this.gradientCheckpointing
    return this.#encoder.base(input)
  }

  /** Logits: [sequences, labels], or [tokens, labels] without padding; float32 where the model has 16 bits. */
  abstract forward(input: EncoderInput): Tensor

  protected encode(input: EncoderInput): ReturnType<EncoderModel['forward']> {
    this.#encoder.gradientCheckpointing = this.gradientCheckpointing
    return this.#encoder.forward(input)
  }

  /** By the config that the layers read, which disableDropout() changes. */
  protected dropped(hidden: Tensor): Tensor { return dropout(hidden, this.training ? this.#encoder.config.classifierDropout : 0) }
}

/** A linear layer on each token. */
class TokenClassifier extends EncoderClassifier {
  classifier: LinearLayer

  constructor(config: EncoderConfig, labels: number) {
    super(config, labels, { pooler: false })
    this.classifier = this.output
  }

  override forward(input: EncoderInput): Tensor { return scope(() => logitsOf(this.classifier, this.dropped(this.base(input).lastHiddenState))) }
}

/** BERT's: a linear layer on what the pooler makes of the first token. */
class BertSequenceClassifier extends EncoderClassifier {
  classifier: LinearLayer

  constructor(config: EncoderConfig, labels: number) {
    super(config, labels, { pooler: true })
    this.classifier = this.output
  }

  override forward(input: EncoderInput): Tensor { return scope(() => logitsOf(this.classifier, this.dropped(this.encode(input).poolerOutput!))) }
}

class RobertaHead extends Module {
  dense: LinearLayer
  out_proj: LinearLayer

  constructor(config: EncoderConfig, output: Linear) {
    super()
    this.dense = outputLayer(config, config.hiddenSize)
    this.out_proj = output
  }
}

/** RoBERTa's: a layer with tanh and a linear layer on the first token. */
class RobertaSequenceClassifier extends EncoderClassifier {
  classifier: RobertaHead

  constructor(config: EncoderConfig, labels: number) {
    super(config, labels, { pooler: false })
    this.classifier = new RobertaHead(config, this.output)
  }

  override forward(input: EncoderInput): Tensor {
    return scope(() => {
      const { lastHiddenState, cuSeqlens } = this.encode(input)
      const summary = this.classifier.dense.forward(this.dropped(firstTokens(lastHiddenState, cuSeqlens)), 'tanh')
      return logitsOf(this.classifier.out_proj, this.dropped(summary))
    })
  }
}

/** The classifier that a config describes, without memory for its weights. */
export function buildEncoderClassifier(config: EncoderConfig, kind: ClassifierKind, labels: number): EncoderClassifier {
  if (kind === 'token') return new TokenClassifier(config, labels)
  return config.modelType === 'roberta' ? new RobertaSequenceClassifier(config, labels) : new BertSequenceClassifier(config, labels)
}
