// Proves that reward models separate what they are shown, are saved as transformers' classifiers, and score texts as in training.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, expect, test } from 'vitest'
import { ConfigError, DataError } from '../../../src/errors.ts'
import { Classifier } from '../../../src/models/index.ts'
import { reward, score, scoreSequences, stepwiseReward, type RewardOptions, type ScoredRow } from '../../../src/methods/preference/index.ts'
import { writeRows } from '../support.ts'
import { base, logOf, preferences, setting, steps } from './support.ts'

const live: { dispose(): void }[] = []
afterEach(() => { for (const one of live.splice(0)) one.dispose() })
const keep = <T extends { dispose(): void, model: { dispose(): void } }>(run: T): T => { live.push(run, run.model); return run }

async function allOf<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = []
  for await (const item of items) all.push(item)
  return all
}

test('a reward model separates, is saved as a classifier, and scores files as it was trained', async () => {
  const where = await setting(preferences)
  const log = await logOf(keep(await reward({ ...base, ...where, numTrainEpochs: 12, centerRewardsCoefficient: 0.01 })))
  expect(log[0]!['loss']).toBeCloseTo(Math.LN2, 1)
  expect(log.at(-1)).toMatchObject({ accuracy: 1 })
  expect(log.at(-1)!['margin']).toBeGreaterThan(0.5)
  expect(log.at(-1)!['max_reward']).toBeGreaterThan(log.at(-1)!['min_reward']!)
  expect(JSON.parse(readFileSync(join(where.outputDir, 'config.json'), 'utf8'))).toMatchObject({ architectures: ['LlamaForSequenceClassification'], id2label: { 0: 'LABEL_0' }, pad_token_id: expect.any(Number) as number })

  const scored = await allOf(score({ model: where.outputDir, files: where.files, device: 'cpu' })) as (ScoredRow & { chosen: number, rejected: number })[]
  expect(scored).toHaveLength(preferences.length)
  expect(scored.filter(({ chosen, rejected }) => chosen > rejected).length).toBeGreaterThanOrEqual(preferences.length - 1)
  const texts = writeRows(join(where.outputDir, 'texts.jsonl'), [
    { prompt: preferences[0]!.prompt, completion: preferences[0]!.chosen }, { text: preferences[0]!.prompt + preferences[0]!.chosen },
    { messages: [{ role: 'user', content: 'What?' }, { role: 'assistant', content: 'a dog' }] }, { text: 'the cat '.repeat(300) },
  ])
  const [pair, text, chat, long] = await allOf(score({ model: where.outputDir, files: texts, device: 'cpu', maxTokensPerBatch: 7 })) as { score: number | null }[]
  expect(pair!.score).toBe(scored[0]!.chosen)
  expect(text).toEqual(pair)
  expect(Number.isFinite(chat!.score)).toBe(true)
  expect(long).toEqual({ score: null })
})

test("where nothing is said the learning rate is TRL's, of pairs another than of steps", async () => {
  const { learningRate: _, ...rest } = base
  expect(keep(await reward({ ...rest, ...await setting(preferences) })).trainer.args.learningRate).toBe(1e-4)
  expect(keep(await stepwiseReward({ ...rest, ...await setting(steps) })).trainer.args.learningRate).toBe(1e-5)
})

test('a margin moves the loss, and stopped and resumed it ends with the same bytes', async () => {
  const where = await setting(preferences.map((row, i) => ({ ...row, margin: i % 3 })))
  const [without, withMargin] = [await logOf(keep(await reward({ ...base, ...await setting(preferences), maxSteps: 1 }))), await logOf(keep(await reward({ ...base, ...where, outputDir: `${where.outputDir}0`, maxSteps: 1 })))]
  expect(withMargin[0]!['loss']).toBeGreaterThan(without[0]!['loss']! + 0.2)
  await keep(await reward({ ...base, ...where, outputDir: `${where.outputDir}1`, maxSteps: 4 })).train()
  const first = keep(await reward({ ...base, ...where, maxSteps: 4 }))
  const controller = new AbortController()
  first.trainer.on((event) => { if (event.type === 'step' && event.step === 2) controller.abort() })
  await first.train({ signal: controller.signal })
  await keep(await reward({ ...base, ...where, maxSteps: 4, resumeFromCheckpoint: true })).train()
  expect(readFileSync(join(where.outputDir, 'model.safetensors')).equals(readFileSync(join(`${where.outputDir}1`, 'model.safetensors')))).toBe(true)
})

test('with an adapter the head is trained too, and base and adapter together score', async () => {
  const where = await setting(preferences)
  const log = await logOf(keep(await reward({ ...base, ...where, adapter: { type: 'lora', r: 4, targetModules: 'all-linear' }, learningRate: 1e-2, numTrainEpochs: 10 })))
  expect(log.at(-1)!['accuracy']).toBeGreaterThan(0.9)
  expect(JSON.parse(readFileSync(join(where.outputDir, 'adapter_config.json'), 'utf8'))).toMatchObject({ task_type: 'SEQ_CLS', modules_to_save: ['score'] })
  const scored = await allOf(score({ model: where.model, adapterPath: where.outputDir, files: where.files, device: 'cpu' })) as { chosen: number, rejected: number }[]
  expect(scored.filter(({ chosen, rejected }) => chosen > rejected).length).toBeGreaterThanOrEqual(preferences.length - 2)
})

test('a process reward model judges steps', async () => {
  const where = await setting(steps)
  const log = await logOf(keep(await stepwiseReward({ ...base, ...where, numTrainEpochs: 8 })))
  expect(log.at(-1)!['accuracy']).toBe(1)
  expect(log.at(-1)!['loss']).toBeLessThan(0.1)
  expect(readFileSync(join(where.outputDir, 'config.json'), 'utf8')).toContain('LlamaForTokenClassification')
  const last = keep(await stepwiseReward({ ...base, ...where, outputDir: `${where.outputDir}1`, trainOnLastStepOnly: true, maxSteps: 1 }))
  expect(last.data.train.map(({ labels }) => labels.filter((label) => label !== -100).length)).toEqual(steps.map(() => 1))
})

test('scores do not depend on the batch', async () => {
  const where = await setting(preferences)
  const classifier = await Classifier.fromPretrained(where.model, { numLabels: 3, device: 'cpu' })
  live.push(classifier)
  const sequences = [[5, 6, 7], [8], [9, 10, 11, 12, 13], [14, 15]]
  expect(await scoreSequences(classifier, sequences, { maxTokensPerBatch: 1 })).toEqual(await scoreSequences(classifier, sequences))
})

test.each<[string, unknown[], Partial<RewardOptions>, new (...args: never[]) => Error]>([
  ['no example is left to train on: 1 of 1 rows were left out: they are longer than maxLength', [preferences[0]], { maxLength: 2 }, DataError],
  ['stepwise: a process reward model is trained by stepwiseReward()', [preferences[0]], { stepwise: true }, ConfigError],
  ['adapter: prefix cannot train the new head score; use lora or ia3', [preferences[0]], { adapter: { type: 'prefix', numVirtualTokens: 4 } }, ConfigError],
])('says "%s"', async (message, rows, options, type) => {
  const failure = reward({ ...base, ...await setting(rows), ...options as object })
  await expect(failure).rejects.toThrow(message)
  await expect(failure).rejects.toThrow(type)
})

test('a reward model with several labels, and steps that do not fit their labels, are refused', async () => {
  const where = await setting(preferences)
  const classifier = await Classifier.fromPretrained(where.model, { id2label: ['bad', 'good'], device: 'cpu' })
  live.push(classifier)
  await classifier.savePretrained(where.model)
  await expect(reward({ ...base, ...where })).rejects.toThrow('expected 1 label, got 2: bad, good')
  const short = await setting([{ ...steps[0]!, labels: [true] }])
  await expect(stepwiseReward({ ...base, ...short })).rejects.toThrow('train.jsonl:1: labels: expected 2, one a step, got 1')
})
