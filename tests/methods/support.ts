// A tokenizer and a model, both made on the spot, for the tests of the methods and of the command line.
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll } from 'vitest'
import { AutoModelForCausalLM } from '../../src/models/index.ts'
import type { TrainerEvent } from '../../src/train/events.ts'
import { chatMLTemplate, chatMLTokens, trainTokenizer, type Tokenizer } from '../../src/tokenizers/index.ts'
import { weightsHash } from '../train/support.ts'

const subjects = ['the cat', 'a dog', 'my friend', 'the old king', 'one bird']
const verbs = ['sees', 'likes', 'finds', 'hears', 'follows']
const objects = ['the moon', 'a river', 'the red house', 'some bread', 'a small star']

/** 125 sentences in a fixed order. */
export const sentences: string[] = subjects.flatMap((subject) => verbs.flatMap((verb) => objects.map((object) => `${subject} ${verb} ${object}.`)))

export const conversations = subjects.flatMap((subject) => verbs.map((verb, i) => ({
  messages: [{ role: 'user', content: `What does ${subject} do?` }, { role: 'assistant', content: `${subject} ${verb} ${objects[i]!}.` }],
})))

export const pairs = subjects.flatMap((subject) => verbs.map((verb, i) => ({ prompt: `${subject} ${verb}`, completion: ` ${objects[i]!}.` })))

/** A file of JSON lines. */
export function writeRows(path: string, rows: readonly unknown[]): string {
  writeFileSync(path, `${rows.map((row) => JSON.stringify(row)).join('\n')}\n`)
  return path
}

/** Trains a byte-level tokenizer with a chat template into `folder`. */
export async function makeTokenizer(folder: string): Promise<Tokenizer> {
  mkdirSync(folder, { recursive: true })
  const corpus = join(folder, 'corpus.txt')
  writeFileSync(corpus, [...sentences, 'user', 'assistant', 'What does do?'].join('\n'))
  return trainTokenizer({
    type: 'bpe', files: [corpus], vocabSize: 320, specialTokens: [...chatMLTokens], chatTemplate: chatMLTemplate,
    roles: { eosToken: '<|im_end|>', padToken: '<|endoftext|>' }, outputDir: folder,
  })
}

export const modelConfig = { modelType: 'llama', hiddenSize: 64, intermediateSize: 128, numHiddenLayers: 2, numAttentionHeads: 4, numKeyValueHeads: 2, tieWordEmbeddings: true }

/** A folder with an untrained model and its tokenizer. */
export async function makeModel(folder: string, maxPositionEmbeddings = 96): Promise<void> {
  const tokenizer = await makeTokenizer(folder)
  const { eosTokenId, padTokenId } = tokenizer
  const model = AutoModelForCausalLM.fromConfig({ ...modelConfig, vocabSize: tokenizer.embeddingRows, maxPositionEmbeddings, eosTokenId, padTokenId, bosTokenId: null }, { seed: 3 })
  await model.savePretrained(folder)
  model.dispose()
}

/** The folder of an untrained model and its tokenizer, made before a file's tests and removed after them. */
export function sharedModel(): string {
  const folder = mkdtempSync(join(tmpdir(), 'anneal-'))
  const model = join(folder, 'model')
  beforeAll(() => makeModel(model))
  afterAll(() => { rmSync(folder, { recursive: true, force: true }) })
  return model
}

interface Followed {
  model: Parameters<typeof weightsHash>[0]
  trainer: { on(listener: (event: TrainerEvent) => void): unknown }
  train(options: { signal: AbortSignal }): Promise<unknown>
}

/** Trains a run, to step `stopAt` where one is given: the hash of its weights then, its events, and of them the metrics logged and the warnings. */
export async function followed(run: Followed, stopAt?: number): Promise<{ hash: string, events: TrainerEvent[], logs: Record<string, number>[], warnings: string[] }> {
  const events: TrainerEvent[] = []
  const controller = new AbortController()
  run.trainer.on((event) => {
    events.push(event)
    if (event.type === 'step' && event.step === stopAt) controller.abort()
  })
  await run.train({ signal: controller.signal })
  return {
    hash: await weightsHash(run.model), events,
    logs: events.flatMap((event) => event.type === 'log' ? [event.metrics] : []), warnings: events.flatMap((event) => event.type === 'warning' ? [event.message] : []),
  }
}
