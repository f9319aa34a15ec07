// Proves that streamed steps are those of the rows in order, mixed by weight, and go on from any step's state.
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { ConfigError } from '../../src/errors.ts'
import { loadStream, streamSteps, type LoadStreamOptions } from '../../src/data/loadStream.ts'
import { CharacterTokenizer, collect, temporaryFolder, tokenizeConversation, write } from './support.ts'

const folder = temporaryFolder()
const tokenizer = new CharacterTokenizer()
const file = write(folder, 'a.jsonl', Array.from({ length: 23 }, (_, i) => JSON.stringify({ text: `a${i} ` })).join('\n'))
const load = (options: Partial<LoadStreamOptions<CharacterTokenizer>>) => loadStream({ tokenizer, tokenizeConversation, epochs: 1, ...options })

describe('streamSteps', () => {
  it('gathers rows into micro-batches and steps, with a smaller last one', async () => {
    const steps = await collect(streamSteps(await load({ files: file, shuffleBuffer: 0 }), { perDeviceTrainBatchSize: 2, gradientAccumulationSteps: 3 }))
    expect(steps.map(({ microBatches }) => microBatches.map(({ cuSeqlens }) => cuSeqlens.length - 1))).toEqual([[2, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 1]])
    expect(steps.map(({ microBatches }) => microBatches.map(({ inputIds }) => tokenizer.decode(inputIds)).join('')).join('').replaceAll('<|eos|>', ''))
      .toBe(Array.from({ length: 23 }, (_, i) => `a${i} `).join(''))
    expect(steps[0]!.numItems).toBe(6 * 3)
  })

  it('goes on from the state of any step', async () => {
    const options = { datasets: [{ files: file, weight: 2 }, { rows: Array.from({ length: 30 }, (_, i) => ({ text: `b${i}` })), weight: 1 }], packing: true, maxLength: 20, packingGroupSize: 5, epochs: 3 }
    const sizes = { perDeviceTrainBatchSize: 2, gradientAccumulationSteps: 2 }
    const whole = await collect(streamSteps(await load(options), sizes))
    expect(whole.length).toBeGreaterThan(4)
    for (const stop of [0, 2, whole.length - 2]) {
      const rest = await collect(streamSteps(await load(options), sizes, whole[stop]!.state))
      expect(rest.map(({ microBatches }) => microBatches)).toEqual(whole.slice(stop + 1).map(({ microBatches }) => microBatches))
    }
  })

  it('refuses bad options', async () => {
    await expect(load({})).rejects.toThrow(ConfigError)
    await expect(load({ files: join(folder, 'none.txt') })).rejects.toThrow(/no such file/)
    await expect(load({ files: file, datasets: [] })).rejects.toThrow(/either datasets or files/)
    await expect(collect(streamSteps(await load({ files: file }), { perDeviceTrainBatchSize: 0 }))).rejects.toThrow(/perDeviceTrainBatchSize/)
  })
})
