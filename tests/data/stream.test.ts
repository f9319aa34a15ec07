// Proves that a stream goes on from any state as if it had not stopped, takes each row once an epoch, and shuffles by seed.
import { describe, expect, it } from 'vitest'
import { ConfigError, DataError } from '../../src/errors.ts'
import { rowsReader } from '../../src/data/readers/rows.ts'
import { mixStreams, StreamingDataset, type StreamOptions, type Streamed, type ExampleStream } from '../../src/data/stream.ts'
import { characters } from './support.ts'

const rows = (name: string, count: number) => rowsReader(Array.from({ length: count }, (_, i) => ({ text: i % 10 === 7 ? '' : `${name}${i} ` })), name)
const stream = (more: Partial<StreamOptions> = {}) =>
  new StreamingDataset({ readers: [rows('a', 40), rows('b', 25), rows('c', 3)], tokenization: characters(), seed: 5, shuffleBuffer: 12, epochs: 2, ...more })
const textOf = ({ example }: Streamed<unknown>) => characters().tokenizer.decode(example.inputIds)

async function take<State>(source: ExampleStream<State>, count = Infinity, state?: State): Promise<Streamed<State>[]> {
  const items: Streamed<State>[] = []
  for await (const item of source.iterate(state)) {
    items.push(item)
    if (items.length >= count) break
  }
  return items
}

describe('StreamingDataset', () => {
  it('gives each row with tokens once an epoch, in another order each', async () => {
    const items = await take(stream())
    const epochs = [0, 1].map((epoch) => items.slice(epoch * items.length / 2, (epoch + 1) * items.length / 2).map(textOf))
    expect(epochs[0]!.toSorted()).toEqual(epochs[1]!.toSorted())
    expect(new Set(epochs[0]).size).toBe(36 + 23 + 3)
    expect(epochs[0]).not.toEqual(epochs[1])
    expect((await take(stream())).map(textOf)).toEqual(items.map(textOf))
    expect((await take(stream({ seed: 6 }))).map(textOf)).not.toEqual(items.map(textOf))
  })

  it('keeps the order without a buffer', async () => {
    expect((await take(stream({ shuffleBuffer: 0 }), 3)).map(textOf)).toEqual(['a0 <|eos|>', 'a1 <|eos|>', 'a2 <|eos|>'])
  })

  it.each<[string, Partial<StreamOptions>]>([
    ['examples', {}], ['examples in order', { shuffleBuffer: 0 }], ['examples through a buffer larger than the data', { shuffleBuffer: 500 }],
    ['packed rows', { packing: 'bfd', maxLength: 16, packingGroupSize: 10 }], ['split rows', { packing: 'bfd_split', maxLength: 3, packingGroupSize: 7 }],
    ['wrapped rows', { packing: 'wrapped', maxLength: 16 }],
  ])('goes on from every state: %s', async (_, options) => {
    const whole = await take(stream(options))
    for (let stop = 0; stop < whole.length; stop += 5) {
      const state = JSON.parse(JSON.stringify(whole[stop]!.state)) as typeof whole[0]['state']
      expect((await take(stream(options), 12, state)).map(textOf)).toEqual(whole.slice(stop + 1, stop + 13).map(textOf))
    }
  })

  it('does not tokenize what it passes over', async () => {
    const whole = await take(stream())
    const tokenization = characters()
    await take(stream({ tokenization }), 1, whole[50]!.state)
    expect(tokenization.tokenizer.encodings).toBeLessThan(4)
  })

  it('says when there is nothing to train on, and refuses bad options', async () => {
    await expect(take(stream({ readers: [rowsReader([{ text: '' }])], epochs: 9 }))).rejects.toThrow(DataError)
    expect(() => stream({ shuffleBuffer: -1 })).toThrow(ConfigError)
    expect(() => stream({ readers: [] })).toThrow(ConfigError)
    expect(() => stream({ packing: 'bfd', maxLength: null })).toThrow(/packing needs a length/)
  })
})

describe('mixStreams', () => {
  const mixed = () => mixStreams([{ stream: stream({ readers: [rows('a', 300)] }), weight: 3 }, { stream: stream({ readers: [rows('b', 300)] }), weight: 1 }], 9)

  it('draws by weight and goes on from every state', async () => {
    const whole = await take(mixed(), 300)
    const share = whole.filter((item) => textOf(item).startsWith('a')).length / whole.length
    expect(share).toBeGreaterThan(0.68)
    expect(share).toBeLessThan(0.82)
    for (const stop of [0, 57, 200]) {
      const state = JSON.parse(JSON.stringify(whole[stop]!.state)) as typeof whole[0]['state']
      expect((await take(mixed(), 20, state)).map(textOf)).toEqual(whole.slice(stop + 1, stop + 21).map(textOf))
    }
  })

  it('ends when a stream ends', async () => {
    const items = await take(mixStreams([{ stream: stream({ readers: [rows('a', 3)], epochs: 1 }) }, { stream: stream({ readers: [rows('b', 30)], epochs: 1 }) }]))
    expect(items).toHaveLength(6)
  })
})
