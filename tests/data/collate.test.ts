// Proves that batches are those of TRL's collator, padding-free and padded, and that trained tokens are counted after the shift.
import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { ConfigError, DataError } from '../../src/errors.ts'
import { collate, pad } from '../../src/data/collate.ts'

interface Recorded { collate: {
  examples: { input_ids: number[], labels: number[], seq_lengths: number[] }[]
  flat: { input_ids: number[][], labels: number[][], position_ids: number[][] }
  padded: { input_ids: number[][], labels: number[][], attention_mask: number[][] }
} }
const { collate: recorded } = JSON.parse(readFileSync(new URL('../recorded/data/sft.json', import.meta.url), 'utf8')) as Recorded
const examples = recorded.examples.map((one) => ({ inputIds: Int32Array.from(one.input_ids), labels: Int32Array.from(one.labels), sequenceLengths: one.seq_lengths }))

describe('collate', () => {
  it('equals TRL without padding', () => {
    const batch = collate(examples)
    expect([...batch.inputIds]).toEqual(recorded.flat.input_ids[0])
    expect([...batch.labels]).toEqual(recorded.flat.labels[0])
    expect([...batch.positionIds]).toEqual(recorded.flat.position_ids[0])
    expect([...batch.cuSeqlens]).toEqual([0, 3, 5, 7])
    expect(batch.maxSeqlen).toBe(3)
    expect(batch.numItems).toBe(4)
  })

  it('takes unpacked and empty examples', () => {
    const one = { inputIds: Int32Array.of(5, 6), labels: Int32Array.of(5, 6) }
    expect([...collate([one, { inputIds: new Int32Array(0), labels: new Int32Array(0) }, one]).cuSeqlens]).toEqual([0, 2, 4])
  })

  it('leaves the examples as they are', () => {
    const labels = Int32Array.of(5, 6)
    collate([{ inputIds: Int32Array.of(5, 6), labels }])
    expect([...labels]).toEqual([5, 6])
  })

  it('refuses what does not fit together', () => {
    expect(() => collate([])).toThrow(DataError)
    expect(() => collate([{ inputIds: Int32Array.of(1, 2), labels: Int32Array.of(1) }])).toThrow(/labels must have one entry a token, 2, but have 1/)
    expect(() => collate([{ inputIds: Int32Array.of(1, 2), labels: Int32Array.of(1, 2), sequenceLengths: [3] }])).toThrow(/must add up to the number of tokens, 2, but give 3/)
  })
})

describe('pad', () => {
  it('equals TRL with padding', () => {
    const rows = examples.map(({ inputIds, labels }) => ({ inputIds, labels }))
    const batch = pad(rows, { padTokenId: 0, padToMultipleOf: 4 })
    expect(batch).toMatchObject({ batchSize: 2, length: 8, numItems: 5 })
    expect([...batch.inputIds]).toEqual(recorded.padded.input_ids.flat())
    expect([...batch.attentionMask]).toEqual(recorded.padded.attention_mask.flat())
    // TRL keeps the first label; the shift in the loss makes it of no effect.
    expect([...batch.labels]).toEqual(recorded.padded.labels.flatMap(([, ...rest]) => [-100, ...rest]))
  })

  it('pads on the left', () => {
    const batch = pad([{ inputIds: Int32Array.of(7), labels: Int32Array.of(7) }, { inputIds: Int32Array.of(8, 9), labels: Int32Array.of(8, 9) }], { padTokenId: 3, paddingSide: 'left' })
    expect([...batch.inputIds]).toEqual([3, 7, 8, 9])
    expect([...batch.attentionMask]).toEqual([0, 1, 1, 1])
    expect([...batch.positionIds]).toEqual([0, 0, 0, 1])
    expect([...batch.labels]).toEqual([-100, -100, -100, 9])
  })

  it('refuses packed examples and bad options', () => {
    expect(() => pad(examples, { padTokenId: 0 })).toThrow(/use collate/)
    expect(() => pad([], { padTokenId: 0 })).toThrow(DataError)
    expect(() => pad(examples.slice(1), { padTokenId: -1 })).toThrow(ConfigError)
    expect(() => pad(examples.slice(1), { padTokenId: 0, padToMultipleOf: 0 })).toThrow(ConfigError)
  })
})
