import { ConfigError, DataError } from '../errors.ts'
import { atOnce, Turns } from '../turns.ts'
import { GrowingArray } from './growingArray.ts'
import { numbersPerTurn, RandomSequence } from './random.ts'
import type { Dataset } from './types.ts'

/**
 * How datasets are mixed: one after another; or interleaved until the first is used up ('interleave_under'), or until each
 * has been used up once while the short ones repeat ('interleave_over'). As Hugging Face's interleave_datasets.
 */
export type MixStrategy = 'concat' | 'interleave_under' | 'interleave_over'

export interface MixturePart {
  dataset: Dataset
  /** The share of draws, up to a common factor. All parts have one or none; without, the parts take turns. */
  weight?: number
}

export interface MixOptions {
  strategy?: MixStrategy
  seed?: number
}

/** Shares that add up to 1; undefined when no part has a weight. */
export function shares(weights: readonly (number | undefined)[]): number[] | undefined {
  if (weights.every((weight) => weight === undefined)) return undefined
  const sum = weights.reduce<number>((total, weight, i) => {
    if (weight === undefined || !(weight > 0) || !Number.isFinite(weight)) throw new ConfigError(`weights[${i}]: expected a number above 0 for every dataset or for none, got ${String(weight)}`)
    return total + weight
  }, 0)
  return weights.map((weight) => weight! / sum)
}

/** The part that draw number `index` takes: by weight, or in turns. A pure function of its arguments. */
export function partAt(index: number, parts: readonly number[] | number, random: RandomSequence): number {
  if (typeof parts === 'number') return index % parts
  let left = random.uniform(index)
  for (let part = 0; part < parts.length - 1; part++) {
    left -= parts[part]!
    if (left < 0) return part
  }
  return parts.length - 1
}

/** Mixes datasets. The plan, 6 bytes an example, depends only on the lengths, the weights and the seed. */
export function mixDatasets(parts: readonly MixturePart[], options: MixOptions = {}): Dataset {
  return atOnce(mixing(parts, options))
}

/** The same, giving way to the event loop now and then. */
export const mixInTurns = async (parts: readonly MixturePart[], options: MixOptions = {}): Promise<Dataset> => new Turns().run(mixing(parts, options))

function* mixing(parts: readonly MixturePart[], options: MixOptions): Generator<undefined, Dataset> {
  const { strategy = 'concat', seed = 42 } = options
  if (parts.length === 0 || parts.length > 65535) throw new ConfigError(`datasets: expected 1 to 65535 datasets, got ${parts.length}`)
  const empty = parts.findIndex(({ dataset }) => dataset.length === 0)
  if (empty >= 0 && strategy !== 'concat') throw new DataError(`datasets[${empty}]: the dataset has no examples and cannot be interleaved`)
  const weights = shares(parts.map(({ weight }) => weight))
  if (weights && strategy === 'concat') throw new ConfigError(`datasets: weights have no meaning with the strategy 'concat'; use 'interleave_under' or 'interleave_over'`)
  const { part, index } = yield* strategy === 'concat' ? concatenated(parts) : interleaved(parts, weights ?? parts.length, strategy, seed)
  const at = (i: number): { dataset: Dataset, index: number } => {
    if (!Number.isInteger(i) || i < 0 || i >= part.length) throw new DataError(`dataset: expected an index from 0 to ${part.length - 1}, got ${i}`)
    return { dataset: parts[part[i]!]!.dataset, index: index[i]! }
  }
  return {
    length: part.length,
    get: (i) => { const place = at(i); return place.dataset.get(place.index) },
    lengthOf: (i) => { const place = at(i); return place.dataset.lengthOf(place.index) },
  }
}

interface Plan { part: Uint16Array, index: Uint32Array }

function* concatenated(parts: readonly MixturePart[]): Generator<undefined, Plan> {
  const total = parts.reduce((sum, { dataset }) => sum + dataset.length, 0)
  const part = new Uint16Array(total)
  const index = new Uint32Array(total)
  let at = 0
  for (const [p, { dataset }] of parts.entries()) {
    for (let i = 0; i < dataset.length; i++, at++) {
      part[at] = p
      index[at] = i
      if (at % numbersPerTurn === 0) yield
    }
  }
  return { part, index }
}

/** In turns each part gives equally many examples: as many as the shortest ('under') or the longest ('over') has. */
function* interleaved(parts: readonly MixturePart[], weights: readonly number[] | number, strategy: MixStrategy, seed: number): Generator<undefined, Plan> {
  const random = new RandomSequence(seed, 'mixture')
  const lengths = parts.map(({ dataset }) => dataset.length)
  const next = lengths.map(() => 0)
  const usedUp = new Set<number>()
  const enough = strategy === 'interleave_under' ? 1 : parts.length
  const part = new GrowingArray()
  const index = new GrowingArray()
  while (usedUp.size < enough || (typeof weights === 'number' && part.length % parts.length !== 0)) {
    const p = partAt(part.length, weights, random)
    part.push(p)
    index.push(next[p]!)
    next[p] = (next[p]! + 1) % lengths[p]!
    if (next[p] === 0) usedUp.add(p)
    if (part.length % numbersPerTurn === 0) yield
  }
  return { part: new Uint16Array(yield* part.take()), index: yield* index.take() }
}
