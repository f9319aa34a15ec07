// Writes the F32 files whose tokens llama.cpp recorded: npx tsx tests/export/write-files.mts FOLDER
import { join } from 'node:path'
import { exportGguf } from '../../src/export/index.ts'
import { pairs, recordedModel, recordedTokenizer } from './fixtures.ts'

const folder = process.argv[2]
if (folder === undefined) throw new Error('usage: npx tsx tests/export/write-files.mts FOLDER')
for (const [family, name] of pairs) {
  const tokenizer = recordedTokenizer(name)
  const model = await recordedModel(family, tokenizer)
  await exportGguf(model, tokenizer, join(folder, `${family}-${name}.gguf`), { type: 'f32' })
  model.dispose()
}
