import type { JsonValue } from '../files/index.ts'
import { type EmbeddingLayer, type LinearLayer, Module, QuantizedEmbedding } from '../nn/index.ts'
import type { Device, DType, Tensor } from '../tensor/index.ts'
import type { BatchInput } from './batch.ts'
import type { AnyModelConfig } from './config.ts'
import type { QuantizationConfig } from './quantizedConfig.ts'
import type { VirtualTokens } from './virtualTokens.ts'
import { savePretrained, type SaveOptions } from './weights.ts'

/** What the layers make of a batch, before the output layer. */
export interface BaseOutput {
  /** What the output layer takes: the normalised hidden states, [tokens, hiddenSize]. */
  readonly lastHiddenState: Tensor
  /** The embeddings, each layer's output, and in place of the last layer's the normalised one: [tokens, hiddenSize] each. */
  readonly hiddenStates?: readonly Tensor[]
  /** Each layer's probabilities of each sequence: [heads, queries, keys]; differentiable. */
  readonly attentions?: readonly (readonly Tensor[])[]
  /** int32 [tokens], where labels were given: the label of each output. */
  readonly labels?: Tensor
}

/** What a forward pass is to give beside its result; costs memory. */
export interface OutputChoice {
  readonly outputHiddenStates?: boolean
  readonly outputAttentions?: boolean
}

/** A transformer of a Hugging Face folder, decoder or encoder, with whatever head it has. */
export abstract class PretrainedModel extends Module {
  abstract config: AnyModelConfig
  /** generation_config.json as read; written back by savePretrained(). */
  generationConfig: { [key: string]: JsonValue } | undefined
  /** How the linear layers are quantised, where they are. */
  quantizationConfig: QuantizationConfig | undefined
  /** Trained tokens before every sequence, as prefix and prompt tuning have them. */
  virtualTokens: VirtualTokens | undefined
  /** Whether layers are recomputed in backward() rather than kept. */
  gradientCheckpointing = false

  /** The property that holds everything but the head; base-model checkpoints leave its name out. */
  abstract readonly baseModelPrefix: string
  /** Tensors of checkpoints that hold nothing of use to this model. */
  abstract readonly ignoredTensors: RegExp

  gradientCheckpointingEnable(): void { this.gradientCheckpointing = true }
  gradientCheckpointingDisable(): void { this.gradientCheckpointing = false }

  /** Token ids to hidden states. */
  abstract getInputEmbeddings(): EmbeddingLayer
  /** Hidden states to tokens, in a language model. */
  abstract getOutputEmbeddings(): LinearLayer | undefined

  /** Where the model computes. */
  get device(): Device { return this.getInputEmbeddings().device }
  /** The dtype of the embeddings, and of what flows between layers. */
  get dtype(): DType { return this.getInputEmbeddings().dtype }

  override to(dtype: DType): this {
    super.to(dtype)
    const embeddings = this.getInputEmbeddings()
    if (embeddings instanceof QuantizedEmbedding) embeddings.dtype = dtype
    return this
  }

  /** Runs the layers alone. */
  abstract base(input: BatchInput & OutputChoice): BaseOutput

  /** Writes config.json, generation_config.json and safetensors so that transformers loads them. */
  savePretrained(folder: string, options: SaveOptions = {}): Promise<void> { return savePretrained(this, folder, options) }
}
