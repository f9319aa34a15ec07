import { createInterface } from 'node:readline/promises'
import { Command } from 'commander'
import { z } from 'zod'
import { during } from '../../activity.ts'
import { ConfigError } from '../../errors.ts'
import { generationShape } from '../../generate/config.ts'
import { stream } from '../../generate/index.ts'
import { AutoPeftModelForCausalLM } from '../../adapters/index.ts'
import { Tokenizer } from '../../tokenizers/index.ts'
import type { ChatMessage } from '../../tokenizers/index.ts'
import { deviceOption } from '../../options.ts'
import { addFlags, readOptions } from '../flags.ts'
import { cyan, dim, print } from '../terminal.ts'

const schema = z.strictObject({
  model: z.string().min(1).describe('Folder of the model, or of an adapter'),
  dtype: z.enum(['float32', 'bfloat16', 'auto']).default('auto').describe('Of the weights in memory; auto keeps what is stored'),
  device: deviceOption(),
  system: z.string().optional().describe('A system message'),
  message: z.string().optional().describe('Answer this one message and stop'),
  ...generationShape,
  maxNewTokens: z.int().min(1).default(512).describe('Most tokens of an answer'),
})

export function chatCommand(): Command {
  return addFlags(new Command('chat').description('talk with a model through its chat template'), schema)
    .action(async (config: string | undefined, flags: Record<string, unknown>) => {
      const { model: folder, dtype, device, system, message, ...options } = readOptions(schema, config, flags)
      const tokenizer = await Tokenizer.fromPretrained(folder)
      if (tokenizer.chatTemplate === undefined) throw new ConfigError(`${folder}: the tokenizer has no chat template; use anneal generate`)
      const model = await AutoPeftModelForCausalLM.fromPretrained(folder, { dtype, device })
      const messages: ChatMessage[] = system === undefined ? [] : [{ role: 'system', content: system }]
      const answer = async (content: string): Promise<void> => {
        messages.push({ role: 'user', content })
        let text = ''
        await during({ what: 'answering' }, async () => {
          for await (const piece of stream(model, tokenizer, messages, options)) {
            process.stdout.write(piece.text)
            text += piece.text
          }
        })
        print()
        messages.push({ role: 'assistant', content: text })
      }
      if (message !== undefined) await answer(message)
      else {
        print(dim('an empty line or Ctrl-D ends'))
        const lines = createInterface({ input: process.stdin, output: process.stdout, prompt: cyan('> ') })
        // The terminal gives Ctrl-C to the reader of lines.
        lines.on('SIGINT', () => { process.emit('SIGINT') })
        lines.prompt()
        for await (const line of lines) {
          if (line.trim() === '') break
          await answer(line)
          lines.prompt()
        }
        lines.close()
      }
      model.dispose()
    })
}
