import type { Linear, Module } from '../nn/index.ts'
import type { Tensor } from '../tensor/index.ts'
import type { Adapter } from './adapter.ts'
import type { PrefixOptions } from './options.ts'
import { languageModel, torchLinear, TrainedTokens, virtualTokensAdapter, type VirtualContext } from './virtualTokens.ts'

/** Keys and values that two layers make: transform.2(tanh(transform.0(embedding))). */
class PrefixEncoder extends TrainedTokens {
  readonly transform: readonly [Linear, 'tanh', Linear]

  constructor(count: number, { width, hidden, out, startsAtZero }: { width: number, hidden: number, out: number, startsAtZero: boolean }) {
    super('keysAndValues', count, width)
    this.transform = [torchLinear(width, hidden), 'tanh', torchLinear(hidden, out, startsAtZero)]
  }

  override get isEncoded(): boolean { return true }

  override values(): Tensor {
    const [first, activation, last] = this.transform
    return last.forward(first.forward(super.values(), activation))
  }
}

/** Prefix tuning: trained keys and values before those of every sequence, in every layer. Equals PEFT's PREFIX_TUNING, and works with gradient checkpointing. */
export function createPrefixTuning(model: Module, options: PrefixOptions, context: VirtualContext): Adapter {
  const owner = languageModel(model, options.type)
  const { numHiddenLayers, numKeyValueHeads, headDim } = owner.config
  const { numVirtualTokens, prefixProjection, initWeights } = options
  const width = numKeyValueHeads * headDim
  const out = 2 * numHiddenLayers * width
  const startsAtZero = initWeights === 'zero'
  const tokens = prefixProjection && !context.isLoaded
    ? new PrefixEncoder(numVirtualTokens, { width, hidden: options.encoderHiddenSize ?? width, out, startsAtZero })
    : new TrainedTokens('keysAndValues', numVirtualTokens, out, startsAtZero)
  return virtualTokensAdapter(owner, options, tokens, context)
}
