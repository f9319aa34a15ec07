// Writes adapters with virtual tokens for tests/recorded/adapters-virtual/check_saved.py: npx tsx tests/adapters/write-virtual.mts FOLDER
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { addAdapter, saveAdapter, type AdapterInput } from '../../src/adapters/index.ts'
import { AutoModelForCausalLM } from '../../src/models/index.ts'
import { folderOf } from '../models/recorded.ts'

const target = process.argv[2]
if (!target) throw new Error('give the folder to write to')

const adapters: Record<string, AdapterInput> = {
  prefix: { type: 'prefix', numVirtualTokens: 4 },
  projection: { type: 'prefix', numVirtualTokens: 4, prefixProjection: true, encoderHiddenSize: 6 },
  prompt: { type: 'prompt', numVirtualTokens: 4, promptTuningInit: 'SAMPLE_VOCAB' },
  text: { type: 'prompt', numVirtualTokens: 4, promptTuningInit: 'TEXT', promptTuningInitText: 'be kind' },
  ptuning: { type: 'ptuning', numVirtualTokens: 4 },
}
for (const family of ['llama3', 'gpt2', 'qwen3']) {
  for (const [name, options] of Object.entries(adapters)) {
    const model = await AutoModelForCausalLM.fromPretrained(folderOf(family))
    await addAdapter(model, options, { encode: () => [5, 6, 7], seed: 7 })
    const folder = join(target, `${name}-${family}`)
    await saveAdapter(model, folder, name === 'text' ? {} : { baseModel: family })
    const inputIds = [[5, 9, 30, 40, 50, 60, 11, 12, 13, 14, 15, 16], [7], [33, 22, 44]]
    const logits = await Promise.all(inputIds.map(async (ids) => Array.from(await model.forward({ inputIds: [ids], logitsToKeep: 1 }).logits!.data(), Number)))
    await writeFile(join(folder, 'logits.json'), JSON.stringify({ family, inputIds, logits }))
    model.dispose()
  }
}
