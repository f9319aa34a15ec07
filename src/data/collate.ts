import { ConfigError, DataError } from '../errors.ts'
import { ignoreIndex, type Example } from './types.ts'

/**
 * Sequences of different lengths one after another, without padding.
 * All arrays but `cuSeqlens` have one entry a token.
 */
export interface Batch {
  inputIds: Int32Array
  /** Not shifted; -100 where the token is not trained, and at the first token of each sequence, which nothing predicts. */
  labels: Int32Array
  /** From 0 in each sequence. */
  positionIds: Int32Array
  /** [sequences + 1]: sequence i is tokens cuSeqlens[i] … cuSeqlens[i + 1] - 1. */
  cuSeqlens: Int32Array
  /** The longest sequence. */
  maxSeqlen: number
  /** Trained tokens: the labels that are not -100. */
  numItems: number
}

const sequencesOf = (example: Example): number[] => example.sequenceLengths ?? [example.inputIds.length]

/** Puts examples one after another (TRL's padding-free collator). Examples without tokens add nothing. */
export function collate(examples: readonly Example[]): Batch {
  if (examples.length === 0) throw new DataError('collate: expected at least one example, got none')
  const total = examples.reduce((sum, { inputIds }) => sum + inputIds.length, 0)
  const inputIds = new Int32Array(total)
  const labels = new Int32Array(total)
  const positionIds = new Int32Array(total)
  const bounds = [0]
  let at = 0
  for (const example of examples) {
    checkExample(example)
    inputIds.set(example.inputIds, at)
    labels.set(example.labels, at)
    for (const length of sequencesOf(example)) {
      if (length === 0) continue
      labels[at] = ignoreIndex
      for (let i = 0; i < length; i++) positionIds[at + i] = i
      at += length
      bounds.push(at)
    }
  }
  return { inputIds, labels, positionIds, cuSeqlens: Int32Array.from(bounds), maxSeqlen: longest(bounds), numItems: countTrained(labels) }
}

function checkExample(example: Example): void {
  const { inputIds, labels } = example
  const sum = sequencesOf(example).reduce((a, b) => a + b, 0)
  if (labels.length !== inputIds.length) throw new DataError(`collate: labels must have one entry a token, ${inputIds.length}, but have ${labels.length}`)
  if (sum !== inputIds.length) throw new DataError(`collate: sequenceLengths must add up to the number of tokens, ${inputIds.length}, but give ${sum}`)
}

function longest(bounds: number[]): number {
  let most = 0
  for (let i = 1; i < bounds.length; i++) most = Math.max(most, bounds[i]! - bounds[i - 1]!)
  return most
}

function countTrained(labels: Int32Array): number {
  let count = 0
  for (const label of labels) if (label !== ignoreIndex) count++
  return count
}

/** A batch of equal rows, [batchSize, length] in row-major order. */
export interface PaddedBatch {
  batchSize: number
  length: number
  inputIds: Int32Array
  /** 1 for tokens, 0 for padding. */
  attentionMask: Int32Array
  labels: Int32Array
  positionIds: Int32Array
  numItems: number
}

export interface PadOptions {
  padTokenId: number
  /** Default 'right'. */
  paddingSide?: 'left' | 'right'
  /** Rounds the length up. */
  padToMultipleOf?: number
}

/** Pads examples to one length, for models that are fed rectangles. Packed examples are refused: padding has no bounds between sequences. */
export function pad(examples: readonly Example[], options: PadOptions): PaddedBatch {
  const { padTokenId, paddingSide = 'right', padToMultipleOf: multiple = 1 } = options
  if (!Number.isInteger(multiple) || multiple < 1) throw new ConfigError(`padToMultipleOf: expected a whole number from 1, got ${multiple}`)
  if (!Number.isInteger(padTokenId) || padTokenId < 0) throw new ConfigError(`padTokenId: expected a token id, got ${padTokenId}; set the tokenizer's pad token`)
  if (examples.length === 0) throw new DataError('pad: expected at least one example, got none')
  const length = Math.ceil(Math.max(...examples.map(({ inputIds }) => inputIds.length)) / multiple) * multiple
  const size = examples.length * length
  const inputIds = new Int32Array(size).fill(padTokenId)
  const attentionMask = new Int32Array(size)
  const labels = new Int32Array(size).fill(ignoreIndex)
  const positionIds = new Int32Array(size)
  for (const [row, example] of examples.entries()) {
    checkExample(example)
    if ((example.sequenceLengths?.length ?? 1) > 1) throw new DataError('pad: a packed example cannot be padded; use collate')
    const count = example.inputIds.length
    const start = row * length + (paddingSide === 'left' ? length - count : 0)
    inputIds.set(example.inputIds, start)
    labels.set(example.labels, start)
    if (count > 0) labels[start] = ignoreIndex
    attentionMask.fill(1, start, start + count)
    for (let i = 0; i < count; i++) positionIds[start + i] = i
  }
  return { batchSize: examples.length, length, inputIds, attentionMask, labels, positionIds, numItems: countTrained(labels) }
}
