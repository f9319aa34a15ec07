import { AnnealError, ShapeError } from '../errors.ts'
import { bytesOf, defaultDevice, scope, Tensor, unscoped, type DeviceLike, type DType } from '../tensor/index.ts'
import type { ModelConfig } from './config.ts'

/** One sequence's region of a cache: slots begin … begin + capacity - 1, of which the first `length` are filled. */
export interface CacheSequence {
  readonly begin: number
  readonly capacity: number
  readonly length: number
}

interface OwnSequence { begin: number, capacity: number, length: number }

/** The size of a `KeyValueCache`. */
export interface CacheOptions {
  /** Tokens of all sequences together. */
  slots: number
  /** Default float32; use the model's. */
  dtype?: DType
  device?: DeviceLike
}

/** The cache has no free region of the wanted size. */
export class CacheFullError extends AnnealError {
  constructor(message: string) { super('ERR_CACHE_FULL', message) }
}

/**
 * Keys and values of earlier tokens, for generation: for each layer two tensors [slots, kv_heads, head_dim]. A sequence owns a region of
 * consecutive slots; sequences of any lengths come, grow, are cut back and go, so a batch can change at every step.
 */
export class KeyValueCache {
  readonly slots: number
  readonly dtype: DType
  readonly keys: readonly Tensor[]
  readonly values: readonly Tensor[]
  readonly #sequences = new Set<OwnSequence>()
  /** Free regions by position, never adjacent. */
  #free: { begin: number, length: number }[]

  constructor(config: ModelConfig, { slots, dtype = 'float32', device = defaultDevice() }: CacheOptions) {
    if (!Number.isInteger(slots) || slots < 1) throw new ShapeError(`slots: expected a whole number of 1 or more, got ${slots}`)
    this.slots = slots
    this.dtype = dtype
    this.#free = [{ begin: 0, length: slots }]
    const layers = () => Array.from({ length: config.numHiddenLayers }, () => Tensor.empty([slots, config.numKeyValueHeads, config.headDim], { dtype, device }))
    ;[this.keys, this.values] = unscoped(() => [layers(), layers()])
  }

  /** Bytes that a cache of `slots` slots takes. */
  static bytes(config: ModelConfig, slots: number, dtype: DType = 'float32'): number {
    return 2 * config.numHiddenLayers * slots * config.numKeyValueHeads * config.headDim * bytesOf(dtype)
  }

  /** Slots that no sequence owns. */
  get freeSlots(): number { return this.#free.reduce((sum, region) => sum + region.length, 0) }

  /** The longest sequence that can still be allocated. */
  get largestFree(): number { return this.#free.reduce((most, region) => Math.max(most, region.length), 0) }

  /** The sequences that own a region. */
  get sequences(): readonly CacheSequence[] { return [...this.#sequences] }

  /** A region for a new sequence of at most `capacity` tokens. Throws CacheFullError where there is none. */
  allocate(capacity: number): CacheSequence {
    if (!Number.isInteger(capacity) || capacity < 1) throw new ShapeError(`capacity: expected a whole number of 1 or more, got ${capacity}`)
    const place = this.#free.findIndex((region) => region.length >= capacity)
    const region = this.#free[place]
    if (!region) {
      throw new CacheFullError(`the key-value cache has no room for ${capacity} tokens: ${this.freeSlots} of ${this.slots} slots are free, ${this.largestFree} in a row; free a sequence, or make the cache larger`)
    }
    const sequence: OwnSequence = { begin: region.begin, capacity, length: 0 }
    region.begin += capacity
    region.length -= capacity
    if (region.length === 0) this.#free.splice(place, 1)
    this.#sequences.add(sequence)
    return sequence
  }

  /** Gives a sequence's region back. */
  free(sequence: CacheSequence): void {
    this.#sequences.delete(this.#own(sequence))
    const after = this.#free.findIndex((region) => region.begin > sequence.begin)
    const place = after < 0 ? this.#free.length : after
    this.#free.splice(place, 0, { begin: sequence.begin, length: sequence.capacity })
    const joined: { begin: number, length: number }[] = []
    for (const region of this.#free) {
      const last = joined.at(-1)
      if (last && last.begin + last.length === region.begin) last.length += region.length
      else joined.push(region)
    }
    this.#free = joined
  }

  /** A second sequence that starts with the same tokens, or the first `length` of them, as for several answers to one prompt. */
  fork(sequence: CacheSequence, capacity = sequence.capacity, length = sequence.length): CacheSequence {
    const own = this.#own(sequence)
    if (!(Number.isInteger(length) && length >= 0 && length <= own.length)) throw new ShapeError(`length: expected 0 to ${own.length}, the tokens of the sequence, got ${length}`)
    if (capacity < length) throw new ShapeError(`capacity: expected at least the sequence's ${length} tokens, got ${capacity}`)
    const copy = this.allocate(capacity) as OwnSequence
    this.#copy({ ...own, length }, copy)
    return copy
  }

  /** Moves a sequence to a region of `capacity` tokens; the sequence stays the same object. */
  grow(sequence: CacheSequence, capacity: number): void {
    const own = this.#own(sequence)
    if (capacity <= own.capacity) return
    const larger = this.allocate(capacity) as OwnSequence
    this.#copy(own, larger)
    this.#sequences.delete(larger)
    const old = { ...own }
    this.#sequences.add(old)
    this.free(old)
    own.begin = larger.begin
    own.capacity = capacity
  }

  /** Forgets all but the first `length` tokens. */
  truncate(sequence: CacheSequence, length: number): void {
    const own = this.#own(sequence)
    if (!(Number.isInteger(length) && length >= 0 && length <= own.length)) throw new ShapeError(`length: expected 0 to ${own.length}, the tokens of the sequence, got ${length}`)
    own.length = length
  }

  /** Throws unless `count` more tokens fit in the sequence's region. */
  requireRoom(sequence: CacheSequence, count: number): void {
    this.#own(sequence)
    if (sequence.length + count > sequence.capacity) {
      throw new CacheFullError(`a sequence holds ${sequence.length} tokens of at most ${sequence.capacity}; ${count} more do not fit. Call grow() or allocate a larger capacity`)
    }
  }

  /** Called by the model once the keys and values of `count` new tokens are written. */
  advance(sequence: CacheSequence, count: number): void {
    this.requireRoom(sequence, count)
    this.#own(sequence).length += count
  }

  dispose(): void {
    for (const tensor of [...this.keys, ...this.values]) tensor.dispose()
    this.#sequences.clear()
  }

  [Symbol.dispose](): void { this.dispose() }

  #own(sequence: CacheSequence): OwnSequence {
    if (!this.#sequences.has(sequence)) throw new ShapeError('the sequence does not belong to this key-value cache, or was freed')
    return sequence
  }

  #copy(from: CacheSequence, to: OwnSequence): void {
    to.length = from.length
    if (from.length === 0) return
    scope(() => {
      for (const tensor of [...this.keys, ...this.values]) {
        const [, heads, width] = tensor.shape as [number, number, number]
        const rows = (begin: number) => tensor.viewAs([from.length, heads, width], begin * heads * width)
        tensor.device.kernels.convert(rows(to.begin).handle, rows(from.begin).handle)
      }
    })
  }
}
