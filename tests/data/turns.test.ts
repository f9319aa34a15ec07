// Proves that putting millions of rows in order leaves the event loop its turns, and that the order is the one made at once.
import { describe, expect, test } from 'vitest'
import { packInTurns, shuffleInTurns, splitDataset, splitting } from '../../src/data/dataset.ts'
import { mixInTurns } from '../../src/data/mixture.ts'
import { permutation, RandomSequence } from '../../src/data/random.ts'
import { createSampler } from '../../src/data/sampler.ts'
import type { Dataset } from '../../src/data/types.ts'
import { Turns } from '../../src/turns.ts'
import { leastOfThree, longestStretch } from '../longestStretch.ts'

/** Rows that hold their number. */
const counted = (length: number): Dataset => ({ length, lengthOf: () => 1, get: (index) => ({ inputIds: Int32Array.of(index), labels: Int32Array.of(index) }) })
const indices = (dataset: Dataset): number[] => Array.from({ length: dataset.length }, (_, i) => dataset.get(i).inputIds[0]!)

describe('no stretch is above 50 ms of processor time', () => {
  const rows = 2_000_000
  const source = counted(rows)
  test.each<[string, () => Promise<unknown>]>([
    ['the order of an epoch', () => createSampler(rows).prepare(0)],
    ['its own order', () => createSampler(rows, { shuffle: false }).prepare(0)],
    ['shuffling', () => shuffleInTurns(source, 1)],
    ['splitting', () => new Turns().run(splitting(source, 0.1, 1))],
    ['one after another', () => mixInTurns([{ dataset: source }])],
    ['mixing by weight', () => mixInTurns([{ dataset: source, weight: 1 }, { dataset: source, weight: 2 }], { strategy: 'interleave_under' })],
    ['packing', () => packInTurns(counted(500_000), { maxLength: 16, strategy: 'bfd' })],
  ])('%s', async (_, work) => { expect(await leastOfThree(() => longestStretch(work))).toBeLessThan(50) })
})

describe('the order is the same', () => {
  const seed = 7
  /** Fisher-Yates as it is written in books. */
  const shuffled = (n: number, purpose: 'shuffle' | 'split', stream = 0): number[] => {
    const random = new RandomSequence(seed, purpose, stream)
    const order: number[] = []
    for (let i = 0; i < n; i++) {
      const j = random.below(i, i + 1)
      order[i] = order[j] ?? i
      order[j] = i
    }
    return order
  }

  test.each([0, 1, 4095, 4096, 4097, 10_000])('a permutation of %d', (n) => { expect(Array.from(permutation(n, seed, 'shuffle', 3))).toEqual(shuffled(n, 'shuffle', 3)) })

  test('in each epoch of a sampler, prepared or not', async () => {
    const [prepared, plain] = [createSampler(5000, { seed, perDeviceTrainBatchSize: 1000 }), createSampler(5000, { seed, perDeviceTrainBatchSize: 1000 })]
    for (const step of [0, 4, 5, 12, 1]) {
      await prepared.prepare(step)
      expect(prepared.at(step)).toEqual(plain.at(step))
    }
    expect(Array.from(plain.at(5).microBatches[0]!)).toEqual(shuffled(5000, 'shuffle', 1).slice(0, 1000))
    await expect(prepared.prepare(-1)).rejects.toThrow('step: expected a whole number from 0, got -1')
  })

  test('of both parts of a split', () => {
    const { train, eval: held } = splitDataset(counted(9000), 1000, seed)
    const order = shuffled(9000, 'split')
    expect(indices(held)).toEqual(order.slice(0, 1000).sort((a, b) => a - b))
    expect(indices(train)).toEqual(order.slice(1000).sort((a, b) => a - b))
  })
})
