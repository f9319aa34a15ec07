// Proves that an encoder becomes a reward model as a decoder does: whole, or as an adapter with its head.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, expect, test } from 'vitest'
import { reward, score } from '../../../src/methods/preference/index.ts'
import { AutoModelForMaskedLM } from '../../../src/models/index.ts'
import { trainTokenizer } from '../../../src/tokenizers/index.ts'
import { temporaryFolder } from '../../files/helpers.ts'
import { pairs, sentences, writeRows } from '../support.ts'
import { base, logOf } from './support.ts'

const live: { dispose(): void }[] = []
afterEach(() => { for (const one of live.splice(0)) one.dispose() })
const keep = <T extends { dispose(): void, model: { dispose(): void } }>(run: T): T => { live.push(run, run.model); return run }

/** The moon is preferred to bread. */
const preferences = pairs.slice(0, 24).map(({ prompt }) => ({ prompt, chosen: ' the moon.', rejected: ' some bread.' }))

/** A folder with an untrained BERT and its tokenizer, and preference pairs beside it. */
async function setting(): Promise<{ model: string, files: string, outputDir: string }> {
  const folder = temporaryFolder()
  const model = join(folder, 'model')
  const corpus = writeRows(join(folder, 'corpus.txt'), sentences)
  const tokenizer = await trainTokenizer({ type: 'wordpiece', files: [corpus], vocabSize: 150, outputDir: model })
  const bert = AutoModelForMaskedLM.fromConfig({ modelType: 'bert', vocabSize: tokenizer.embeddingRows, hiddenSize: 48, intermediateSize: 96, numHiddenLayers: 2, numAttentionHeads: 3, maxPositionEmbeddings: 64 }, { seed: 3 })
  await bert.savePretrained(model)
  bert.dispose()
  return { model, files: writeRows(join(folder, 'train.jsonl'), preferences), outputDir: join(folder, 'out') }
}

type Scores = { chosen: number, rejected: number }[]
async function scoresOf(options: Parameters<typeof score>[0]): Promise<Scores> {
  const all: Scores = []
  for await (const row of score(options)) all.push(row as Scores[number])
  return all
}

test('a reward model on BERT separates, is saved as transformers\' classifier and scores as it was trained', async () => {
  const where = await setting()
  const run = keep(await reward({ ...base, ...where, learningRate: 1e-3, numTrainEpochs: 8 }))
  // [CLS] begins and [SEP] ends each text, the prompt and its answer between them.
  const { inputIds } = run.data.train[0]!.chosen
  expect([inputIds[0], inputIds.at(-1)]).toEqual([2, 3])
  expect(inputIds.filter((id) => id === 3)).toHaveLength(1)
  const log = await logOf(run)
  expect(log[0]!['loss']).toBeCloseTo(Math.LN2, 1)
  expect(log.at(-1)!['accuracy']).toBe(1)
  expect(JSON.parse(readFileSync(join(where.outputDir, 'config.json'), 'utf8'))).toMatchObject({ architectures: ['BertForSequenceClassification'], id2label: { 0: 'LABEL_0' }, model_type: 'bert' })
  const scored = await scoresOf({ model: where.outputDir, files: where.files, device: 'cpu' })
  expect(scored.filter(({ chosen, rejected }) => chosen > rejected)).toHaveLength(preferences.length)
})

test('as an adapter, which keeps the head', async () => {
  const where = await setting()
  const log = await logOf(keep(await reward({ ...base, ...where, adapter: { type: 'lora', r: 8, targetModules: 'all-linear' }, learningRate: 1e-2, numTrainEpochs: 8 })))
  expect(log.at(-1)!['accuracy']).toBe(1)
  expect(JSON.parse(readFileSync(join(where.outputDir, 'adapter_config.json'), 'utf8'))).toMatchObject({ task_type: 'SEQ_CLS', modules_to_save: ['classifier'] })
  const scored = await scoresOf({ model: where.model, adapterPath: where.outputDir, files: where.files, device: 'cpu' })
  expect(scored.filter(({ chosen, rejected }) => chosen > rejected)).toHaveLength(preferences.length)
})
