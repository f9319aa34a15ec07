import { join } from 'node:path'
import { loadTensors, saveTensors } from '../files/tensorFiles.ts'
import { Linear, Module } from '../nn/index.ts'
import { embedding, linearLogprob, reshape, selectiveLogSoftmax, toDtype, type LogprobResult } from '../ops/index.ts'
import { bytesOf, scope, Tensor } from '../tensor/index.ts'
import type { CausalLanguageModel } from './causal.ts'
import { plainHead } from './outputLayer.ts'
import type { Classifier } from './sequenceClassification.ts'
import { loadWeights } from './weights.ts'

const headFile = 'value_head.safetensors'
/** Where the value model lies beside the policy. */
const valueFolder = 'value_model'

/** A linear layer from the policy's hidden states to values, float32. */
class ValueHead extends Module {
  readonly score: Linear

  constructor({ config, device }: CausalLanguageModel, seed: number) {
    super()
    this.score = new Linear(config.hiddenSize, 1, { bias: true, deviation: config.initializerRange })
    this.score.initialise({ seed, dtype: 'float32', device, prefix: 'value_head.score' })
  }

  #tensors(): [string, Tensor][] { return [...this.namedParameters()].map(([name, { tensor }]) => [name, tensor]) }

  /** Writes value_head.safetensors. */
  save(folder: string): Promise<void> { return saveTensors(join(folder, headFile), this.#tensors()) }

  async load(folder: string): Promise<void> { await loadTensors(join(folder, headFile), this.#tensors(), 'another model') }
}

export interface PolicyValueInput {
  /** All sequences one after another. */
  readonly inputIds: Int32Array
  readonly cuSeqlens: Int32Array
  /** The rows of the hidden states whose next token is asked for. */
  readonly policyRows: Int32Array
  /** Those tokens. */
  readonly nextIds: Int32Array
  /** The rows whose value is asked for. */
  readonly valueRows: Int32Array
  /** Logits are divided by this. */
  readonly temperature: number
}

/** The chosen rows of hidden states, as embedding() takes and differentiates them. */
const rowsOf = (hidden: Tensor, rows: Int32Array): Tensor => embedding(hidden, Tensor.from(rows, [rows.length], { device: hidden.device }))

/** log p and entropy of next tokens, float32 [rows], from chosen rows of hidden states: logits exist neither for other rows nor as a whole. */
export function chosenLogprobs(model: CausalLanguageModel, hidden: Tensor, { policyRows, nextIds, temperature }: Pick<PolicyValueInput, 'policyRows' | 'nextIds' | 'temperature'>): LogprobResult {
  return scope(() => {
    const rows = rowsOf(hidden, policyRows)
    const ids = Tensor.from(nextIds, [nextIds.length], { device: hidden.device })
    const head = plainHead(model.lm_head, rows)
    if (head) return linearLogprob(rows, head.weight, ids, { temperature, bias: head.bias ?? null })
    return selectiveLogSoftmax(model.logits(rows), ids, { temperature })
  })
}

/**
 * A policy and what estimates its values, trained together: a classifier with one output on layers of its own, as in TRL, or a head on the policy's
 * hidden states. Dropout is off in both also while they are trained, as the ratio of PPO compares passes.
 */
export class PolicyWithValue extends Module {
  readonly policy: CausalLanguageModel
  readonly value: CausalLanguageModel | ValueHead
  readonly #head: Linear

  constructor(policy: CausalLanguageModel, value: Classifier | { seed: number }) {
    super()
    this.policy = policy
    if ('seed' in value) {
      const head = new ValueHead(policy, value.seed)
      this.value = head
      this.#head = head.score
    } else {
      this.value = value.decoder('valueModel')
      this.#head = value.head
    }
  }

  get isShared(): boolean { return this.value instanceof ValueHead }

  /** Layers are recomputed in training mode only; nothing else of the two heeds it. */
  override train(mode = true): this {
    super.train(false)
    this.training = this.policy.training = this.value.training = mode
    return this
  }

  /** log p and entropy of the next tokens [policyRows] and values [valueRows], float32; differentiable. */
  forward(input: PolicyValueInput): LogprobResult & { values: Tensor } {
    return scope(() => {
      const { inputIds, cuSeqlens, valueRows } = input
      const hidden = this.policy.base({ inputIds, cuSeqlens }).lastHiddenState
      const valueHidden = this.value instanceof ValueHead ? hidden : this.value.base({ inputIds, cuSeqlens }).lastHiddenState
      const rows = rowsOf(valueHidden, valueRows)
      const out = this.#head.forward(bytesOf(rows.dtype) === 2 && this.isShared ? toDtype(rows, 'float32') : rows)
      const values = reshape(bytesOf(out.dtype) === 2 ? toDtype(out, 'float32') : out, [valueRows.length])
      return { ...chosenLogprobs(this.policy, hidden, input), values }
    })
  }

  /** Writes the value model into value_model/, as transformers' ForSequenceClassification, or the head into value_head.safetensors. */
  async saveValue(folder: string): Promise<void> {
    if (this.value instanceof ValueHead) await this.value.save(folder)
    else await this.value.savePretrained(join(folder, valueFolder))
  }

  async loadValue(folder: string): Promise<void> {
    if (this.value instanceof ValueHead) await this.value.load(folder)
    else await loadWeights(this.value, join(folder, valueFolder), this.value.dtype, this.value.device)
  }
}
