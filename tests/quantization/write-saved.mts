// Writes quantised folders, with the logits they should give, for tests/recorded/quantization-files/check_saved.py: npx tsx tests/quantization/write-saved.mts FOLDER
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { AutoModelForCausalLM, type QuantizeOption } from '../../src/models/index.ts'
import { folderOf } from '../models/recorded.ts'

const target = process.argv[2]
if (target === undefined) throw new Error('usage: npx tsx tests/quantization/write-saved.mts FOLDER')
const cases: [family: string, quantize: QuantizeOption][] = [
  ['llama2', { format: 'nf4', doubleQuant: true }], ['gpt2', 'nf4'], ['llama2', 'fp4'], ['qwen2', { format: 'nf4', skipModules: ['down_proj'] }],
  ['qwen2', 'int8'], ['llama3', { format: 'int4', block: 8, zeroPoints: true }], ['gpt2', { format: 'int4', block: 8 }],
]
for (const [i, [family, quantize]] of cases.entries()) {
  const folder = join(target, `${i}-${family}-${typeof quantize === 'string' ? quantize : quantize.format}`)
  const model = await AutoModelForCausalLM.fromPretrained(folderOf(family), { quantize })
  await model.savePretrained(folder)
  const inputIds = [5, 9, 30, 77, 100, 12, 14]
  const logits = await model.forward({ inputIds: [inputIds] }).logits!.toArray()
  await writeFile(join(folder, 'logits.json'), JSON.stringify({ input_ids: inputIds, logits }))
  model.dispose()
}
