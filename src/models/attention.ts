import { attention, attentionProbabilities, reshape, type AttentionPlans, type Spans } from '../ops/index.ts'
import { unscoped, type Tensor } from '../tensor/index.ts'
import type { KeyValueCache } from './cache.ts'
import type { RopeRows } from './ropeTables.ts'
import { cacheVirtual, joinKeys, type VirtualContext } from './virtualTokens.ts'

/** What the layers of one forward pass share. */
export interface LayerContext {
  readonly spans: Spans
  readonly plans: AttentionPlans
  readonly rope: RopeRows | undefined
  /** That of layers with a window, where it is another. */
  readonly localRope?: RopeRows | undefined
  readonly cache: KeyValueCache | undefined
  /** int32 [tokens]: where in the cache new keys and values go. */
  readonly slots: Tensor | undefined
  /** Virtual tokens that come before sequences in this pass. */
  readonly virtual: VirtualContext | undefined
  /** Receives each layer's probabilities where they were asked for; tensors outside any scope. */
  readonly attentions: Tensor[][] | undefined
}

export interface SelfAttentionOptions {
  layer: number
  scale: number
  /** How many of the last keys a query sees; 0: all. */
  window: number
  /** Probability of dropping an attention weight; 0 outside training. */
  dropout: number
  /** Whether a token sees only those before it. Default true; false in encoders. */
  causal?: boolean
}

/** Self-attention of new tokens over themselves and what the cache holds of their sequences. q [tokens, heads, headDim]. */
export function selfAttention(q: Tensor, k: Tensor, v: Tensor, context: LayerContext, { layer, scale, window, dropout, causal = true }: SelfAttentionOptions): Tensor {
  const { spans, plans, cache, slots, attentions, virtual } = context
  let [keys, values] = [k, v]
  if (cache && slots) {
    [keys, values] = [cache.keys[layer]!, cache.values[layer]!]
    keys.device.kernels.scatter_rows(keys.handle, k.handle, slots.handle)
    values.device.kernels.scatter_rows(values.handle, v.handle, slots.handle)
  }
  if (virtual?.kind === 'keysAndValues') {
    const [virtualKeys, virtualValues] = virtual.at(layer)
    if (cache) {
      cacheVirtual(keys, virtualKeys, virtual.places)
      cacheVirtual(values, virtualValues, virtual.places)
    } else {
      [keys, values] = [joinKeys(virtualKeys, k, virtual.places), joinKeys(virtualValues, v, virtual.places)]
    }
  }
  const options = { scale, window, causal, plans }
  if (attentions) {
    const probabilities = attentionProbabilities(q, keys, values, spans, options)
    attentions.push(probabilities.map((one) => unscoped(() => reshape(one, one.shape))))
  }
  return attention(q, keys, values, spans, { ...options, dropout })
}
