import { ConfigError, DataError } from '../errors.ts'
import { atOnce, Turns } from '../turns.ts'
import { GrowingArray } from './growingArray.ts'
import { packGroup, type PackingStrategy } from './packing.ts'
import { numbersPerTurn, permutation, permuting } from './random.ts'
import type { Dataset, Example } from './types.ts'

const checkIndex = (dataset: { length: number }, index: number): void => {
  if (!Number.isInteger(index) || index < 0 || index >= dataset.length) throw new DataError(`dataset: expected an index from 0 to ${dataset.length - 1}, got ${index}`)
}

/** Examples that are in memory. */
export function memoryDataset(examples: readonly Example[]): Dataset {
  const dataset: Dataset = {
    length: examples.length,
    get: (index) => { checkIndex(dataset, index); return examples[index]! },
    lengthOf: (index) => { checkIndex(dataset, index); return examples[index]!.inputIds.length },
  }
  return dataset
}

/** The examples of `source` at the given indices, in that order. */
export function selectDataset(source: Dataset, indices: Uint32Array): Dataset {
  const dataset: Dataset = {
    length: indices.length,
    get: (index) => { checkIndex(dataset, index); return source.get(indices[index]!) },
    lengthOf: (index) => { checkIndex(dataset, index); return source.lengthOf(indices[index]!) },
  }
  return dataset
}

/** The examples in an order that depends on the seed only. */
export function shuffleDataset(source: Dataset, seed: number): Dataset {
  return selectDataset(source, permutation(source.length, seed, 'shuffle'))
}

/** The same, giving way to the event loop now and then. */
export async function shuffleInTurns(source: Dataset, seed: number): Promise<Dataset> {
  return selectDataset(source, await new Turns().run(permuting(source.length, seed, 'shuffle')))
}

/** Checks a size for evaluation: a share below 1, or a number of examples. */
export function checkEvalSize(evalSize: number): void {
  if (!(evalSize > 0) || (evalSize >= 1 && !Number.isInteger(evalSize))) throw new ConfigError(`evalSplit: expected a share between 0 and 1 or a whole number of examples, got ${evalSize}`)
}

/** A dataset in two parts. */
export interface Split { train: Dataset, eval: Dataset }

/** Splits by seed into `train` and `eval`; each keeps the source's order. `evalSize` below 1 is a share, from 1 a number of examples. */
export function splitDataset(source: Dataset, evalSize: number, seed: number): Split {
  return atOnce(splitting(source, evalSize, seed))
}

/** The same; yields now and then. */
export function* splitting(source: Dataset, evalSize: number, seed: number): Generator<undefined, Split> {
  checkEvalSize(evalSize)
  const count = evalSize < 1 ? Math.max(1, Math.round(source.length * evalSize)) : evalSize
  if (count >= source.length) throw new DataError(`evalSplit: ${evalSize} would take ${count} of ${source.length} examples and leave none to train on`)
  const order = yield* permuting(source.length, seed, 'split')
  const isHeld = new Uint8Array(source.length)
  for (let i = 0; i < count; i++) {
    isHeld[order[i]!] = 1
    if (i % numbersPerTurn === 0) yield
  }
  const [train, held] = [new Uint32Array(source.length - count), new Uint32Array(count)]
  for (let i = 0, heldBefore = 0; i < source.length; i++) {
    if (isHeld[i] === 1) held[heldBefore++] = i
    else train[i - heldBefore] = i
    if (i % numbersPerTurn === 0) yield
  }
  return { train: selectDataset(source, train), eval: selectDataset(source, held) }
}

export interface PackOptions {
  /** Tokens in a row. */
  maxLength: number
  strategy: PackingStrategy
  /** Examples packed together; TRL's is 1000 (default). Infinity packs all at once. */
  groupSize?: number
}

/** Rows of up to `maxLength` tokens made of several examples; only the plan is in memory, 12 bytes a piece. */
export interface PackedDataset extends Dataset {
  /** The share of the rows' capacity that holds tokens. */
  readonly density: number
}

/** Packs a dataset. With 'bfd' and 'bfd_split' each piece is a sequence of its own; with 'wrapped' a row is one sequence. */
export function packDataset(source: Dataset, options: PackOptions): PackedDataset {
  return packedDataset(source, options, atOnce(planRows(source, options)))
}

/** The same, giving way to the event loop now and then. */
export async function packInTurns(source: Dataset, options: PackOptions): Promise<PackedDataset> {
  return packedDataset(source, options, await new Turns().run(planRows(source, options)))
}

function packedDataset(source: Dataset, { maxLength, strategy }: PackOptions, plan: Plan): PackedDataset {
  const length = plan.rows.length - 1
  const lengthOf = (index: number): number => {
    checkIndex(dataset, index)
    let sum = 0
    for (let i = plan.rows[index]!; i < plan.rows[index + 1]!; i++) sum += plan.lengths[i]!
    return sum
  }
  const get = (index: number): Example => {
    const total = lengthOf(index)
    const inputIds = new Int32Array(total)
    const labels = new Int32Array(total)
    const sequenceLengths: number[] = []
    let at = 0
    for (let i = plan.rows[index]!; i < plan.rows[index + 1]!; i++) {
      const example = source.get(plan.examples[i]!)
      const start = plan.starts[i]!
      const count = plan.lengths[i]!
      inputIds.set(example.inputIds.subarray(start, start + count), at)
      labels.set(example.labels.subarray(start, start + count), at)
      at += count
      sequenceLengths.push(count)
    }
    return { inputIds, labels, sequenceLengths: strategy === 'wrapped' ? [total] : sequenceLengths }
  }
  const dataset: PackedDataset = { length, get, lengthOf, density: length === 0 ? 0 : plan.tokens / (length * maxLength) }
  return dataset
}

/** Row r is pieces rows[r] … rows[r + 1] - 1. `tokens` are those of all rows. */
interface Plan { rows: Uint32Array, examples: Uint32Array, starts: Uint32Array, lengths: Uint32Array, tokens: number }

/** Yields after each group. */
function* planRows(source: Dataset, { maxLength, strategy, groupSize = 1000 }: PackOptions): Generator<undefined, Plan> {
  if (groupSize !== Infinity && !(Number.isInteger(groupSize) && groupSize >= 1)) throw new ConfigError(`packing groupSize: expected a whole number from 1, or Infinity, got ${groupSize}`)
  const rows = new GrowingArray()
  const examples = new GrowingArray()
  const starts = new GrowingArray()
  const lengths = new GrowingArray()
  let tokens = 0
  rows.push(0)
  for (let first = 0; first < source.length; first += groupSize) {
    const group = Array.from({ length: Math.min(groupSize, source.length - first) }, (_, i) => source.lengthOf(first + i))
    for (const row of packGroup(group, maxLength, strategy, first)) {
      for (const piece of row) { examples.push(piece.index); starts.push(piece.start); lengths.push(piece.length); tokens += piece.length }
      rows.push(examples.length)
    }
    yield
  }
  return { rows: yield* rows.take(), examples: yield* examples.take(), starts: yield* starts.take(), lengths: yield* lengths.take(), tokens }
}
