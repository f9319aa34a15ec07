// Writes models for tests/recorded/models/check_saved.py: npx tsx tests/models/write-saved.mts FOLDER
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import {
  AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoModelForTokenClassification, type CausalLanguageModel, type Classifier, type MaskedLanguageModel, type SaveOptions,
} from '../../src/models/index.ts'
import type { Tensor } from '../../src/tensor/index.ts'
import { families, folderOf, recordedOf } from './recorded.ts'

const target = process.argv[2]
if (!target) throw new Error('give the folder to write to')

interface Disposable { dispose(): void }

/** Writes a model, and the logits of what was written, not of what was rounded on the way. */
async function writeAny<M extends Disposable>(name: string, model: M, save: (folder: string) => Promise<void>, load: (folder: string) => Promise<M>, logitsOf: (model: M, ids: number[]) => Tensor): Promise<void> {
  const folder = join(target!, name)
  await save(folder)
  const again = await load(folder)
  const inputIds = [[5, 9, 30, 40, 50, 60, 11, 12, 13, 14, 15, 16], [7], [33, 22, 44]]
  const logits = await Promise.all(inputIds.map(async (ids) => Array.from(await logitsOf(again, ids).data(), Number)))
  await writeFile(join(folder, 'logits.json'), JSON.stringify({ inputIds, logits }))
  model.dispose()
  again.dispose()
}

const write = (name: string, model: CausalLanguageModel, options: SaveOptions): Promise<void> =>
  writeAny(name, model, (folder) => model.savePretrained(folder, options), (folder) => AutoModelForCausalLM.fromPretrained(folder), (again, ids) => again.forward({ inputIds: [ids], logitsToKeep: 1 }).logits!)

const writeMasked = (name: string, model: MaskedLanguageModel): Promise<void> =>
  writeAny(name, model, (folder) => model.savePretrained(folder), (folder) => AutoModelForMaskedLM.fromPretrained(folder), (again, ids) => again.forward({ inputIds: [ids] }).logits!)

const writeClassifier = (name: string, model: Classifier): Promise<void> => {
  const auto = model.kind === 'sequence' ? AutoModelForSequenceClassification : AutoModelForTokenClassification
  return writeAny(name, model, (folder) => model.savePretrained(folder), (folder) => auto.fromPretrained(folder), (again, ids) => (again.kind === 'sequence' ? again.forward({ inputIds: [ids] }) : again.tokenLogits({ inputIds: [ids] })))
}

for (const family of families) await write(family, await AutoModelForCausalLM.fromPretrained(folderOf(family)), {})
await write('sharded', await AutoModelForCausalLM.fromPretrained(folderOf('llama3')), { maxShardSize: '30KB' })
await write('bfloat16', await AutoModelForCausalLM.fromPretrained(folderOf('llama2')), { dtype: 'bfloat16' })
for (const [variant, { config }] of Object.entries(recordedOf('llama-rope'))) {
  await write(`rope-${variant}`, await AutoModelForCausalLM.fromPretrained(folderOf('llama-rope'), { config }), {})
}
const sizes = { vocabSize: 96, hiddenSize: 32, intermediateSize: 72, numHiddenLayers: 2, numAttentionHeads: 4, maxPositionEmbeddings: 64 }
const fresh: [string, Record<string, unknown>][] = [
  ['new-gpt2', { modelType: 'gpt2', ...sizes }],
  ['new-llama', { modelType: 'llama', ...sizes, numKeyValueHeads: 2, ropeTheta: 5000, ropeScaling: { ropeType: 'linear', factor: 2 } }],
  ['new-qwen2', { modelType: 'qwen2', ...sizes, numKeyValueHeads: 2, tieWordEmbeddings: true, useSlidingWindow: true, slidingWindow: 4, maxWindowLayers: 1 }],
  ['new-qwen3', { modelType: 'qwen3', ...sizes, numKeyValueHeads: 2, headDim: 16, ropeParameters: { ropeType: 'default', ropeTheta: 20000 } }],
  ['new-gemma3', { modelType: 'gemma3_text', ...sizes, numKeyValueHeads: 2, headDim: 16, slidingWindow: 5, slidingWindowPattern: 2 }],
  ['new-mistral', { modelType: 'mistral', ...sizes, numKeyValueHeads: 1, slidingWindow: 5 }],
]
for (const [name, options] of fresh) await write(name, AutoModelForCausalLM.fromConfig(options, { seed: 3 }), {})

for (const family of ['bert', 'roberta']) {
  await writeMasked(family, await AutoModelForMaskedLM.fromPretrained(folderOf(family)))
  await writeClassifier(`${family}-classifier`, await AutoModelForSequenceClassification.fromPretrained(folderOf(`${family}-classifier`)))
  await writeClassifier(`new-${family}-classifier`, await AutoModelForSequenceClassification.fromPretrained(folderOf(family), { id2label: ['no', 'yes'] }))
  await writeClassifier(`new-${family}-tokens`, await AutoModelForTokenClassification.fromPretrained(folderOf(family), { numLabels: 4 }))
  await writeMasked(`new-${family}`, AutoModelForMaskedLM.fromConfig({ modelType: family, ...sizes }, { seed: 3 }))
}
