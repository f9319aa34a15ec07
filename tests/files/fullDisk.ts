// Run by fullDisk.test.ts under a limit of the size of files: saves what anneal saves, each in a folder of its own, and prints what came of it.
import { join } from 'node:path'
import { loadDataset } from '../../src/data/index.ts'
import { saveCheckpoint } from '../../src/files/index.ts'
import { AutoModelForCausalLM } from '../../src/models/index.ts'
import { recordedTokenizer } from '../export/fixtures.ts'
import { exportGguf } from '../../src/export/index.ts'

const [, , folder] = process.argv as [string, string, string]
const model = AutoModelForCausalLM.fromConfig({ modelType: 'llama', vocabSize: 800, hiddenSize: 64, intermediateSize: 128, numHiddenLayers: 2, numAttentionHeads: 4, maxPositionEmbeddings: 64 })
const tokenizer = recordedTokenizer('llama2')
model.resizeTokenEmbeddings(tokenizer.embeddingRows)
const saves: Record<string, (folder: string) => Promise<unknown>> = {
  model: (folder) => model.savePretrained(folder),
  checkpoint: (folder) => saveCheckpoint(folder, 2, (inside) => model.savePretrained(inside)),
  gguf: (folder) => exportGguf(model, tokenizer, join(folder, 'model.gguf'), { type: 'f32' }),
  tokenizer: (folder) => tokenizer.savePretrained(folder),
  cache: (folder) => loadDataset({ tokenizer, files: join(folder, 'rows.jsonl'), cacheDir: join(folder, 'cache') }),
}
const results: Record<string, string> = {}
for (const [what, save] of Object.entries(saves)) {
  results[what] = await save(join(folder, what)).then(() => 'saved', (error: unknown) => error instanceof Error ? `${error.name}: ${error.message}` : 'no error')
}
process.stdout.write(JSON.stringify(results))
