import { ConfigError } from '../errors.ts'
import { autocast } from '../tensor/autocast.ts'
import type { CausalLanguageModel } from '../models/index.ts'
import { noGrad, scope, unscoped } from '../tensor/index.ts'

/** What every evaluation of a loss takes. */
export interface ScoringOptions {
  /** Most tokens in one forward pass; a longer sequence runs alone. Default 2048. */
  maxTokensPerBatch?: number
  /** Multiply in bfloat16 where the machine has it. Default: as the weights are stored. */
  bf16?: boolean
  /** Called after each forward pass. */
  onProgress?: (progress: ScoringProgress) => void
  /** Stops with the signal's reason. */
  signal?: AbortSignal
}

export interface ScoringProgress {
  /** Tokens predicted so far. */
  tokens: number
  /** Their mean loss. */
  loss: number
}

/** Sequences with the labels to predict in them; labels are not shifted, -100 is ignored. */
export interface LabelledSequences {
  inputIds: Int32Array
  labels: Int32Array
  /** Default: one sequence. */
  sequenceLengths?: readonly number[] | undefined
}

/** The loss over tokens that a model predicted. */
export interface LossResult {
  /** Mean negative log-likelihood of the predicted tokens, in nats. */
  loss: number
  /** e^loss. */
  perplexity: number
  /** The share of predicted tokens that had the largest logit. */
  accuracy: number
  /** Tokens predicted. */
  tokens: number
  seconds: number
  /** Tokens that went through the model, context included, in a second. */
  tokensPerSecond: number
}

/** Runs labelled sequences through a model, in batches of several, and adds up their loss. Dropout is off until end(). */
export class Scorer {
  readonly #model: CausalLanguageModel
  readonly #options: ScoringOptions
  readonly #maxTokens: number
  readonly #training
  readonly #start = performance.now()
  #batch: LabelledSequences[] = []
  #batchTokens = 0
  #seen = 0
  #nll = 0
  #correct = 0
  #tokens = 0

  constructor(model: CausalLanguageModel, options: ScoringOptions) {
    const { maxTokensPerBatch = 2048 } = options
    if (!Number.isInteger(maxTokensPerBatch) || maxTokensPerBatch < 1) throw new ConfigError(`maxTokensPerBatch: expected a whole number from 1, got ${maxTokensPerBatch}`)
    this.#model = model
    this.#options = options
    this.#maxTokens = maxTokensPerBatch
    this.#training = [...model.namedModules()].map(([, module]) => module).filter((module) => module.training)
    for (const module of this.#training) module.training = false
  }

  /** Sum of the negative log-likelihoods so far. */
  get nll(): number { return this.#nll }

  async add(sequences: LabelledSequences): Promise<void> {
    if (sequences.inputIds.length === 0) return
    if (this.#batchTokens > 0 && this.#batchTokens + sequences.inputIds.length > this.#maxTokens) await this.#run()
    this.#batch.push(sequences)
    this.#batchTokens += sequences.inputIds.length
    if (this.#batchTokens >= this.#maxTokens) await this.#run()
  }

  async #run(): Promise<void> {
    const batch = this.#batch
    if (batch.length === 0) return
    this.#options.signal?.throwIfAborted()
    this.#batch = []
    const lengths = batch.flatMap(({ inputIds, sequenceLengths }) => sequenceLengths ?? [inputIds.length])
    const cuSeqlens = [0]
    for (const length of lengths) cuSeqlens.push(cuSeqlens.at(-1)! + length)
    const inputIds = joined(batch.map((one) => one.inputIds), this.#batchTokens)
    const labels = joined(batch.map((one) => one.labels), this.#batchTokens)
    this.#batchTokens = 0
    const forward = () => {
      const { nll, correct, numLabels } = this.#model.forward({ inputIds, labels, cuSeqlens })
      return { nll: nll!, correct: correct!, numLabels: numLabels! }
    }
    const { nll, correct, numLabels } = unscoped(() => scope(() => noGrad(() => this.#options.bf16 ? autocast('bfloat16', forward) : forward())))
    try {
      for (const value of await nll.data()) this.#nll += Number(value)
      for (const value of await correct.data()) this.#correct += Number(value)
    } finally {
      nll.dispose()
      correct.dispose()
    }
    this.#tokens += numLabels
    this.#seen += inputIds.length
    this.#options.onProgress?.({ tokens: this.#tokens, loss: this.#nll / this.#tokens })
  }

  /** Runs what is left and returns the result. Throws ConfigError when nothing was predicted. */
  async end(): Promise<LossResult> {
    await this.#run()
    if (this.#tokens === 0) throw new ConfigError('nothing to evaluate: no sequence has a token to predict; a text needs at least two tokens')
    const loss = this.#nll / this.#tokens
    const seconds = (performance.now() - this.#start) / 1000
    return { loss, perplexity: Math.exp(loss), accuracy: this.#correct / this.#tokens, tokens: this.#tokens, seconds, tokensPerSecond: this.#seen / seconds }
  }

  /** Sets the model back to training where it was. */
  dispose(): void { for (const module of this.#training) module.training = true }
}

function joined(parts: readonly Int32Array[], length: number): Int32Array {
  const result = new Int32Array(length)
  let at = 0
  for (const part of parts) {
    result.set(part, at)
    at += part.length
  }
  return result
}
