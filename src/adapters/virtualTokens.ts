import { ConfigError } from '../errors.ts'
import type { JsonValue } from '../files/index.ts'
import { CausalLanguageModel, VirtualTokens } from '../models/index.ts'
import { Embedding, Linear, normal, Parameter, uniform, zeros, type Module } from '../nn/index.ts'
import { noGrad, scope, unscoped, type Device, type Tensor } from '../tensor/index.ts'
import type { Adapter } from './adapter.ts'
import type { AdapterOptions } from './options.ts'

/** How a virtual-token adapter comes about. */
export interface VirtualContext {
  seed: number
  device: Device
  /** Tokens of a text, for prompt tuning's start from one. */
  encode: ((text: string) => readonly number[]) | undefined
  /** Whether a file gives the values: what would make them is then not there, as it is not in PEFT's file. */
  isLoaded: boolean
}

/** Trained virtual tokens: an embedding, and in subclasses layers that make from it what the model sees. Names below are PEFT's. */
export class TrainedTokens extends VirtualTokens {
  readonly kind: VirtualTokens['kind']
  readonly embedding: Embedding

  constructor(kind: VirtualTokens['kind'], count: number, width: number, startsAtZero = false) {
    super()
    this.kind = kind
    this.embedding = new Embedding(count, width)
    this.embedding.weight = new Parameter([count, width], startsAtZero ? zeros : normal(1))
  }

  get count(): number { return this.embedding.weight.shape[0]! }
  /** Whether the file holds what the parameters make, not the parameters. */
  get isEncoded(): boolean { return false }
  values(): Tensor { return this.embedding.weight.tensor }

  /** The values as they are now, float32, for the caller to release. */
  snapshot(): Tensor { return unscoped(() => noGrad(() => scope(() => this.values().alias()))) }
}

/** A linear layer with torch's start, weight and bias uniform within 1 / √in; or with zeros. */
export function torchLinear(inFeatures: number, outFeatures: number, startsAtZero = false): Linear {
  const layer = new Linear(inFeatures, outFeatures)
  const start = startsAtZero ? zeros : uniform(1 / Math.sqrt(inFeatures))
  layer.weight = new Parameter([outFeatures, inFeatures], start)
  layer.bias = new Parameter([outFeatures], start)
  return layer
}

/** The model, if it is one that can have virtual tokens. */
export function languageModel(model: Module, type: string): CausalLanguageModel {
  if (model instanceof CausalLanguageModel) return model
  throw new ConfigError(`adapter.type: ${type} needs a causal language model, whose sequences take virtual tokens; use lora or ia3 here`)
}

/** The adapter whose virtual tokens these are. Nothing is active yet. */
export function virtualTokensAdapter(model: CausalLanguageModel, options: AdapterOptions, tokens: TrainedTokens, { seed, device }: VirtualContext): Adapter {
  for (const [name, parameter] of tokens.namedParameters()) if (!parameter.isMaterialised) parameter.initialise(name, seed, 'float32', device)
  return {
    options,
    virtualTokens: tokens,
    parameters: () => new Map(tokens.namedParameters()),
    activate(on) {
      const now = model.virtualTokens
      if (on && now && now !== tokens) throw new ConfigError('two active adapters have virtual tokens, but a model takes those of one; switch one off first')
      if (on) tokens.train(model.training)
      if (on || now === tokens) model.virtualTokens = on ? tokens : undefined
    },
    remove() { tokens.dispose() },
  }
}

/** Keys of adapter_config.json that say for which model virtual tokens were made. */
export function virtualTokensConfig(model: Module, options: AdapterOptions, baseModel: string | undefined): Record<string, JsonValue> {
  if (options.type !== 'prefix' && options.type !== 'prompt' && options.type !== 'ptuning') return {}
  const { config: { hiddenSize, headDim, numAttentionHeads, numHiddenLayers, numKeyValueHeads } } = languageModel(model, options.type)
  const [heads, width] = options.type === 'prefix' ? [numKeyValueHeads, numKeyValueHeads * headDim] : [numAttentionHeads, hiddenSize]
  const shared = { num_attention_heads: heads, num_layers: numHiddenLayers, num_transformer_submodules: 1, token_dim: width }
  if (options.type !== 'prompt') return { ...shared, encoder_hidden_size: options.encoderHiddenSize ?? width }
  // PEFT refuses TEXT without a tokenizer, even where the file has the values.
  const tokenizer = options.tokenizerNameOrPath ?? baseModel ?? null
  return { ...shared, tokenizer_name_or_path: tokenizer, ...(options.promptTuningInit === 'TEXT' && tokenizer === null ? { prompt_tuning_init: 'RANDOM' } : {}) }
}
