import { ConfigError } from '../errors.ts'
import type { Linear, Module } from '../nn/index.ts'
import type { Tensor } from '../tensor/index.ts'
import type { Adapter } from './adapter.ts'
import type { PTuningOptions } from './options.ts'
import { languageModel, torchLinear, TrainedTokens, virtualTokensAdapter, type VirtualContext } from './virtualTokens.ts'

/** Embeddings that three layers make of trained ones, relu between. */
class PromptEncoder extends TrainedTokens {
  readonly mlp_head: readonly [Linear, 'relu', Linear, 'relu', Linear]

  constructor(count: number, width: number, hidden: number) {
    super('embeddings', count, width)
    this.mlp_head = [torchLinear(width, hidden), 'relu', torchLinear(hidden, hidden), 'relu', torchLinear(hidden, width)]
  }

  override get isEncoded(): boolean { return true }

  override values(): Tensor {
    const [first, activation, second, , last] = this.mlp_head
    return last.forward(second.forward(first.forward(super.values(), activation), activation))
  }
}

function checkEncoder({ encoderReparameterizationType, encoderNumLayers, encoderDropout }: PTuningOptions): void {
  if (encoderReparameterizationType === 'LSTM') throw new ConfigError('encoderReparameterizationType: anneal trains "MLP" only; a P-tuning adapter that PEFT trained with an LSTM can be loaded')
  if (encoderNumLayers !== 2) throw new ConfigError(`encoderNumLayers: expected 2, got ${encoderNumLayers}: it belongs to an LSTM, and the MLP always has three layers; leave it out`)
  if (encoderDropout !== 0) throw new ConfigError(`encoderDropout: expected 0, got ${encoderDropout}: it belongs to an LSTM, and the MLP has none; leave it out`)
}

/** P-tuning: trained embeddings, reparameterised, before those of every sequence. Equals PEFT's P_TUNING. */
export function createPTuning(model: Module, options: PTuningOptions, context: VirtualContext): Adapter {
  const owner = languageModel(model, options.type)
  const { hiddenSize } = owner.config
  if (!context.isLoaded) checkEncoder(options)
  const tokens = context.isLoaded
    ? new TrainedTokens('embeddings', options.numVirtualTokens, hiddenSize)
    : new PromptEncoder(options.numVirtualTokens, hiddenSize, options.encoderHiddenSize ?? hiddenSize)
  return virtualTokensAdapter(owner, options, tokens, context)
}
