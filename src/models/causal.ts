import { ConfigError, ShapeError } from '../errors.ts'
import type { LinearLayer } from '../nn/index.ts'
import { crossEntropy, embedding, linearCrossEntropy, linearLogprob, mul, reshape, selectiveLogSoftmax, slice, sum, withPlans, type LogprobResult } from '../ops/index.ts'
import { isRecording } from '../tensor/autograd.ts'
import { decoding, noGrad, scope, Tensor } from '../tensor/index.ts'
import type { LayerContext } from './attention.ts'
import { flattenBatch, type BatchInput, type FlatBatch } from './batch.ts'
import type { KeyValueCache } from './cache.ts'
import type { ModelConfig } from './config.ts'
import type { RunOptions } from './layers.ts'
import { logitsOf } from './logits.ts'
import { plainHead } from './outputLayer.ts'
import { PretrainedModel, type BaseOutput, type OutputChoice } from './pretrainedModel.ts'
import { resizeTokenEmbeddings } from './resize.ts'
import { dropVirtual, virtualContext } from './virtualTokens.ts'
import type { SaveOptions } from './weights.ts'

/** What a causal model's `forward` takes. */
export interface ForwardInput extends BatchInput, OutputChoice {
  /** Default: only without labels. */
  readonly outputLogits?: boolean
  /** Logits of the last so many tokens of each sequence only; 0, the default: of all. */
  readonly logitsToKeep?: number
  /** The loss is the sum over labels divided by this. Default: the number of labels that count. */
  readonly numItems?: number
  readonly labelSmoothing?: number
}

/** What a causal model's `forward` gives; tokens are those of the batch without padding. */
export interface ForwardOutput {
  /** [], where labels were given. */
  readonly loss?: Tensor
  /** Negative log-likelihood of each label, float32 [tokens], 0 where ignored. Not differentiable. */
  readonly nll?: Tensor
  /** 1 where the label has the largest logit, float32 [tokens]. */
  readonly correct?: Tensor
  /** How many labels count; undefined when shiftLabels is a tensor. */
  readonly numLabels?: number | undefined
  /** float32 [tokens, vocabulary], without padding: sequence i has rows cuSeqlens[i] to cuSeqlens[i + 1]. */
  readonly logits?: Tensor
  /** The embeddings, each layer's output, and in place of the last layer's the normalised one: [tokens, hiddenSize] each. */
  readonly hiddenStates?: readonly Tensor[]
  /** Each layer's probabilities of each sequence: [heads, queries, keys]. */
  readonly attentions?: readonly (readonly Tensor[])[]
  readonly cuSeqlens: Int32Array
}

/** A causal language model: layers of some kind, and a head that gives logits. */
export abstract class CausalLanguageModel extends PretrainedModel {
  abstract override config: ModelConfig
  abstract lm_head: LinearLayer

  /** The last hidden states [tokens, hiddenSize], normalised. */
  protected abstract hidden(batch: FlatBatch, context: Omit<LayerContext, 'rope'>, options: RunOptions): Tensor

  override getOutputEmbeddings(): LinearLayer { return this.lm_head }

  /**
   * Runs the model. Everything is computed without padding, all sequences one after another, each seeing only itself. With labels the loss comes
   * from the hidden states, and logits exist only where asked for. With a cache nothing is recorded for backward().
   */
  forward(input: ForwardInput): ForwardOutput {
    if (input.cache && isRecording()) return noGrad(() => this.forward(input))
    return scope(() => this.#forward(input))
  }

  #forward(input: ForwardInput): ForwardOutput {
    const batch = flattenBatch(input, this.config.vocabSize, this.device, this.virtualTokens)
    const { hidden, hiddenStates, attentions } = this.#run(input, batch)
    const wantsLogits = input.outputLogits ?? !batch.labels
    return {
      ...(batch.labels ? this.#loss(hidden, batch.labels, batch.numLabels, input) : {}),
      ...(wantsLogits ? { logits: this.logits(lastTokens(hidden, batch, input.logitsToKeep ?? 0)) } : {}),
      ...(hiddenStates ? { hiddenStates } : {}),
      ...(attentions ? { attentions } : {}),
      cuSeqlens: batch.cuSeqlens,
    }
  }

  /** Runs the layers alone, for losses that take a part of the logits at a time. */
  override base(input: BatchInput & OutputChoice): BaseOutput {
    return scope(() => {
      const batch = flattenBatch(input, this.config.vocabSize, this.device, this.virtualTokens)
      const { hidden, hiddenStates, attentions } = this.#run(input, batch)
      return { lastHiddenState: hidden, ...(hiddenStates ? { hiddenStates } : {}), ...(attentions ? { attentions } : {}), ...(batch.labels ? { labels: batch.labels } : {}) }
    })
  }

  #run(input: ForwardInput, batch: FlatBatch): { hidden: Tensor, hiddenStates: Tensor[] | undefined, attentions: Tensor[][] | undefined } {
    const { cache, cacheSequences } = input
    if (cache && cache.dtype !== this.dtype) throw new ShapeError(`cache: expected dtype ${this.dtype}, the model's, got ${cache.dtype}`)
    const hiddenStates = input.outputHiddenStates ? [] : undefined
    const attentions: Tensor[][] | undefined = input.outputAttentions ? [] : undefined
    const recompute = this.gradientCheckpointing && this.training && !attentions && !cache
    const virtual = virtualContext(this.virtualTokens, batch.virtual, this.config, this.dtype)
    const all = this.#pass(batch, { spans: batch.spans, cache, slots: batch.slots, attentions, virtual }, { hiddenStates, recompute })
    if (cache) cacheSequences?.forEach((sequence, i) => { cache.advance(sequence, batch.added[i]! + batch.lengths[i]!) })
    const own = (states: Tensor): Tensor => dropVirtual(states, virtual)
    return {
      hidden: own(all), hiddenStates: hiddenStates?.map(own),
      attentions: attentions?.map((layer) => layer.map((one, i) => lastQueries(intoScope(one), batch.lengths[i]!))),
    }
  }

  /**
   * @internal Logits [sequences, vocabulary] after one new token of each sequence, from a batch that lies on the device already. Nothing is copied to
   * the device and the cache is not advanced, so that the calls can be captured as a graph.
   */
  decode(batch: FlatBatch, cache: KeyValueCache): Tensor {
    const run = () => this.logits(this.#pass(batch, { spans: batch.spans, cache, slots: batch.slots, attentions: undefined, virtual: undefined }, { hiddenStates: undefined, recompute: false }))
    return scope(() => decoding(run))
  }

  /** hidden() with the plans that its layers share. */
  #pass(batch: FlatBatch, context: Omit<LayerContext, 'rope' | 'plans'>, options: RunOptions): Tensor {
    return withPlans(context.spans, (plans) => this.hidden(batch, { ...context, plans }, options))
  }

  #loss(hidden: Tensor, labels: Tensor, numLabels: number | undefined, { numItems, labelSmoothing = 0 }: ForwardInput): Pick<ForwardOutput, 'loss' | 'nll' | 'correct' | 'numLabels'> {
    // Without a single label the sum is 0, and so is the loss.
    const items = numItems ?? (numLabels === undefined ? undefined : Math.max(numLabels, 1))
    if (items === undefined) throw new ShapeError('numItems: expected the number of labels that count, as shiftLabels is a tensor')
    const head = plainHead(this.lm_head, hidden)
    if (head) return { ...linearCrossEntropy(hidden, head.weight, labels, { numItems: items, labelSmoothing, bias: head.bias ?? null }), numLabels }
    const nll = crossEntropy(this.logits(hidden), labels, { labelSmoothing })
    return { loss: mul(sum(nll), 1 / items), nll, numLabels }
  }

  /** Logits [rows, vocabulary] of hidden states [rows, hiddenSize]; float32 where the model has 16 bits. */
  logits(hidden: Tensor): Tensor { return logitsOf(this.lm_head, hidden) }

  /**
   * log p of each token under the model and the entropy of its distribution, float32 [tokens], differentiable: entry t is about the token at t + 1
   * of the sequence, or about shiftLabels[t] where given, -100 giving 0. Never holds tokens × vocabulary.
   */
  logprobs(input: BatchInput & { readonly temperature?: number }): LogprobResult {
    return scope(() => {
      const { inputIds, shiftLabels, labels } = input
      if (!labels && !shiftLabels && inputIds instanceof Tensor) throw new ShapeError('logprobs: expected labels or shiftLabels, as inputIds is a tensor')
      const named = labels || shiftLabels || inputIds instanceof Tensor ? input : { ...input, labels: inputIds }
      const batch = flattenBatch(named, this.config.vocabSize, this.device, this.virtualTokens)
      const { hidden } = this.#run(input, batch)
      const { temperature = 1 } = input
      const head = plainHead(this.lm_head, hidden)
      if (head) return linearLogprob(hidden, head.weight, batch.labels!, { temperature, bias: head.bias ?? null })
      return selectiveLogSoftmax(this.logits(hidden), batch.labels!, { temperature })
    })
  }

  /**
   * Makes room for `count` tokens: rows are dropped at the end, or added with the mean of those there are, as transformers does. An optimizer made
   * before holds the old parameters.
   */
  resizeTokenEmbeddings(count: number): void { resizeTokenEmbeddings(this, count) }

  override async savePretrained(folder: string, options: SaveOptions = {}): Promise<void> {
    if (this.virtualTokens) throw new ConfigError('the model has virtual tokens, which its folder cannot hold; save the adapter with saveAdapter(), or the base in withoutAdapters()')
    await super.savePretrained(folder, options)
  }
}

/** The same numbers with their gradient history, held by the current scope. */
function intoScope(tensor: Tensor): Tensor {
  const own = reshape(tensor, tensor.shape)
  tensor.dispose()
  return own
}

/** Those of the real tokens, which come after virtual ones: probabilities [heads, queries, keys]. */
function lastQueries(probabilities: Tensor, count: number): Tensor {
  const [heads, queries, keys] = probabilities.shape as [number, number, number]
  return queries === count ? probabilities : slice(probabilities, [0, queries - count, 0], [heads, count, keys])
}

/** The last `count` rows of each sequence; all for 0. */
function lastTokens(hidden: Tensor, batch: FlatBatch, count: number): Tensor {
  if (count === 0) return hidden
  const rows = batch.lengths.flatMap((length, i) => {
    const kept = Math.min(count, length)
    return Array.from({ length: kept }, (_, t) => batch.cuSeqlens[i + 1]! - kept + t)
  })
  // A row of the hidden states by number is what embedding() computes, with its gradient.
  return rows.length === batch.tokens ? hidden : embedding(hidden, Tensor.from(rows, [rows.length], { dtype: 'int32', device: hidden.device }))
}
