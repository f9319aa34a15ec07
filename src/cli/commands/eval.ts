import { Command } from 'commander'
import { z } from 'zod'
import { perplexityOfFiles } from '../../eval/index.ts'
import { AutoPeftModelForCausalLM } from '../../adapters/index.ts'
import { Tokenizer } from '../../tokenizers/index.ts'
import { deviceOption } from '../../options.ts'
import { addFlags, readOptions } from '../flags.ts'
import { print } from '../terminal.ts'

const schema = z.strictObject({
  model: z.string().min(1).describe('Folder of the model, or of an adapter'),
  tokenizer: z.string().optional().describe("Folder of the tokenizer; the model's by default"),
  dtype: z.enum(['float32', 'bfloat16', 'auto']).default('auto').describe('Of the weights in memory; auto keeps what is stored'),
  device: deviceOption(),
  files: z.union([z.string(), z.array(z.string())]).describe('Held-out data: files, folders or globs'),
  maxLength: z.int().min(2).optional().describe("Tokens a window sees; the model's context by default, at most 2048"),
  stride: z.int().min(1).optional().describe('Tokens a window goes on by; half of maxLength by default'),
  json: z.boolean().default(false).describe('Print JSON'),
})

export function evalCommand(): Command {
  return addFlags(new Command('eval').description('loss and perplexity on held-out text'), schema)
    .action(async (config: string | undefined, flags: Record<string, unknown>) => {
      const { model: folder, tokenizer: tokenizerFolder, dtype, device, files, maxLength, stride, json } = readOptions(schema, config, flags)
      const tokenizer = await Tokenizer.fromPretrained(tokenizerFolder ?? folder)
      const model = await AutoPeftModelForCausalLM.fromPretrained(folder, { dtype, device })
      const result = await perplexityOfFiles(model, tokenizer, files, { ...(maxLength === undefined ? {} : { maxLength }), ...(stride === undefined ? {} : { stride }) })
      if (json) print(JSON.stringify(result, undefined, 2))
      else for (const [name, value] of Object.entries(result)) print(`${name.padEnd(20)} ${typeof value === 'number' && !Number.isInteger(value) ? value.toPrecision(6) : String(value)}`)
      model.dispose()
    })
}
