// Proves that Philox gives the published numbers, and that permutations are permutations, uniform, and pure functions of the seed.
import { describe, expect, it } from 'vitest'
import fc from 'fast-check'
import { permutation, philox, RandomSequence } from '../../src/data/random.ts'

describe('philox', () => {
  // The known answers of Random123's kat_vectors for philox4x32-10.
  it.each([
    [[0, 0], [0, 0, 0, 0], [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]],
    [[0xffffffff, 0xffffffff], [0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff], [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]],
    [[0xa4093822, 0x299f31d0], [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]],
  ] as const)('key %j counter %j', (key, counter, answer) => {
    expect(philox(key, counter)).toEqual(answer)
  })
})

describe('RandomSequence', () => {
  it('depends on the index only, in whatever order it is asked', () => {
    const sequence = new RandomSequence(7, 'shuffle', 3)
    const forward = Array.from({ length: 100 }, (_, i) => sequence.word(i))
    const backward = Array.from({ length: 100 }, (_, i) => new RandomSequence(7, 'shuffle', 3).word(99 - i)).reverse()
    expect(backward).toEqual(forward)
    expect(new RandomSequence(8, 'shuffle', 3).word(0)).not.toBe(forward[0])
    expect(new RandomSequence(7, 'split', 3).word(0)).not.toBe(forward[0])
    expect(new RandomSequence(7 + 2 ** 32, 'shuffle', 3).word(0)).not.toBe(forward[0])
  })
})

describe('permutation', () => {
  it('holds each number once and is the same each time', () => {
    fc.assert(fc.property(fc.nat(500), fc.maxSafeNat(), fc.nat(1000), (n, seed, epoch) => {
      const order = permutation(n, seed, 'shuffle', epoch)
      expect(Array.from(order).sort((a, b) => a - b)).toEqual(Array.from({ length: n }, (_, i) => i))
      expect(permutation(n, seed, 'shuffle', epoch)).toEqual(order)
    }))
  })

  it('is uniform: over 24,000 seeds each order of four comes about a thousand times', () => {
    const counts = new Map<string, number>()
    for (let seed = 0; seed < 24000; seed++) {
      const key = permutation(4, seed, 'shuffle').join('')
      counts.set(key, (counts.get(key) ?? 0) + 1)
    }
    const chiSquare = [...counts.values()].reduce((sum, count) => sum + (count - 1000) ** 2 / 1000, 0)
    expect(counts.size).toBe(24)
    expect(chiSquare).toBeLessThan(50) // 23 degrees of freedom: p = 0.001 at 49.7
  })
})
