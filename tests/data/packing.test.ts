// Proves that packing plans are TRL's, recorded in tests/recorded/data/packing.json, and that no token is lost or misplaced.
import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import fc from 'fast-check'
import { ConfigError } from '../../src/errors.ts'
import { memoryDataset, packDataset } from '../../src/data/dataset.ts'
import { packGroup, type PackingStrategy } from '../../src/data/packing.ts'

interface Recorded { maxLength: number, lengths: number[], groupSize: number, strategy: PackingStrategy, rows: [number, number][][], sequenceLengths: number[][] | null }
const recorded = JSON.parse(readFileSync(new URL('../recorded/data/packing.json', import.meta.url), 'utf8')) as Recorded[]

/** Examples whose tokens, all together, are 0, 1, 2, … */
function corpus(lengths: number[]) {
  let at = 0
  return memoryDataset(lengths.map((length) => {
    const inputIds = Int32Array.from({ length }, () => at++)
    return { inputIds, labels: inputIds.map((id) => id % 3 === 0 ? -100 : id) }
  }))
}

describe('packDataset', () => {
  it.each(recorded.map((one) => [`${one.strategy} ${one.maxLength} of ${one.lengths.length}`, one] as const))('equals TRL: %s', (_, { maxLength, lengths, groupSize, strategy, rows, sequenceLengths }) => {
    const packed = packDataset(corpus(lengths), { maxLength, strategy, groupSize })
    const got = Array.from({ length: packed.length }, (_, i) => packed.get(i))
    const ids = rows.map((runs) => runs.flatMap(([first, count]) => Array.from({ length: count }, (_, i) => first + i)))
    expect(got.map((example) => [...example.inputIds])).toEqual(ids)
    expect(got.map((example) => [...example.labels])).toEqual(ids.map((row) => row.map((id) => id % 3 === 0 ? -100 : id)))
    expect(got.map((example) => example.sequenceLengths)).toEqual(sequenceLengths ?? ids.map((row) => [row.length]))
    expect(got.map((example) => example.inputIds.length)).toEqual(got.map((_, i) => packed.lengthOf(i)))
  })

  const lengthsOf = fc.array(fc.integer({ min: 0, max: 60 }), { maxLength: 200 })
  it('loses no token, keeps to the length, and gives the same rows again', () => {
    fc.assert(fc.property(lengthsOf, fc.integer({ min: 1, max: 50 }), fc.constantFrom<PackingStrategy>('bfd', 'bfd_split', 'wrapped'), fc.integer({ min: 1, max: 250 }), (lengths, maxLength, strategy, groupSize) => {
      const source = corpus(lengths)
      const packed = packDataset(source, { maxLength, strategy, groupSize })
      const seen: number[] = []
      for (let i = 0; i < packed.length; i++) {
        const { inputIds, sequenceLengths } = packed.get(i)
        expect(inputIds.length).toBeGreaterThan(0)
        expect(inputIds.length).toBeLessThanOrEqual(maxLength)
        expect(sequenceLengths!.reduce((a, b) => a + b, 0)).toBe(inputIds.length)
        seen.push(...inputIds)
      }
      let at = 0
      const kept = lengths.flatMap((length) => {
        const all = Array.from({ length }, () => at++)
        return strategy === 'bfd' ? all.slice(0, maxLength) : all
      })
      expect(seen.toSorted((a, b) => a - b)).toEqual(kept)
      if (strategy === 'wrapped' && groupSize >= lengths.length) expect(seen).toEqual(kept)
      const again = packDataset(source, { maxLength, strategy, groupSize })
      expect(Array.from({ length: again.length }, (_, i) => again.get(i))).toEqual(Array.from({ length: packed.length }, (_, i) => packed.get(i)))
    }), { numRuns: 150 })
  })

  it('never leaves two rows half empty, so that density is above one half', () => {
    fc.assert(fc.property(fc.array(fc.integer({ min: 1, max: 32 }), { minLength: 2, maxLength: 300 }), (lengths) => {
      const rows = packGroup(lengths, 32, 'bfd').map((pieces) => pieces.reduce((sum, piece) => sum + piece.length, 0)).sort((a, b) => a - b)
      if (rows.length > 1) expect(rows[0]! + rows[1]!).toBeGreaterThan(32)
    }))
  })

  it('reports its density and refuses impossible lengths', () => {
    expect(packDataset(corpus([3, 1, 2]), { maxLength: 4, strategy: 'bfd' }).density).toBe(6 / 8)
    expect(packDataset(corpus([]), { maxLength: 4, strategy: 'bfd' })).toMatchObject({ length: 0, density: 0 })
    expect(() => packGroup([1], 0, 'bfd')).toThrow(ConfigError)
    expect(() => packDataset(corpus([1]), { maxLength: 4, strategy: 'bfd', groupSize: 0 })).toThrow(ConfigError)
  })
})
