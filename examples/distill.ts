// A model of four layers teaches one of two what the Markdown of installed packages says: npx tsx examples/distill.ts [FOLDER]
// Prints the cross-entropy of held-out text: of the teacher, of a student with hard labels alone, of the same student with the teacher's words.
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { AutoModelForCausalLM, distill, sft, teach, trainTokenizer, type PreparedRun } from 'anneal'
import glob from 'fast-glob'
import { jsonl, size } from './shared.ts'

const folder = process.argv[2] ?? 'distilled'
const path = (name: string): string => join(folder, name)
mkdirSync(folder, { recursive: true })
const texts = glob.sync('node_modules/*/*.md').sort().map((file) => readFileSync(file, 'utf8').slice(0, 4000)).slice(0, size(150, 20))
writeFileSync(path('text.txt'), texts.join('\n'))

const special = '<|endoftext|>'
const tokenizer = await trainTokenizer({ type: 'bpe', files: [path('text.txt')], vocabSize: 512, specialTokens: [special], roles: { eosToken: special, padToken: special }, outputDir: path('tokenizer') })

async function newModel(name: string, numHiddenLayers: number): Promise<string> {
  const model = AutoModelForCausalLM.fromConfig({
    modelType: 'llama', hiddenSize: 96, intermediateSize: 256, numHiddenLayers, numAttentionHeads: 4, numKeyValueHeads: 4, tieWordEmbeddings: true,
    vocabSize: tokenizer.embeddingRows, maxPositionEmbeddings: 128, eosTokenId: tokenizer.eosTokenId, bosTokenId: null,
  }, { seed: 1 })
  await model.savePretrained(path(name))
  await tokenizer.savePretrained(path(name))
  model.dispose()
  return path(name)
}

/** Trains, and tells what the run's model says of the held-out text. */
async function heldOut(run: PreparedRun): Promise<number> {
  await run.train()
  const { nll, loss } = await run.trainer.evaluate()
  run.dispose()
  run.model.dispose()
  return nll ?? loss!
}

// Teacher and students see the same data, split alike.
const data = { files: jsonl(path('text.jsonl'), texts.map((text) => ({ text }))), cacheDir: path('cache'), evalSplit: 0.1, maxLength: 128, packing: 'wrapped', seed: 42 } as const
const training = { ...data, perDeviceTrainBatchSize: 8, learningRate: 3e-3, warmupRatio: 0.1, saveStrategy: 'no', maxSteps: size(100, 3) } as const
const [teacher, student] = [path('teacher'), await newModel('student', 2)]
console.log('teacher of 4 layers:', (await heldOut(await sft({ ...training, model: await newModel('start', 4), outputDir: teacher, maxSteps: size(250, 3) }))).toFixed(3))

// The teacher runs once; any number of students can learn from what it said.
const { rows, meanTail } = await teach({ ...data, teacher, output: path('recording'), topK: 64 })
console.log(`${rows} rows recorded; ${(100 * meanTail!).toFixed(1)} % of the teacher's probability is in the tail`)

const hard = await heldOut(await sft({ ...training, model: student, outputDir: path('hard') }))
const soft = await heldOut(await distill({ ...training, model: student, recorded: path('recording'), alpha: 0.2, outputDir: path('soft') }))
console.log(`student of 2 layers: ${hard.toFixed(3)} from hard labels, ${soft.toFixed(3)} from the teacher: ${(hard - soft).toFixed(3)} better`)
