import { Module } from '../nn/index.ts'
import { concat, embedding, reshape, split, toDtype } from '../ops/index.ts'
import { Tensor, type Device, type DType } from '../tensor/index.ts'
import type { CacheSequence } from './cache.ts'
import type { ModelConfig } from './config.ts'

/**
 * Trained tokens that stand before every sequence and exist only inside the model: positions 0 to count - 1 are theirs, and results have rows for
 * real tokens only. They work once they are a model's `virtualTokens`.
 */
export abstract class VirtualTokens extends Module {
  /** What they are to the model: inputs of the first layer, or keys and values that every layer sees. */
  abstract readonly kind: 'embeddings' | 'keysAndValues'
  abstract readonly count: number
  /** [count, hiddenSize]; or [count, numHiddenLayers × 2 × numKeyValueHeads × headDim], for each layer its keys and then its values. */
  abstract values(): Tensor
}

/** Where the virtual tokens of one pass go. */
export interface VirtualPlaces {
  /** int32: numbers of rows among the virtual tokens and, behind them, the batch's own, in the order that the model sees. Of keys for a cache: virtual ones only. */
  readonly rows: Tensor
  /** int32 [tokens]: where real tokens lie among those rows. */
  readonly kept: Tensor | undefined
  /** int32 [rows]: where in the cache virtual keys and values go. */
  readonly slots: Tensor | undefined
}

/** The virtual tokens of one pass, as its layers need them. */
export type VirtualContext =
  | { readonly kind: 'embeddings', readonly places: VirtualPlaces, readonly values: Tensor }
  /** `at` gives the keys and values of a layer, [count, numKeyValueHeads × headDim] each. */
  | { readonly kind: 'keysAndValues', readonly places: VirtualPlaces, readonly at: (layer: number) => readonly [key: Tensor, value: Tensor] }

/** How many virtual tokens come before each sequence in this pass: none where the cache holds them already. */
export function countAdded(virtual: VirtualTokens | undefined, lengths: readonly number[], sequences: readonly CacheSequence[] | undefined): number[] {
  return lengths.map((length, i) => (virtual && length > 0 && !sequences?.[i]?.length ? virtual.count : 0))
}

/** `own` with as many numbers before each sequence as `added` says. */
export function withVirtual(own: Int32Array, lengths: readonly number[], added: readonly number[], numberOf: (virtual: number, sequence: number) => number): Int32Array {
  const total = added.reduce((a, b) => a + b, 0)
  if (total === 0) return own
  const result = new Int32Array(own.length + total)
  let [from, to] = [0, 0]
  lengths.forEach((length, i) => {
    for (let v = 0; v < added[i]!; v++) result[to++] = numberOf(v, i)
    result.set(own.subarray(from, from + length), to)
    from += length
    to += length
  })
  return result
}

/** Where virtual tokens go in a batch of these lengths; undefined where there are none to add. */
export function placesOf(
  virtual: VirtualTokens | undefined, lengths: readonly number[], added: readonly number[], sequences: readonly CacheSequence[] | undefined, device: Device,
): VirtualPlaces | undefined {
  if (!virtual || added.every((count) => count === 0)) return undefined
  const ints = (values: Int32Array): Tensor => Tensor.from(values, [values.length], { device })
  const none = new Int32Array(0)
  const nothing = lengths.map(() => 0)
  const isEmbeddings = virtual.kind === 'embeddings'
  if (sequences && !isEmbeddings) {
    return {
      rows: ints(withVirtual(none, nothing, added, (v) => v)), kept: undefined,
      slots: ints(withVirtual(none, nothing, added, (v, i) => sequences[i]!.begin + v)),
    }
  }
  const tokens = lengths.reduce((a, b) => a + b, 0)
  const rows = withVirtual(Int32Array.from({ length: tokens }, (_, t) => virtual.count + t), lengths, added, (v) => v)
  const kept = isEmbeddings ? Int32Array.from(rows.keys()).filter((row) => rows[row]! >= virtual.count) : undefined
  return { rows: ints(rows), kept: kept && ints(kept), slots: undefined }
}

/** What the layers of a pass need of the virtual tokens, in the dtype that flows between them. */
export function virtualContext(virtual: VirtualTokens | undefined, places: VirtualPlaces | undefined, config: ModelConfig, dtype: DType): VirtualContext | undefined {
  if (!virtual || !places) return undefined
  const values = toDtype(virtual.values(), dtype)
  if (virtual.kind === 'embeddings') return { kind: 'embeddings', places, values }
  const parts = split(values, Array.from({ length: 2 * config.numHiddenLayers }, () => config.numKeyValueHeads * config.headDim))
  return { kind: 'keysAndValues', places, at: (layer) => [parts[2 * layer]!, parts[2 * layer + 1]!] }
}

/** Virtual embeddings before those of each sequence: [rows, hiddenSize]. */
export function joinEmbeddings(embedded: Tensor, virtual: VirtualContext | undefined): Tensor {
  return virtual?.kind === 'embeddings' ? embedding(concat([virtual.values, embedded]), virtual.places.rows) : embedded
}

/** The rows of real tokens. */
export function dropVirtual(hidden: Tensor, virtual: VirtualContext | undefined): Tensor {
  return virtual?.kind === 'embeddings' ? embedding(hidden, virtual.places.kept!) : hidden
}

/** Virtual keys or values before those of each sequence: own [tokens, heads, headDim] to [rows, heads, headDim]. */
export function joinKeys(virtual: Tensor, own: Tensor, { rows }: VirtualPlaces): Tensor {
  const [, heads, width] = own.shape as [number, number, number]
  // Rows by number are what embedding() computes: its gradient adds up over the sequences in a fixed order.
  const joined = embedding(concat([toDtype(virtual, own.dtype), reshape(own, [-1, heads * width])]), rows)
  return reshape(joined, [-1, heads, width])
}

/** Writes virtual keys or values to the cache's [slots, heads, headDim], once for each new sequence. */
export function cacheVirtual(cached: Tensor, virtual: Tensor, { rows, slots }: VirtualPlaces): void {
  const [, heads, width] = cached.shape as [number, number, number]
  const source = reshape(embedding(toDtype(virtual, cached.dtype), rows), [-1, heads, width])
  cached.device.kernels.scatter_rows(cached.handle, source.handle, slots!.handle)
}
