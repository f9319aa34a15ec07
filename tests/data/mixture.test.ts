// Proves that mixtures draw as Hugging Face's interleave_datasets does in turns, and by weight as a pure function of the seed.
import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { ConfigError, DataError } from '../../src/errors.ts'
import { memoryDataset, selectDataset, shuffleDataset, splitDataset } from '../../src/data/dataset.ts'
import { mixDatasets, type MixStrategy } from '../../src/data/mixture.ts'

const recorded = JSON.parse(readFileSync(new URL('../recorded/data/interleave.json', import.meta.url), 'utf8')) as { lengths: number[], strategy: MixStrategy, drawn: [number, number][] }[]
const part = (p: number, length: number) => memoryDataset(Array.from({ length }, (_, i) => ({ inputIds: Int32Array.of(p, i), labels: Int32Array.of(p, i) })))
const drawn = (dataset: ReturnType<typeof mixDatasets>) => Array.from({ length: dataset.length }, (_, i) => [...dataset.get(i).inputIds])

describe('mixDatasets', () => {
  it.each(recorded.map((one) => [`${one.strategy} ${one.lengths.join()}`, one] as const))('in turns equals datasets: %s', (_, { lengths, strategy, drawn: expected }) => {
    expect(drawn(mixDatasets(lengths.map((length, p) => ({ dataset: part(p, length) })), { strategy }))).toEqual(expected)
  })

  it('puts one after another', () => {
    expect(drawn(mixDatasets([{ dataset: part(0, 2) }, { dataset: part(1, 0) }, { dataset: part(2, 1) }]))).toEqual([[0, 0], [0, 1], [2, 0]])
  })

  it('draws by weight, stops when the first is used up, and gives the same again', () => {
    const parts = [{ dataset: part(0, 5000), weight: 3 }, { dataset: part(1, 5000), weight: 1 }]
    const mixed = drawn(mixDatasets(parts, { strategy: 'interleave_under', seed: 1 }))
    const share = mixed.filter(([p]) => p === 0).length / mixed.length
    expect(share).toBeGreaterThan(0.73)
    expect(share).toBeLessThan(0.77)
    expect(mixed.at(-1)).toEqual([0, 4999])
    expect(drawn(mixDatasets(parts, { strategy: 'interleave_under', seed: 1 }))).toEqual(mixed)
    expect(drawn(mixDatasets(parts, { strategy: 'interleave_under', seed: 2 }))).not.toEqual(mixed)
  })

  it('repeats the short ones until all are used up', () => {
    const mixed = drawn(mixDatasets([{ dataset: part(0, 10), weight: 1 }, { dataset: part(1, 100), weight: 1 }], { strategy: 'interleave_over', seed: 1 }))
    expect(new Set(mixed.filter(([p]) => p === 1).map(([, i]) => i)).size).toBe(100)
    expect(mixed.filter(([p]) => p === 0).length).toBeGreaterThan(10)
    expect(mixed.at(-1)).toEqual([1, 99])
  })

  it('refuses weights that mean nothing', () => {
    const a = { dataset: part(0, 2), weight: 1 }
    expect(() => mixDatasets([a, { dataset: part(1, 2) }], { strategy: 'interleave_over' })).toThrow(ConfigError)
    expect(() => mixDatasets([a, { dataset: part(1, 2), weight: 0 }], { strategy: 'interleave_over' })).toThrow(/weights\[1\]/)
    expect(() => mixDatasets([a])).toThrow(/weights have no meaning/)
    expect(() => mixDatasets([{ dataset: part(0, 0) }, a], { strategy: 'interleave_under' })).toThrow(DataError)
    expect(() => mixDatasets([])).toThrow(ConfigError)
  })
})

describe('splitDataset', () => {
  it('gives every example to one side, by seed', () => {
    const source = part(0, 100)
    const { train, eval: held } = splitDataset(source, 0.1, 7)
    expect([train.length, held.length]).toEqual([90, 10])
    const all = [...drawn(train), ...drawn(held)].map(([, i]) => i!).sort((a, b) => a - b)
    expect(all).toEqual(Array.from({ length: 100 }, (_, i) => i))
    expect(drawn(splitDataset(source, 10, 7).eval)).toEqual(drawn(held))
    expect(drawn(splitDataset(source, 10, 8).eval)).not.toEqual(drawn(held))
    expect(drawn(train)).toEqual(drawn(train).toSorted((a, b) => a[1]! - b[1]!))
  })

  it('refuses sizes that leave nothing', () => {
    expect(() => splitDataset(part(0, 3), 3, 1)).toThrow(/leave none to train on/)
    expect(() => splitDataset(part(0, 3), 0, 1)).toThrow(ConfigError)
    expect(() => splitDataset(part(0, 3), 1.5, 1)).toThrow(ConfigError)
  })
})

describe('views', () => {
  it('check their index and shuffle by seed', () => {
    const source = part(0, 20)
    expect(() => source.get(20)).toThrow(/expected an index from 0 to 19, got 20/)
    expect(() => selectDataset(source, Uint32Array.of(3)).get(1)).toThrow(DataError)
    expect(() => mixDatasets([{ dataset: source }]).lengthOf(-1)).toThrow(DataError)
    expect(drawn(shuffleDataset(source, 1))).not.toEqual(drawn(source))
    expect(drawn(shuffleDataset(source, 1))).toEqual(drawn(shuffleDataset(source, 1)))
  })
})
