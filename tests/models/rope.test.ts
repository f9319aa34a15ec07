// Proves that rotary frequencies and tables equal those of transformers' modeling_rope_utils for every scaling.
import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { z } from 'zod'
import { readRope, ropeFields } from '../../src/models/configs/rope.ts'
import { parseFields, type RawConfig } from '../../src/models/configs/common.ts'
import { ropeFrequencies, ropeRows } from '../../src/models/rope.ts'

interface Case { headDim: number, maxPositionEmbeddings: number, length: number | null, rope: RawConfig, inverseFrequencies: number[], attentionFactor: number }

const recorded = JSON.parse(readFileSync(new URL('../recorded/models/rope.json', import.meta.url), 'utf8')) as {
  cases: Case[]
  table: { positions: number[], cos: number[], sin: number[] }
}

const read = (raw: RawConfig, headDim: number, maxPositionEmbeddings: number) =>
  readRope('config.json', parseFields(z.object(ropeFields), raw, 'config.json'), { headDim, maxPositionEmbeddings, partialRotary: true })

describe('rotary embeddings', () => {
  test.each(recorded.cases.map((c) => [JSON.stringify(c.rope), c] as const))('%s', (_, c) => {
    const { rope_theta, ...scaling } = c.rope
    for (const raw of [{ rope_parameters: c.rope }, { rope_theta, rope_scaling: scaling }] as RawConfig[]) {
      const { inverseFrequencies, attentionFactor } = ropeFrequencies(read(raw, c.headDim, c.maxPositionEmbeddings), c.length ?? 0)
      expect(attentionFactor).toBeCloseTo(c.attentionFactor, 6)
      expect(inverseFrequencies.length).toBe(c.inverseFrequencies.length)
      inverseFrequencies.forEach((f, i) => { expect(Math.abs(f / c.inverseFrequencies[i]! - 1)).toBeLessThan(5e-7) })
    }
  })

  test('tables hold cos and sin of position times frequency', () => {
    const { positions, cos, sin } = recorded.table
    const table = ropeRows(ropeFrequencies(read({ rope_theta: 10000 }, 64, 4096)), Int32Array.from(positions))
    positions.forEach((p, row) => {
      for (let i = 0; i < 32; i++) {
        expect(Math.abs(table.cos[row * 32 + i]! - cos[row * 32 + i]!)).toBeLessThan(3e-4 * (p / 4096) + 2e-7)
        expect(Math.abs(table.sin[row * 32 + i]! - sin[row * 32 + i]!)).toBeLessThan(3e-4 * (p / 4096) + 2e-7)
      }
    })
  })

  test.each([
    ['an unknown type', { rope_scaling: { type: 'lineer', factor: 2 } }, /rope_scaling\.rope_type: expected one of .*"lineer".*did you mean "linear"/],
    ['a missing factor', { rope_parameters: { rope_type: 'linear' } }, /rope_parameters\.factor: expected a number above 0, got nothing/],
    ['a zero theta', { rope_theta: 0 }, /rope_theta: expected a number above 0, got 0/],
    ['both layouts, contradicting', { rope_theta: 10000, rope_parameters: { rope_theta: 500000 } }, /rope_theta and rope_parameters contradict each other: 10000 and 500000/],
    ['both layouts, other factors', { rope_scaling: { type: 'linear', factor: 2 }, rope_parameters: { rope_type: 'linear', factor: 4 } }, /rope_scaling\.factor and rope_parameters contradict/],
    ['both layouts, other types', { rope_scaling: { type: 'linear', factor: 2 }, rope_parameters: { rope_type: 'dynamic', factor: 2 } }, /rope_scaling\.type and rope_parameters contradict/],
    ['frequency bounds in the wrong order', { rope_scaling: { rope_type: 'llama3', factor: 8, low_freq_factor: 4, high_freq_factor: 1 } }, /high_freq_factor: expected more than low_freq_factor \(4\), got 1/],
    ['too few LongRoPE factors', { rope_scaling: { type: 'longrope', short_factor: [1], long_factor: [1] } }, /short_factor: expected 32 numbers/],
    ['an odd rotation', { partial_rotary_factor: 0.05 }, /partial_rotary_factor: expected an even number/],
    ['parameters per layer type', { rope_parameters: { full_attention: { rope_type: 'default' } } }, /rope_parameters\.full_attention: expected one set/],
  ] as [string, RawConfig, RegExp][])('refuses %s', (_, raw, message) => {
    expect(() => read(raw, 64, 4096)).toThrow(message)
  })
})
