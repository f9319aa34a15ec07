// Proves that DPO learns to prefer, that its reference, precomputed or not, is the model before training, and that a stopped run goes on with the same bytes.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, describe, expect, test } from 'vitest'
import { ConfigError, DataError } from '../../../src/errors.ts'
import type { PairExample } from '../../../src/data/index.ts'
import { cpo, dpo, orpo, type DpoOptions, type PairBatch, type PreparedPreferenceRun } from '../../../src/methods/preference/index.ts'
import { AutoModelForCausalLM } from '../../../src/models/index.ts'
import { temporaryFolder } from '../../files/helpers.ts'
import { writeRows } from '../support.ts'
import { relative } from '../../train/support.ts'
import { base, logOf, preferences, setting } from './support.ts'

const live: { dispose(): void }[] = []
afterEach(() => { for (const one of live.splice(0)) one.dispose() })
const keep = <T extends { dispose(): void, model: { dispose(): void } }>(run: T): T => { live.push(run, run.model); return run }

test('it begins at log 2 and learns to prefer what it is shown, in training and on held-out pairs', async () => {
  const where = await setting(preferences)
  const run = keep(await dpo({ ...base, ...where, beta: 0.5, numTrainEpochs: 8, evalSplit: 4, evalStrategy: 'epoch' }))
  let evaluated: Record<string, number> = {}
  run.trainer.on((event) => { if (event.type === 'evaluate') evaluated = event.metrics })
  const log = await logOf(run)
  expect(log[0]!['loss']).toBeCloseTo(Math.LN2, 6)
  expect(log[0]!['rewards/margins']).toBeCloseTo(0, 6)
  expect(log.at(-1)!['rewards/accuracies']).toBeGreaterThan(0.9)
  expect(log.at(-1)!['rewards/margins']).toBeGreaterThan(1)
  expect(log.at(-1)!['rewards/margins']).toBeCloseTo(log.at(-1)!['rewards/chosen']! - log.at(-1)!['rewards/rejected']!, 5)
  expect(Object.keys(evaluated)).toEqual(expect.arrayContaining(['loss', 'rewards/accuracies', 'logps/chosen']))
  const saved = await AutoModelForCausalLM.fromPretrained(where.outputDir)
  live.push(saved)
})

const variants: [string, Partial<DpoOptions>][] = [
  ['reference in memory', {}], ['precomputed', { precomputeRefLogProbs: true }], ['precomputed, named', { precomputeRefLogProbs: true, refModel: 'model' }], ['precomputed in other batches', { precomputeRefLogProbs: true, precomputeRefBatchSize: 3 }],
]

test('the reference may be a copy, named, or precomputed: training is the same, of the first two to the byte', async () => {
  const where = await setting(preferences)
  const weights: Buffer[] = []
  const losses: number[][] = []
  for (const [name, options] of [...variants, ['named', { refModel: where.model }]] as [string, Partial<DpoOptions>][]) {
    const outputDir = join(where.outputDir, '..', name.replaceAll(' ', '-'))
    losses.push((await logOf(keep(await dpo({ ...base, ...where, outputDir, maxSteps: 4, ldAlpha: 0.4, ...options, ...options.refModel === undefined ? {} : { refModel: where.model } })))).map(({ loss }) => loss!))
    weights.push(readFileSync(join(outputDir, 'model.safetensors')))
  }
  expect(weights.at(-1)!.equals(weights[0]!)).toBe(true)
  // Sums over a completion are rounded by the width of its batch.
  for (const other of losses.slice(1)) expect(relative(other, losses[0]!)).toBeLessThan(1e-5)
})

test('stopped and resumed, it ends with the same bytes, precomputed reference included', async () => {
  const where = await setting(preferences)
  const options = { ...base, ...where, maxSteps: 6, precomputeRefLogProbs: true, gradientAccumulationSteps: 2, perDeviceTrainBatchSize: 4 } as const
  await keep(await dpo({ ...options, outputDir: join(where.outputDir, '..', 'whole') })).train()
  const first = keep(await dpo(options))
  const controller = new AbortController()
  first.trainer.on((event) => { if (event.type === 'step' && event.step === 2) controller.abort() })
  expect(await first.train({ signal: controller.signal })).toMatchObject({ reason: 'aborted' })
  const rest = keep(await dpo({ ...options, resumeFromCheckpoint: true }))
  expect(await rest.train()).toMatchObject({ reason: 'finished', step: 6 })
  expect(readFileSync(join(where.outputDir, 'model.safetensors')).equals(readFileSync(join(where.outputDir, '..', 'whole', 'model.safetensors')))).toBe(true)
  await expect(keep(await dpo({ ...options, beta: 0.2, resumeFromCheckpoint: true })).train()).rejects.toThrow('beta: the checkpoint')
})

test('with an adapter the reference is the model without it, and what is saved is the adapter', async () => {
  const where = await setting(preferences)
  const options = { ...base, ...where, beta: 0.5, adapter: { type: 'lora', r: 4, targetModules: 'all-linear' }, learningRate: 1e-2, numTrainEpochs: 6 } as const
  const log = await logOf(keep(await dpo(options)))
  expect(log[0]!['loss']).toBeCloseTo(Math.LN2, 6)
  expect(log.at(-1)!['rewards/accuracies']).toBeGreaterThan(0.9)
  expect(readFileSync(join(where.outputDir, 'adapter_config.json'), 'utf8')).toContain('LORA')
  const again = await logOf(keep(await dpo({ ...options, adapter: undefined, adapterPath: where.outputDir, outputDir: join(where.outputDir, '..', 'on'), maxSteps: 1 })))
  expect(again[0]!['loss'], 'an adapter to go on with is its own reference').toBeCloseTo(Math.LN2, 6)
  const before = await logOf(keep(await dpo({ ...options, adapter: undefined, adapterPath: where.outputDir, outputDir: join(where.outputDir, '..', 'before'), maxSteps: 1, precomputeRefLogProbs: true })))
  expect(before[0]!['loss']).toBeCloseTo(Math.LN2, 6)
})

describe('4 micro-batches of 2 pairs make the step of 1 of 8', () => {
  type Options = typeof base & Awaited<ReturnType<typeof setting>> & { gradientAccumulationSteps: number, maxSteps: number }
  const methods: [string, (options: Options) => Promise<PreparedPreferenceRun<PairExample, PairBatch>>][] = [
    ['dpo with sft', (options) => dpo({ ...options, lossType: ['sigmoid', 'sft'], lossWeights: [1, 0.5] })],
    ['dpo weighted', (options) => dpo({ ...options, useWeighting: true })], ['ipo', (options) => dpo({ ...options, lossType: 'ipo' })],
    ['orpo', (options) => orpo(options)], ['orpo of completions', (options) => orpo({ ...options, nllScope: 'completion' })],
    ['cpo', (options) => cpo(options)], ['simpo', (options) => cpo({ ...options, lossType: 'simpo', beta: 2 })],
  ]
  test.each(methods)('%s', async (_, method) => {
    const where = await setting(preferences)
    const losses: number[][] = []
    for (const [perDeviceTrainBatchSize, gradientAccumulationSteps] of [[8, 1], [2, 4]] as const) {
      const run = keep(await method({ ...base, ...where, outputDir: temporaryFolder(), maxSteps: 2, perDeviceTrainBatchSize, gradientAccumulationSteps }))
      losses.push((await logOf(run)).map(({ loss }) => loss!))
    }
    expect(relative(losses[1]!, losses[0]!)).toBeLessThan(1e-5)
  })
})

test('CPO, SimPO and ORPO learn to prefer without a reference', async () => {
  const where = await setting(preferences)
  for (const [name, run] of [
    ['cpo', await cpo({ ...base, ...where, outputDir: join(where.outputDir, '..', 'cpo'), numTrainEpochs: 6 })],
    ['simpo', await cpo({ ...base, ...where, outputDir: join(where.outputDir, '..', 'simpo'), lossType: 'simpo', beta: 2, numTrainEpochs: 6 })],
    ['alphapo', await cpo({ ...base, ...where, outputDir: join(where.outputDir, '..', 'alphapo'), lossType: 'simpo', beta: 2, alpha: 0.25, numTrainEpochs: 6 })],
    ['orpo', await orpo({ ...base, ...where, outputDir: join(where.outputDir, '..', 'orpo'), beta: 0.5, numTrainEpochs: 6 })],
  ] as const) {
    const log = await logOf(keep(run))
    expect(log.at(-1)!['rewards/accuracies'], name).toBeGreaterThan(0.9)
  }
})

describe('bad input', () => {
  const row = preferences[0]!
  test.each<[string, unknown[], Partial<DpoOptions>, new (...args: never[]) => Error]>([
    ['train.jsonl:1: chosen and rejected are equal', [{ ...row, rejected: row.chosen }], {}, DataError],
    ['train.jsonl:1: rejected: expected a completion, got an empty one', [{ ...row, rejected: '' }], {}, DataError],
    ['train.jsonl:2: chosen: expected a completion, got an empty one', [row, { ...row, chosen: '' }], {}, DataError],
    ['expected the columns "chosen" and "rejected", got a row of the kind promptCompletion', [{ prompt: 'a', completion: 'b' }], {}, DataError],
    ['no example is left to train on: 2 of 2 rows were left out: their prompt leaves no room', [{ ...row, prompt: 'the cat '.repeat(40) }, { ...row, prompt: 'a dog '.repeat(60) }], {}, DataError],
    ['no example is left to train on: 1 of 1 rows were left out: chosen and rejected are equal once cut', [{ prompt: 'the cat', chosen: ` ${'sees '.repeat(30)}a`, rejected: ` ${'sees '.repeat(30)}b` }], { maxLength: 16 }, DataError],
    ['maxLength: the data has a row of', [{ ...row, prompt: 'the cat '.repeat(60) }], { maxLength: null }, ConfigError],
    ['lossWeights: expected 1, one for each of lossType, got 2', [row], { lossWeights: [1, 2] }, ConfigError],
    ['labelSmoothing: has no meaning for hinge', [row], { lossType: 'hinge', labelSmoothing: 0.1 }, ConfigError],
    ['labelSmoothing: exo_pair needs a number above 0', [row], { lossType: 'exo_pair' }, ConfigError],
    ['fDivergenceType: has no meaning for nca_pair', [row], { lossType: 'nca_pair', fDivergenceType: 'forward_kl' }, ConfigError],
    ['lossType: expected one of', [row], { lossType: 'sigmoide' as never }, ConfigError],
    ['train.jsonl:1: margin: expected a finite number', [{ ...row, margin: 'wide' }], {}, DataError],
  ])('says "%s"', async (message, rows, options, type) => {
    const failure = dpo({ ...base, ...await setting(rows), ...options })
    await expect(failure).rejects.toThrow(message)
    await expect(failure).rejects.toThrow(type)
  })

  test('is passed over where the options say so, and counted', async () => {
    const where = await setting([{ ...row, chosen: '' }, ...preferences.slice(0, 4), { ...row, rejected: row.chosen }, { ...row, prompt: 'the cat '.repeat(40) }])
    const run = keep(await dpo({ ...base, ...where, onBadRow: 'skip', maxSteps: 1 }))
    expect(run.data.stats).toMatchObject({ rows: 7, examples: 4, badRows: 2, dropped: { promptTooLong: 1 } })
    expect(run.data.warnings).toEqual([expect.stringContaining('2 malformed rows were skipped'), expect.stringContaining('1 of 7 rows were left out')])
  })

  test('data that changed is noticed on resume', async () => {
    const where = await setting(preferences)
    const options = { ...base, ...where, maxSteps: 2, saveStrategy: 'steps', saveSteps: 1 } as const
    await keep(await dpo(options)).train()
    writeRows(where.files, preferences.slice(1))
    await expect(keep(await dpo({ ...options, maxSteps: 3, resumeFromCheckpoint: true })).train()).rejects.toThrow()
  })
})
