import { Command } from 'commander'
import { z } from 'zod'
import { during } from '../../activity.ts'
import { generationShape } from '../../generate/config.ts'
import { generate, stream } from '../../generate/index.ts'
import { AutoPeftModelForCausalLM } from '../../adapters/index.ts'
import { Tokenizer } from '../../tokenizers/index.ts'
import { deviceOption } from '../../options.ts'
import { addFlags, readOptions } from '../flags.ts'
import { bold, dim, print } from '../terminal.ts'

const schema = z.strictObject({
  model: z.string().min(1).describe('Folder of the model, or of an adapter'),
  tokenizer: z.string().optional().describe("Folder of the tokenizer; the model's by default"),
  dtype: z.enum(['float32', 'bfloat16', 'auto']).default('auto').describe('Of the weights in memory; auto keeps what is stored'),
  device: deviceOption(),
  prompt: z.union([z.string(), z.array(z.string())]).describe('Text to continue; several are answered together'),
  json: z.boolean().default(false).describe('Print tokens and log-probabilities as JSON lines'),
  ...generationShape,
  maxNewTokens: z.int().min(1).default(128).describe('Most tokens to generate'),
})

export function generateCommand(): Command {
  return addFlags(new Command('generate').description('continue a text'), schema)
    .action(async (config: string | undefined, flags: Record<string, unknown>) => {
      const { model: folder, tokenizer: tokenizerFolder, dtype, device, prompt, json, ...options } = readOptions(schema, config, flags)
      const tokenizer = await Tokenizer.fromPretrained(tokenizerFolder ?? folder)
      const model = await AutoPeftModelForCausalLM.fromPretrained(folder, { dtype, device })
      const prompts = [prompt].flat()
      const begin = performance.now()
      let tokens = 0
      if (json || prompts.length > 1 || options.numReturnSequences > 1) {
        const outputs = await generate(model, tokenizer, prompts, options)
        for (const [i, output] of outputs.entries()) {
          tokens += output.tokenIds.length
          if (json) print(JSON.stringify(output))
          else print(`${bold(prompts[Math.floor(i / options.numReturnSequences)]!)}${output.text}\n`)
        }
      } else {
        process.stdout.write(bold(prompts[0]!))
        await during({ what: 'generating' }, async () => {
          for await (const piece of stream(model, tokenizer, prompts[0]!, options)) {
            process.stdout.write(piece.text)
            tokens++
          }
        })
        print()
      }
      if (!json) print(dim(`${tokens} tokens, ${(tokens / ((performance.now() - begin) / 1000)).toFixed(1)} tokens/s`))
      model.dispose()
    })
}
