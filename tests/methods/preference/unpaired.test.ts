// Proves that KTO, its APO and BCO variants and RRHF learn from their own kinds of data, and go on exactly where they stopped.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, describe, expect, test } from 'vitest'
import { ConfigError, DataError } from '../../../src/errors.ts'
import { balanceWarning, collateUnpaired } from '../../../src/methods/preference/kto.ts'
import { kto, rrhf, type KtoOptions, type RrhfOptions } from '../../../src/methods/preference/index.ts'
import { relative } from '../../train/support.ts'
import { base, logOf, preferences, ranked, setting, unpaired } from './support.ts'

const live: { dispose(): void }[] = []
afterEach(() => { for (const one of live.splice(0)) one.dispose() })
const keep = <T extends { dispose(): void, model: { dispose(): void } }>(run: T): T => { live.push(run, run.model); return run }

const ids = (...values: number[]): Int32Array => Int32Array.from(values)
const rows = [{ promptIds: ids(1), completionIds: ids(2, 3), label: true }, { promptIds: ids(4, 5), completionIds: ids(6), label: false }, { promptIds: ids(7), completionIds: ids(8, 9, 10), label: true }]

test('the KL pairs rotate completions by one within the batch, cut to maxLength', () => {
  const { mismatched, inputIds, begins, lengths } = collateUnpaired(rows, { maxLength: 3, mismatch: true })
  expect([...inputIds]).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9])
  expect([begins, lengths]).toEqual([[0, 4, 6], [2, 1, 2]])
  expect([...mismatched!.inputIds]).toEqual([1, 8, 9, 4, 5, 2, 7, 6])
  expect([mismatched!.begins, mismatched!.lengths]).toEqual([[0, 4, 6], [2, 1, 1]])
  expect([...mismatched!.labels]).toEqual([-100, 8, 9, -100, -100, 2, -100, 6])
})

test('advises on weights as TRL does', () => {
  const weights = { desirableWeight: 1, undesirableWeight: 1 }
  expect(balanceWarning(rows, weights)).toBe('2 desirable and 1 undesirable rows: set desirableWeight in [0.50, 0.67] or undesirableWeight in [1.50, 2.00], not both')
  expect(balanceWarning(rows, { ...weights, undesirableWeight: 1.6 })).toBeUndefined()
  expect(balanceWarning(rows.slice(0, 2), weights)).toBeUndefined()
})

describe.each(['kto', 'apo_zero_unpaired', 'bco'] as const)('%s', (lossType) => {
  test('learns what is desirable', async () => {
    const log = await logOf(keep(await kto({ ...base, ...await setting(unpaired), lossType, beta: 0.3, learningRate: 1e-2, numTrainEpochs: 5 })))
    expect(log[0]!['loss']).toBeCloseTo(lossType === 'bco' ? Math.LN2 : 0.5, 5)
    expect(log.at(-1)!['rewards/margins']).toBeGreaterThan(0.5)
    if (lossType === 'kto') expect(log.every(({ kl }) => kl! >= 0)).toBe(true)
    expect('delta' in log[0]!).toBe(lossType === 'bco')
  })

  test('stopped and resumed, it ends with the same bytes', async () => {
    const where = await setting(unpaired)
    const options: KtoOptions = { ...base, ...where, lossType, maxSteps: 5, precomputeRefLogProbs: lossType !== 'bco', learningRate: 1e-2 }
    await keep(await kto({ ...options, outputDir: join(where.outputDir, '..', 'whole') })).train()
    const first = keep(await kto(options))
    const controller = new AbortController()
    first.trainer.on((event) => { if (event.type === 'step' && event.step === 2) controller.abort() })
    expect(await first.train({ signal: controller.signal })).toMatchObject({ reason: 'aborted' })
    await keep(await kto({ ...options, resumeFromCheckpoint: true })).train()
    expect(readFileSync(join(where.outputDir, 'model.safetensors')).equals(readFileSync(join(where.outputDir, '..', 'whole', 'model.safetensors')))).toBe(true)
  })
})

test('pairs are taken apart into desirable and undesirable rows', async () => {
  const [whole, apart] = [keep(await kto({ ...base, ...await setting(preferences), maxSteps: 2 })), keep(await kto({ ...base, ...await setting(unpaired), maxSteps: 2 }))]
  expect(whole.data.train).toEqual(apart.data.train)
})

test('a precomputed reference is that of the very KL pairs', async () => {
  const where = await setting(unpaired)
  const [live_, computed] = [await logOf(keep(await kto({ ...base, ...where, maxSteps: 6 }))), await logOf(keep(await kto({ ...base, ...where, outputDir: `${where.outputDir}2`, maxSteps: 6, precomputeRefLogProbs: true })))]
  expect(relative(computed.map(({ loss }) => loss!), live_.map(({ loss }) => loss!))).toBeLessThan(1e-6)
  expect(computed.at(-1)!['kl']).toBeCloseTo(live_.at(-1)!['kl']!, 5)
})

describe('RRHF', () => {
  test.each<Partial<RrhfOptions>>([{}, { rankWeight: 100, ftReduction: 'mean_padded' }, { ftReduction: 'mean', perDeviceTrainBatchSize: 2, gradientAccumulationSteps: 2 }])('%o: responses come into their order', async (options) => {
    const log = await logOf(keep(await rrhf({ ...base, ...await setting(ranked), perDeviceTrainBatchSize: 5, numTrainEpochs: 10, ...options })))
    // An untrained model finds all responses alike; learning the best one first moves the others too.
    expect(Math.max(...log.map((step) => step['rank_loss']!))).toBeGreaterThan(0.2)
    expect(log.at(-1)!['rank_loss']).toBeLessThan(0.02)
    expect(log.at(-1)!['sft_loss']).toBeLessThan(log[0]!['sft_loss']!)
  })

  test('accumulating 1 prompt five times is 5 prompts at once', async () => {
    const where = await setting(ranked)
    const run = async (perDeviceTrainBatchSize: number, gradientAccumulationSteps: number) =>
      (await logOf(keep(await rrhf({ ...base, ...where, outputDir: `${where.outputDir}${perDeviceTrainBatchSize}`, perDeviceTrainBatchSize, gradientAccumulationSteps, maxSteps: 2 })))).map(({ loss }) => loss!)
    expect(relative(await run(1, 5), await run(5, 1))).toBeLessThan(1e-5)
  })
})

const row = unpaired[0]!
test.each<[string, unknown[], Partial<KtoOptions>, new (...args: never[]) => Error]>([
  ['perDeviceTrainBatchSize: expected at least 2', [row], { perDeviceTrainBatchSize: 1 }, ConfigError],
  ['truncationMode: KTO cuts ends only', [row], { truncationMode: 'keep_end' }, ConfigError],
  ['train.jsonl:1: label: expected true or false', [{ ...row, label: 'perhaps' }], {}, DataError],
  ['train.jsonl:1: completion: expected a completion, got an empty one', [{ ...row, completion: '' }], {}, DataError],
  ['expected the columns "prompt", "completion" and "label", got a row of the kind promptCompletion', [{ prompt: 'a', completion: 'b' }], {}, DataError],
])('KTO says "%s"', async (message, data, options, type) => {
  const failure = kto({ ...base, ...await setting(data), ...options })
  await expect(failure).rejects.toThrow(message)
  await expect(failure).rejects.toThrow(type)
})

const one = ranked[0]!
test.each<[string, unknown]>([
  ['train.jsonl:1: scores: expected 4, one for each of responses, got 1', { ...one, scores: [1] }],
  ['train.jsonl:1: scores[0]: expected a finite number, got a string', { ...one, scores: ['good', 1, 2, 3] }],
  ['train.jsonl:1: responses: expected at least two to rank, got 1', { ...one, responses: ['a'], scores: [1] }],
  ['train.jsonl:1: responses[1]: expected a completion, got an empty one', { ...one, responses: ['a', '', 'b', 'c'] }],
  ['train.jsonl:1: expected the columns "prompt", "responses" and "scores"; the row has "prompt", "scores"', { prompt: 'a', scores: [1, 2] }],
])('RRHF says "%s"', async (message, data) => {
  const failure = rrhf({ ...base, ...await setting([data]) })
  await expect(failure).rejects.toThrow(message)
  await expect(failure).rejects.toThrow(DataError)
})
