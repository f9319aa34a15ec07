// Proves that the examples of a step are a pure function of (seed, step), that an epoch takes each once, and that accumulation does not change a step.
import { describe, expect, it } from 'vitest'
import fc from 'fast-check'
import { ConfigError } from '../../src/errors.ts'
import { memoryDataset } from '../../src/data/dataset.ts'
import { createSampler, evalBatches, stepBatch } from '../../src/data/sampler.ts'

const dataset = memoryDataset(Array.from({ length: 10 }, (_, i) => ({ inputIds: new Int32Array(i + 2).fill(i), labels: new Int32Array(i + 2).fill(i) })))

describe('createSampler', () => {
  it('takes each example once an epoch, and never crosses its end', () => {
    fc.assert(fc.property(fc.integer({ min: 1, max: 200 }), fc.integer({ min: 1, max: 9 }), fc.integer({ min: 1, max: 5 }), fc.boolean(), (length, perDeviceTrainBatchSize, gradientAccumulationSteps, shuffle) => {
      const sampler = createSampler(length, { perDeviceTrainBatchSize, gradientAccumulationSteps, shuffle, seed: 3 })
      for (const epoch of [0, 1]) {
        const steps = Array.from({ length: sampler.stepsPerEpoch }, (_, i) => sampler.at(epoch * sampler.stepsPerEpoch + i))
        expect(steps.every((step) => step.epoch === epoch && step.microBatches.length >= 1 && step.microBatches.length <= gradientAccumulationSteps)).toBe(true)
        const seen = steps.flatMap(({ microBatches }) => microBatches.flatMap((indices) => [...indices]))
        expect(seen.toSorted((a, b) => a - b)).toEqual(Array.from({ length }, (_, i) => i))
        if (!shuffle) expect(seen).toEqual(seen.toSorted((a, b) => a - b))
      }
    }))
  })

  it('gives a step the same examples however it is cut and in whatever order steps are asked', () => {
    const eightByOne = createSampler(50, { perDeviceTrainBatchSize: 8, gradientAccumulationSteps: 1, seed: 5 })
    const oneByEight = createSampler(50, { perDeviceTrainBatchSize: 1, gradientAccumulationSteps: 8, seed: 5 })
    for (const step of [20, 3, 0, 13, 6]) {
      const flat = (sampler: typeof eightByOne) => sampler.at(step).microBatches.flatMap((indices) => [...indices])
      expect(flat(oneByEight)).toEqual(flat(eightByOne))
    }
    expect(eightByOne.stepsPerEpoch).toBe(7)
    expect(eightByOne.at(0).microBatches).not.toEqual(eightByOne.at(7).microBatches)
    expect(eightByOne.at(0)).not.toEqual(createSampler(50, { seed: 6 }).at(0))
  })

  it('can leave out the last short batch', () => {
    const sampler = createSampler(10, { perDeviceTrainBatchSize: 4, dropLast: true, shuffle: false })
    expect(sampler.stepsPerEpoch).toBe(2)
    expect([...sampler.at(1).microBatches[0]!]).toEqual([4, 5, 6, 7])
  })

  it('refuses bad options', () => {
    expect(() => createSampler(0)).toThrow(ConfigError)
    expect(() => createSampler(3, { perDeviceTrainBatchSize: 4, dropLast: true })).toThrow(/too few for one batch of 4/)
    expect(() => createSampler(3, { perDeviceTrainBatchSize: 0 })).toThrow(/perDeviceTrainBatchSize/)
    expect(() => createSampler(3, { gradientAccumulationSteps: 1.5 })).toThrow(/gradientAccumulationSteps/)
    expect(() => createSampler(3, { seed: -1 })).toThrow(/seed/)
    expect(() => createSampler(3).at(-1)).toThrow(/step/)
  })
})

describe('stepBatch', () => {
  it('knows the trained tokens of the whole window', () => {
    const sampler = createSampler(10, { perDeviceTrainBatchSize: 2, gradientAccumulationSteps: 2, shuffle: false })
    const step = stepBatch(dataset, sampler, 1)
    expect(step).toMatchObject({ epoch: 0, stepInEpoch: 1, tokens: 6 + 7 + 8 + 9, numItems: 5 + 6 + 7 + 8 })
    expect(step.microBatches.map(({ numItems }) => numItems)).toEqual([11, 15])
  })
})

describe('evalBatches', () => {
  it('gives everything in order', () => {
    const batches = [...evalBatches(dataset, 4)]
    expect(batches.map(({ cuSeqlens }) => cuSeqlens.length - 1)).toEqual([4, 4, 2])
    expect(batches[2]!.inputIds.at(-1)).toBe(9)
  })
})
