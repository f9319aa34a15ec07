// Proves that TPO's loss, gradients and metrics are TRL's, that it learns, that accumulation and resume change nothing, and that bad rows are named.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, expect, test } from 'vitest'
import type { CompletionExample } from '../../../src/data/index.ts'
import { ConfigError, DataError } from '../../../src/errors.ts'
import { tpoSchema, type TpoOptions } from '../../../src/methods/preference/options.ts'
import { collateTriples, tpo, tpoStep } from '../../../src/methods/preference/tpo.ts'
import { AutoModelForCausalLM } from '../../../src/models/index.ts'
import { mul } from '../../../src/ops/index.ts'
import { backward, scope } from '../../../src/tensor/index.ts'
import { temporaryFolder } from '../../files/helpers.ts'
import { folderOf } from '../../models/recorded.ts'
import { relative } from '../../train/support.ts'
import { base, logOf, preferences, setting } from './support.ts'

const live: { dispose(): void }[] = []
afterEach(() => { for (const one of live.splice(0)) one.dispose() })
const keep = <T extends { dispose(): void, model: { dispose(): void } }>(run: T): T => { live.push(run, run.model); return run }

interface Recorded {
  rows: Record<'prompt' | 'chosen' | 'rejected' | 'reference', number[]>[]
  cases: { options: Required<Pick<TpoOptions, 'lossType' | 'beta' | 'labelSmoothing' | 'tpoAlpha' | 'tpoLGamma'>>, loss: number, metrics: Record<string, number>, gradientNorms: Record<string, number> }[]
}
const recorded = JSON.parse(readFileSync(new URL('../../recorded/preference/tpo.json', import.meta.url), 'utf8')) as Recorded
const triples = preferences.map((row) => ({ ...row, reference: row.chosen }))

test.each(recorded.cases.map((one): [string, typeof one] => [JSON.stringify(one.options), one]))("TRL's loss, gradients and metrics with %s", async (_, { options, loss, metrics, gradientNorms }) => {
  const model = await AutoModelForCausalLM.fromPretrained(folderOf('llama2'), { dtype: 'float64' })
  live.push(model)
  const example = (prompt: number[], completion: number[]): CompletionExample => ({ inputIds: Int32Array.from([...prompt, ...completion]), promptLength: prompt.length })
  const batch = collateTriples(recorded.rows.map(({ prompt, chosen, rejected, reference }) =>
    ({ chosen: example(prompt, chosen), rejected: example(prompt, rejected), reference: example(prompt, reference), margin: undefined })), options.tpoAlpha !== 0)
  const args = tpoSchema.parse({ model: 'm', outputDir: 'o', ...options })
  const [own, sums] = scope(() => {
    const result = tpoStep(model, args)(batch, batch)
    const mean = mul(result.loss, 1 / batch.items)
    backward(mean)
    return [mean, Object.fromEntries(Object.entries(result.sums).map(([name, { sum, count }]) => [name, mul(sum, 1 / count)]))] as const
  })
  // The tables of rotary positions are float32 on both sides.
  expect(Math.abs(await own.item() / loss - 1)).toBeLessThan(1e-6)
  for (const [name, value] of Object.entries(metrics)) expect(await sums[name]!.item(), name).toBeCloseTo(value, 5)
  for (const [name, norm] of Object.entries(gradientNorms)) {
    const gradient = await model.getParameter(name).grad!.toArray()
    expect(Math.abs(Math.sqrt(gradient.reduce((total, g) => total + g * g, 0)) / norm - 1), name).toBeLessThan(1e-5)
  }
})

test('it learns to prefer, and to write the gold completion', async () => {
  const run = keep(await tpo({ ...base, ...await setting(triples), beta: 0.5, numTrainEpochs: 6 }))
  const log = await logOf(run)
  expect(log.at(-1)!['rewards/accuracies']).toBeGreaterThan(0.9)
  expect(log.at(-1)!['nll_loss']).toBeLessThan(0.6 * log[0]!['nll_loss']!)
})

test('4 micro-batches of 2 make the step of 1 of 8', async () => {
  const where = await setting(triples)
  const losses: number[][] = []
  for (const [perDeviceTrainBatchSize, gradientAccumulationSteps] of [[8, 1], [2, 4]] as const) {
    losses.push((await logOf(keep(await tpo({ ...base, ...where, outputDir: temporaryFolder(), maxSteps: 2, perDeviceTrainBatchSize, gradientAccumulationSteps })))).map(({ loss }) => loss!))
  }
  expect(relative(losses[1]!, losses[0]!)).toBeLessThan(1e-5)
})

test('stopped and resumed, it ends with the same bytes, and does not go on with other options', async () => {
  const where = await setting(triples)
  const options = { ...base, ...where, maxSteps: 4, perDeviceTrainBatchSize: 4 } as const
  await keep(await tpo({ ...options, outputDir: join(where.outputDir, '..', 'whole') })).train()
  const first = keep(await tpo(options))
  const controller = new AbortController()
  first.trainer.on((event) => { if (event.type === 'step' && event.step === 2) controller.abort() })
  expect(await first.train({ signal: controller.signal })).toMatchObject({ reason: 'aborted' })
  expect(await keep(await tpo({ ...options, resumeFromCheckpoint: true })).train()).toMatchObject({ reason: 'finished', step: 4 })
  expect(readFileSync(join(where.outputDir, 'model.safetensors')).equals(readFileSync(join(where.outputDir, '..', 'whole', 'model.safetensors')))).toBe(true)
  await expect(keep(await tpo({ ...options, tpoAlpha: 2, resumeFromCheckpoint: true })).train()).rejects.toThrow('tpoAlpha: the checkpoint')
})

test('a prompt that is not given is what all three begin with', async () => {
  const { prompt, chosen, rejected } = preferences[0]!
  const whole = { chosen: prompt + chosen, rejected: prompt + rejected, reference: prompt + chosen }
  const [given, found] = [keep(await tpo({ ...base, ...await setting([{ prompt, chosen, rejected, reference: chosen }]) })), keep(await tpo({ ...base, ...await setting([whole]) }))]
  expect(found.data.train).toEqual(given.data.train)
})

test.each<[string, object, Partial<TpoOptions>, new (...args: never[]) => Error]>([
  ['train.jsonl:1: expected the columns "chosen", "rejected" and "reference"', { ...triples[0], reference: null }, {}, DataError],
  ['train.jsonl:1: reference: expected a completion, got an empty one', { ...triples[0], reference: '' }, {}, DataError],
  ['train.jsonl:1: reference: expected the form of the prompt, a string', { ...triples[0], reference: [{ role: 'assistant', content: 'x' }] }, {}, DataError],
  ['train.jsonl:1: reference: expected the beginning that chosen and rejected have in common', { chosen: 'the cat sees', rejected: 'the cat likes', reference: 'a dog sees' }, {}, DataError],
  ['labelSmoothing: has no meaning for hinge', triples[0]!, { lossType: 'hinge', labelSmoothing: 0.1 }, ConfigError],
])('says "%s"', async (message, row, options, type) => {
  const failure = tpo({ ...base, ...await setting([row]), ...options })
  await expect(failure).rejects.toThrow(message)
  await expect(failure).rejects.toThrow(type)
})
