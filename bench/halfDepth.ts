// What distillation buys: a teacher, then students of half its layers from three seeds, on hard labels alone and distilled, on Markdown of this machine.
// npx tsx bench/halfDepth.ts [--teacher-steps 250] [--steps 60] [--seeds 3] [--folder FOLDER]. Prints the held-out cross-entropy of each; ends with 1
// unless the distilled student is better for every seed.
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import glob from 'fast-glob'
import { distill, sft, type PreparedRun } from '../src/methods/index.ts'
import { AutoModelForCausalLM } from '../src/models/index.ts'
import { trainTokenizer } from '../src/tokenizers/index.ts'

const { values } = parseArgs({ options: { 'teacher-steps': { type: 'string', default: '250' }, steps: { type: 'string', default: '60' }, seeds: { type: 'string', default: '3' }, folder: { type: 'string' } } })
const folder = values.folder ?? mkdtempSync(join(tmpdir(), 'anneal-half-depth-'))
mkdirSync(folder, { recursive: true })
const path = (name: string): string => join(folder, name)

/** Distinct Markdown files of installed packages. */
function documents(bytes: number): string[] {
  const found = new Set<string>()
  let size = 0
  for (const file of glob.sync('node_modules/**/*.md', { followSymbolicLinks: false }).sort()) {
    const text = readFileSync(file, 'utf8')
    if (size >= bytes) break
    if (text.length < 500 || text.length > 100_000 || found.has(text)) continue
    found.add(text)
    size += text.length
  }
  return [...found]
}

const texts = documents(1e6)
writeFileSync(path('text.jsonl'), texts.map((text) => `${JSON.stringify({ text })}\n`).join(''))
writeFileSync(path('text.txt'), texts.join('\n\n'))
const tokenizer = await trainTokenizer({ type: 'bpe', files: [path('text.txt')], vocabSize: 1024, specialTokens: ['<|endoftext|>'], roles: { eosToken: '<|endoftext|>', padToken: '<|endoftext|>' }, outputDir: path('tokenizer') })

/** A folder with a new model. */
async function create(name: string, layers: number, seed: number): Promise<string> {
  const model = AutoModelForCausalLM.fromConfig({
    modelType: 'llama', hiddenSize: 96, intermediateSize: 256, numHiddenLayers: layers, numAttentionHeads: 4, numKeyValueHeads: 4, tieWordEmbeddings: true,
    vocabSize: tokenizer.embeddingRows, maxPositionEmbeddings: 128, eosTokenId: tokenizer.eosTokenId, bosTokenId: null,
  }, { seed })
  await model.savePretrained(path(name))
  await tokenizer.savePretrained(path(name))
  model.dispose()
  return path(name)
}

/** Trains and returns the held-out cross-entropy of the labels. */
async function train(run: PreparedRun): Promise<number> {
  await run.train()
  const metrics = await run.trainer.evaluate()
  run.dispose()
  run.model.dispose()
  return metrics['nll'] ?? metrics['loss']!
}

const shared = (seed: number, maxSteps: number) => ({
  files: path('text.jsonl'), cacheDir: path('cache'), evalSplit: 0.05, maxLength: 128, packing: 'wrapped', perDeviceTrainBatchSize: 8, maxSteps, seed,
  learningRate: 2e-3, lrSchedulerType: 'cosine', warmupRatio: 0.1, saveStrategy: 'no', reportTo: [], device: 'cpu',
} as const)

const teacher = path('teacher')
const start = performance.now()
const taught = await train(await sft({ ...shared(42, Number(values['teacher-steps'])), reportTo: [], model: await create('start', 4, 42), outputDir: teacher }))
console.log(`${texts.length} documents; teacher of 4 layers: ${taught.toFixed(4)} (${((performance.now() - start) / 1000).toFixed(0)} s)`)
let wins = 0
const seeds = Array.from({ length: Number(values.seeds) }, (_, i) => i + 1)
for (const seed of seeds) {
  const model = await create(`student-${seed}`, 2, seed)
  // The data is split by the seed, and what is held out must be what the teacher has not seen.
  const options = { ...shared(42, Number(values.steps)), reportTo: [], model }
  const hard = await train(await sft({ ...options, outputDir: path(`hard-${seed}`) }))
  const soft = await train(await distill({ ...options, teacher, alpha: 0.2, outputDir: path(`soft-${seed}`) }))
  if (soft < hard) wins++
  console.log(`seed ${seed}: hard labels ${hard.toFixed(4)}, distilled ${soft.toFixed(4)}, better by ${(hard - soft).toFixed(4)}`)
}
console.log(`the distilled student is better for ${wins} of ${seeds.length} seeds (${((performance.now() - start) / 1000).toFixed(0)} s)`)
if (values.folder === undefined) rmSync(folder, { recursive: true })
process.exitCode = wins === seeds.length ? 0 : 1
