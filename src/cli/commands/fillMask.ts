import { Command } from 'commander'
import { z } from 'zod'
import { fillMask } from '../../generate/index.ts'
import { AutoModelForMaskedLM } from '../../models/index.ts'
import { deviceOption } from '../../options.ts'
import { Tokenizer } from '../../tokenizers/index.ts'
import { addFlags, readOptions } from '../flags.ts'
import { bold, dim, print } from '../terminal.ts'

const schema = z.strictObject({
  model: z.string().min(1).describe('Folder of the masked language model'),
  tokenizer: z.string().optional().describe("Folder of the tokenizer; the model's by default"),
  dtype: z.enum(['float32', 'bfloat16', 'auto']).default('auto').describe('Of the weights in memory; auto keeps what is stored'),
  device: deviceOption(),
  text: z.union([z.string(), z.array(z.string())]).describe('Text with the mask token, such as "Paris is the [MASK] of France."'),
  topK: z.int().min(1).default(5).describe('How many tokens to name for each mask'),
  json: z.boolean().default(false).describe('Print JSON lines, one a text'),
})

export function fillMaskCommand(): Command {
  return addFlags(new Command('fill-mask').description('say what stands behind the mask of a text'), schema)
    .action(async (config: string | undefined, flags: Record<string, unknown>) => {
      const { model: folder, tokenizer: tokenizerFolder, dtype, device, text, topK, json } = readOptions(schema, config, flags)
      const tokenizer = await Tokenizer.fromPretrained(tokenizerFolder ?? folder)
      const model = await AutoModelForMaskedLM.fromPretrained(folder, { dtype, device })
      try {
        for (const one of [text].flat()) {
          const masks = await fillMask(model, tokenizer, one, { topK })
          if (json) { print(JSON.stringify(masks)); continue }
          print(bold(one))
          for (const mask of masks) print(`${mask.map(({ score, tokenStr }) => `  ${tokenStr} ${dim(`${(100 * score).toFixed(1)} %`)}`).join('\n')}\n`)
        }
      } finally {
        model.dispose()
      }
    })
}
