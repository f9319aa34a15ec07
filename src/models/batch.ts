import { ShapeError } from '../errors.ts'
import { ignoreIndex, Spans } from '../ops/index.ts'
import { Tensor, type Device } from '../tensor/index.ts'
import type { CacheSequence, KeyValueCache } from './cache.ts'
import { countAdded, placesOf, withVirtual, type VirtualPlaces, type VirtualTokens } from './virtualTokens.ts'

/** Ids of one sequence, or of several one after another. */
export type TokenArray = readonly number[] | Int32Array

/**
 * Token ids, labels or positions: one array a sequence (of any lengths, or padded with an attentionMask), or all sequences one after another with
 * cuSeqlens (one sequence without it).
 */
export type TokenInput = readonly TokenArray[] | TokenArray

/** Sequences for a model: padded rows with an attention mask, or one packed row with cuSeqlens. */
export interface BatchInput {
  /** An int32 tensor [tokens] is taken as it is, with cuSeqlens. */
  readonly inputIds: TokenInput | Tensor
  /** 1 for a token, 0 for padding, in the shape of inputIds. Padding is dropped: results have one row a token. */
  readonly attentionMask?: readonly TokenArray[] | undefined
  /** Where each sequence begins, and the number of tokens: [0, n0, n0 + n1, …]. */
  readonly cuSeqlens?: TokenArray | undefined
  /** Default: 0, 1, … in each sequence, going on from what a cache holds. A model's virtual tokens come before them. */
  readonly positionIds?: TokenInput | undefined
  /** In the shape of inputIds and not shifted: token t is predicted from those before it. -100 is ignored. */
  readonly labels?: TokenInput | undefined
  /** Labels that are already shifted: the one at place t is predicted by the output at t. A tensor needs numItemsInBatch. */
  readonly shiftLabels?: TokenInput | Tensor | undefined
  /** Keys and values of earlier tokens; inputIds then holds only new ones, and cacheSequences says whose. */
  readonly cache?: KeyValueCache | undefined
  readonly cacheSequences?: readonly CacheSequence[] | undefined
}

/** A batch as the model computes it: all sequences one after another, without padding. */
export interface FlatBatch {
  /** int32 [tokens]. */
  readonly inputIds: Tensor
  readonly tokens: number
  /** Length of each sequence. */
  readonly lengths: readonly number[]
  readonly cuSeqlens: Int32Array
  /** How many virtual tokens this pass puts before each sequence, and where; they are counted in no other number but positions, spans and slots. */
  readonly added: readonly number[]
  readonly virtual: VirtualPlaces | undefined
  readonly positions: Int32Array
  /** positions, int32 [tokens]. */
  readonly positionIds: Tensor
  /** The highest position plus one. */
  readonly length: number
  /** Which queries see which keys. */
  readonly spans: Spans
  /** int32 [tokens], shifted. */
  readonly labels: Tensor | undefined
  /** The same as numbers, unless they were given as a tensor. */
  readonly labelValues?: Int32Array | undefined
  /** How many labels count; undefined when they are only known to the device. */
  readonly numLabels: number | undefined
  /** int32 [tokens], where given: which of two texts a token belongs to. */
  readonly tokenTypeIds?: Tensor | undefined
  /** int32 [tokens]: where in the cache each token's key and value go. */
  readonly slots: Tensor | undefined
}

const isNested = (input: TokenInput): input is readonly TokenArray[] => Array.isArray(input) && typeof input[0] === 'object'

/** The parts of `input` as arrays, cut as `lengths` says where it is flat. */
function sequencesOf(name: string, input: TokenInput, lengths: readonly number[] | undefined): readonly TokenArray[] {
  if (isNested(input)) return input
  const flat = input
  if (!lengths) return [flat]
  const total = lengths.reduce((a, b) => a + b, 0)
  if (flat.length !== total) throw new ShapeError(`${name}: expected ${total} entries, as cuSeqlens or inputIds says, got ${flat.length}`)
  let at = 0
  return lengths.map((length) => flat.slice(at, at += length))
}

/** Lengths from cuSeqlens; throws unless it starts at 0, never falls and ends at the number of tokens. */
function lengthsOf(cuSeqlens: TokenArray, tokens: number): number[] {
  if (cuSeqlens[0] !== 0 || cuSeqlens.at(-1) !== tokens) {
    throw new ShapeError(`cuSeqlens: expected to start at 0 and end at the number of tokens (${tokens}), got ${cuSeqlens[0] ?? 'nothing'} and ${cuSeqlens.at(-1) ?? 'nothing'}`)
  }
  return Array.from({ length: cuSeqlens.length - 1 }, (_, i) => {
    const length = cuSeqlens[i + 1]! - cuSeqlens[i]!
    if (!(Number.isInteger(length) && length >= 0)) throw new ShapeError(`cuSeqlens: expected whole numbers that never fall, got ${cuSeqlens[i]!} before ${cuSeqlens[i + 1]!}`)
    return length
  })
}

/** Checks that `parts` has the lengths of inputIds, drops padding and returns one array. */
function flatten(name: string, parts: readonly TokenArray[], lengths: readonly number[], mask: readonly TokenArray[] | undefined): Int32Array {
  if (parts.length !== lengths.length) throw new ShapeError(`${name}: expected ${lengths.length} sequences, as inputIds has, got ${parts.length}`)
  parts.forEach((part, i) => {
    if (part.length !== lengths[i]) throw new ShapeError(`${name}[${i}]: expected ${lengths[i]!} entries, as inputIds[${i}] has, got ${part.length}`)
  })
  const result = new Int32Array(parts.reduce((sum, part, i) => sum + (mask ? countOnes(mask[i]!) : part.length), 0))
  let at = 0
  for (const [i, part] of parts.entries()) {
    for (let t = 0; t < part.length; t++) {
      if (mask && !mask[i]![t]) continue
      result[at] = part[t]!
      if (result[at++] !== part[t]) throw new ShapeError(`${name}[${i}][${t}]: expected a whole number of 32 bits, got ${part[t]!}`)
    }
  }
  return result
}

function countOnes(mask: TokenArray): number {
  let count = 0
  for (const one of mask) if (one) count++
  return count
}

/** Label t moves to place t - 1; the last place of each sequence has none. */
function shift(labels: Int32Array, lengths: readonly number[]): Int32Array {
  const result = new Int32Array(labels.length).fill(ignoreIndex)
  let at = 0
  for (const length of lengths) {
    if (length) result.set(labels.subarray(at + 1, at + length), at)
    at += length
  }
  return result
}

function checkRange(name: string, ids: Int32Array, vocabSize: number, ignored?: number): void {
  for (let i = 0; i < ids.length; i++) {
    const id = ids[i]!
    if ((id < 0 || id >= vocabSize) && id !== ignored) throw new ShapeError(`${name}: expected ids from 0 to ${vocabSize - 1}, the model's vocabulary, got ${id} at token ${i}`)
  }
}

/** Lays a batch out for the model: flat, unpadded, with labels shifted. Throws ShapeError naming the input that does not fit. */
export function flattenBatch(input: BatchInput & { readonly tokenTypeIds?: TokenInput | undefined }, vocabSize: number, device: Device, virtual?: VirtualTokens): FlatBatch {
  const { inputIds, attentionMask: mask, cache, cacheSequences } = input
  const onDevice = inputIds instanceof Tensor
  if (onDevice && (inputIds.dtype !== 'int32' || inputIds.rank !== 1)) {
    throw new ShapeError(`inputIds: a tensor must be int32 [tokens], but is ${inputIds.dtype} [${inputIds.shape.join(', ')}]; give a batch as lists, [[1, 2], [3]], or as one tensor with cuSeqlens`)
  }
  const count = onDevice ? inputIds.size : (inputIds as TokenArray).length
  const given = input.cuSeqlens && lengthsOf(input.cuSeqlens, count)
  const parts = onDevice ? undefined : sequencesOf('inputIds', inputIds, given)
  const padded = parts ? parts.map((part) => part.length) : given ?? [count]
  if (mask && !parts) throw new ShapeError('attentionMask: inputIds must be arrays, not a tensor')
  if (mask) flatten('attentionMask', mask, padded, undefined)
  const lengths = mask ? mask.map(countOnes) : padded
  const tokens = lengths.reduce((a, b) => a + b, 0)
  if (tokens === 0) throw new ShapeError('inputIds: expected at least one token, got none')

  const flat = (name: string, value: TokenInput) => flatten(name, sequencesOf(name, value, padded), padded, mask)
  const ints = (values: Int32Array) => Tensor.from(values, [values.length], { device })
  const ids = parts && flat('inputIds', parts)
  if (ids) checkRange('inputIds', ids, vocabSize)

  const added = countAdded(virtual, lengths, cacheSequences)
  const held = cachedLengths(cache, cacheSequences, lengths, added)
  const own = input.positionIds ? flat('positionIds', input.positionIds).map((position) => position + (virtual?.count ?? 0)) : countPositions(lengths, held, added, tokens)
  // Virtual embeddings are tokens to the layers; virtual keys and values are only seen.
  const inside = virtual?.kind === 'embeddings' ? added : lengths.map(() => 0)
  const positions = withVirtual(own, lengths, inside, (v) => v)
  let length = 0
  for (const position of positions) {
    if (position < 0) throw new ShapeError(`positionIds: expected 0 or more, got ${position}`)
    length = Math.max(length, position + 1)
  }

  const labels = input.labels && shift(flat('labels', input.labels), lengths)
    || (input.shiftLabels && !(input.shiftLabels instanceof Tensor) ? flat('shiftLabels', input.shiftLabels) : undefined)
  if (input.labels && input.shiftLabels) throw new ShapeError('labels and shiftLabels: expected one of them, got both')
  if (labels) checkRange('labels', labels, vocabSize, ignoreIndex)
  const cuSeqlens = new Int32Array(lengths.length + 1)
  lengths.forEach((n, i) => { cuSeqlens[i + 1] = cuSeqlens[i]! + n })
  return {
    inputIds: onDevice ? inputIds : ints(ids!), tokens, lengths, cuSeqlens, added, positions, positionIds: ints(positions), length,
    virtual: placesOf(virtual, lengths, added, cacheSequences, device),
    spans: spansOf(lengths, added, inside, cacheSequences, device),
    labels: labels ? ints(labels) : input.shiftLabels instanceof Tensor ? input.shiftLabels : undefined,
    labelValues: labels, tokenTypeIds: input.tokenTypeIds && ints(flat('tokenTypeIds', input.tokenTypeIds)),
    numLabels: labels?.reduce((sum, label) => sum + (label === ignoreIndex ? 0 : 1), 0),
    slots: cacheSequences && ints(slotsOf(lengths, added, inside, cacheSequences, tokens)),
  }
}

/** How many tokens the cache holds of each sequence; checks that the new ones fit. */
function cachedLengths(cache: KeyValueCache | undefined, sequences: readonly CacheSequence[] | undefined, lengths: readonly number[], added: readonly number[]): readonly number[] {
  if (!cache !== !sequences) throw new ShapeError('cache and cacheSequences: expected both or neither')
  if (!cache || !sequences) return lengths.map(() => 0)
  if (sequences.length !== lengths.length) throw new ShapeError(`cacheSequences: expected ${lengths.length}, one for each sequence of inputIds, got ${sequences.length}`)
  if (new Set(sequences).size !== sequences.length) throw new ShapeError('cacheSequences: expected each sequence once, got one twice')
  sequences.forEach((sequence, i) => { cache.requireRoom(sequence, added[i]! + lengths[i]!) })
  return sequences.map((sequence) => sequence.length)
}

function countPositions(lengths: readonly number[], held: readonly number[], added: readonly number[], tokens: number): Int32Array {
  const result = new Int32Array(tokens)
  let at = 0
  lengths.forEach((length, i) => { for (let t = 0; t < length; t++) result[at++] = held[i]! + added[i]! + t })
  return result
}

/** `added` virtual tokens come before each sequence's keys, and those of `inside` before its queries too. */
function spansOf(lengths: readonly number[], added: readonly number[], inside: readonly number[], sequences: readonly CacheSequence[] | undefined, device: Device): Spans {
  let [query, key] = [0, 0]
  return new Spans(lengths.map((length, i) => {
    const cached = sequences?.[i]
    const queryLength = inside[i]! + length
    const keyLength = added[i]! + length
    const span = { queryBegin: query, queryLength, keyBegin: cached?.begin ?? key, keyLength: (cached?.length ?? 0) + keyLength }
    query += queryLength
    key += keyLength
    return span
  }), device)
}

function slotsOf(lengths: readonly number[], added: readonly number[], inside: readonly number[], sequences: readonly CacheSequence[], tokens: number): Int32Array {
  const result = new Int32Array(tokens)
  let at = 0
  lengths.forEach((length, i) => {
    const { begin, length: held } = sequences[i]!
    for (let t = 0; t < length; t++) result[at++] = begin + held + added[i]! + t
  })
  return withVirtual(result, lengths, inside, (v, i) => sequences[i]!.begin + v)
}
