import { Command } from 'commander'
import { z } from 'zod'
import { exportModel, exportSchema, type ExportReport } from '../../export/index.ts'
import { addFlags, readOptions } from '../flags.ts'
import { bytesText, print, yellow } from '../terminal.ts'

const schema = exportSchema.extend({ json: z.boolean().default(false).describe('Print JSON') })

function describe({ output, parameters, byteLength, bitsPerWeight, warnings, agreement, sameTokens }: ExportReport): void {
  print(`${output}: ${(parameters / 1e6).toFixed(1)}M parameters, ${bytesText(byteLength)}, ${bitsPerWeight.toFixed(2)} bits per weight`)
  for (const warning of warnings) print(yellow(`warning: ${warning}`))
  if (!agreement) return
  print(`read again and compared on ${agreement.tokens} held-out tokens: top-1 agreement ${(100 * agreement.top1).toFixed(2)} %, mean KL ${agreement.kl.toExponential(2)}, largest ${agreement.largestKl.toExponential(2)} nats`)
  if (sameTokens === undefined) print(yellow('warning: the tokenizer in the file was not compared, as its way of cutting words is not known here'))
  else if (sameTokens) print('the tokenizer in the file gives the same tokens')
  else print(yellow('warning: the tokenizer in the file gives other tokens than the source'))
}

export function exportCommand(): Command {
  return addFlags(new Command('export').description('write a model as GGUF or as a Hugging Face folder, and compare it with the source'), schema)
    .action(async (config: string | undefined, flags: Record<string, unknown>) => {
      const { json, ...options } = readOptions(schema, config, flags)
      const report = await exportModel(options)
      if (json) print(JSON.stringify(report, undefined, 2))
      else describe(report)
    })
}
