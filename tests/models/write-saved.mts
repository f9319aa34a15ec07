// Writes models for tests/recorded/models/check_saved.py: npx tsx tests/models/write-saved.mts FOLDER
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { AutoModelForCausalLM, type CausalLanguageModel, type SaveOptions } from '../../src/models/index.ts'
import { families, folderOf, recordedOf } from './recorded.ts'

const target = process.argv[2]
if (!target) throw new Error('give the folder to write to')

async function write(name: string, model: CausalLanguageModel, options: SaveOptions): Promise<void> {
  const folder = join(target!, name)
  await model.savePretrained(folder, options)
  // The logits of what was written, not of what was rounded on the way.
  const again = await AutoModelForCausalLM.fromPretrained(folder)
  const inputIds = [[5, 9, 30, 40, 50, 60, 11, 12, 13, 14, 15, 16], [7], [33, 22, 44]]
  const logits = await Promise.all(inputIds.map(async (ids) => Array.from(await again.forward({ inputIds: [ids], logitsToKeep: 1 }).logits!.data(), Number)))
  await writeFile(join(folder, 'logits.json'), JSON.stringify({ inputIds, logits }))
  model.dispose()
  again.dispose()
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
  ['new-mistral', { modelType: 'mistral', ...sizes, numKeyValueHeads: 1, slidingWindow: 5 }],
]
for (const [name, options] of fresh) await write(name, AutoModelForCausalLM.fromConfig(options, { seed: 3 }), {})
