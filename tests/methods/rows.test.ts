// Proves that every method trains on rows in memory as on the same rows of a file: an array, and a stream that is read once.
import { join } from 'node:path'
import { afterEach, describe, expect, test } from 'vitest'
import { cpo, distill, dpo, kto, orpo, pretrain, reward, rrhf, sft, stepwiseReward, tpo, type RowsInput } from '../../src/methods/index.ts'
import type { PretrainedModel } from '../../src/models/index.ts'
import type { Trainer } from '../../src/train/index.ts'
import { temporaryFolder } from '../files/helpers.ts'
import { weightsHash } from '../train/support.ts'
import { conversations, pairs, sentences, sharedModel, writeRows } from './support.ts'

const live: { dispose(): void }[] = []
afterEach(() => { for (const one of live.splice(0)) one.dispose() })

const model = sharedModel()

interface Run { trainer: Pick<Trainer<never>, 'evaluate'>, model: PretrainedModel, train: () => Promise<unknown>, dispose: () => void }
/** Rows as files, or given. */
type Source = { files: string, evalFiles: string } | RowsInput

const common = () => ({ model, outputDir: temporaryFolder(), reportTo: [], saveStrategy: 'no', maxSteps: 2, perDeviceTrainBatchSize: 4, learningRate: 1e-2, maxLength: 64 }) as const
const preferences = pairs.slice(0, 8).map(({ prompt, completion }, i) => ({ prompt, chosen: completion, rejected: pairs[i + 3]!.completion }))

const methods: [string, readonly object[], (source: Source) => Promise<Run>][] = [
  ['sft', conversations.slice(0, 12), (source) => sft({ ...common(), ...source, cacheDir: false, assistantOnlyLoss: true, packing: true })],
  ['pretrain', sentences.slice(0, 12).map((text) => ({ text })), (source) => pretrain({ ...common(), ...source, cacheDir: false })],
  ['distill', pairs.slice(0, 8), (source) => distill({ ...common(), ...source, cacheDir: false, teacher: model, alpha: 0.5 })],
  ['dpo', preferences, (source) => dpo({ ...common(), ...source })],
  ['kto', pairs.slice(0, 8).map((row, i) => ({ ...row, label: i % 2 === 0 })), (source) => kto({ ...common(), ...source })],
  ['orpo', preferences, (source) => orpo({ ...common(), ...source })],
  ['cpo', preferences, (source) => cpo({ ...common(), ...source })],
  ['tpo', preferences.map((row, i) => ({ ...row, reference: pairs[i + 1]!.completion })), (source) => tpo({ ...common(), ...source })],
  ['rrhf', preferences.map(({ prompt, chosen, rejected }) => ({ prompt, responses: [chosen, rejected], scores: [1, 0] })), (source) => rrhf({ ...common(), ...source })],
  ['reward', preferences, (source) => reward({ ...common(), ...source })],
  ['stepwiseReward', pairs.slice(0, 8).map(({ prompt, completion }, i) => ({ prompt, completions: [completion], labels: [i % 2 === 0] })), (source) => stepwiseReward({ ...common(), ...source })],
]

// eslint-disable-next-line @typescript-eslint/require-await -- as what a database gives
async function* streamed(rows: readonly object[]): AsyncGenerator<object> { yield* rows }

test.each(methods)('%s', async (_, rows, make) => {
  const held = rows.slice(0, 4)
  const folder = temporaryFolder()
  const sources: Source[] = [
    { files: writeRows(join(folder, 'rows.jsonl'), rows), evalFiles: writeRows(join(folder, 'held.jsonl'), held) },
    { rows, evalRows: held }, { rows: streamed(rows), evalRows: new Set(held) },
  ]
  const results: unknown[] = []
  for (const source of sources) {
    const run = await make(source)
    live.push(run, run.model)
    const before = await run.trainer.evaluate()
    await run.train()
    results.push({ before, after: await run.trainer.evaluate(), hash: await weightsHash(run.model) })
  }
  expect(results[1]).toEqual(results[0])
  expect(results[2]).toEqual(results[0])
  expect((results[0] as { before: object, after: object }).after).not.toEqual((results[0] as { before: object }).before)
})

describe('bad rows', () => {
  test.each<[string, object]>([
    ['rows: expected an array, an iterable or an async iterable of rows, got a function; call it', { rows: () => conversations }],
    ['rows: expected an array, an iterable or an async iterable of rows, got a text; name files with files', { rows: 'rows.jsonl' }],
    ['evalRows: expected an array, an iterable or an async iterable of rows, got a value of type object', { rows: conversations, evalRows: {} }],
    ['rows: row 1: expected an object, got a string', { rows: ['the cat'] }],
    ['files: give either files or rows, not both', { rows: conversations, files: 'rows.jsonl' }],
    ['evalRows: row 1: the columns "words" are none of the known shapes', { rows: conversations, evalRows: [{ words: 'the cat' }] }],
  ])('%s', async (message, given) => {
    await expect(sft({ ...common(), ...given, cacheDir: false })).rejects.toThrow(message)
    const other = message.startsWith('evalRows') ? { ...given, rows: preferences } : given
    if (!message.includes('known shapes')) await expect(dpo({ ...common(), ...other })).rejects.toThrow(message)
  })
})
