import { Command } from 'commander'
import { z } from 'zod'
import { mergeFolder, mergeSchema } from '../../export/index.ts'
import { addFlags, readOptions } from '../flags.ts'
import { bytesText, print } from '../terminal.ts'

const schema = mergeSchema.extend({ json: z.boolean().default(false).describe('Print JSON') })

export function mergeCommand(): Command {
  return addFlags(new Command('merge').description('put an adapter into its base model, and measure what that does'), schema)
    .action(async (config: string | undefined, flags: Record<string, unknown>) => {
      const { json, ...options } = readOptions(schema, config, flags)
      const report = await mergeFolder(options)
      if (json) {
        print(JSON.stringify(report, undefined, 2))
        return
      }
      const { output, parameters, byteLength, bitsPerWeight, perplexity } = report
      print(`${output}: ${(parameters / 1e6).toFixed(1)}M parameters, ${bytesText(byteLength)}, ${bitsPerWeight.toFixed(2)} bits per weight`)
      if (perplexity) print(`perplexity ${perplexity.base.toPrecision(6)} of the base, ${perplexity.adapter.toPrecision(6)} with the adapter beside it, ${perplexity.merged.toPrecision(6)} merged`)
    })
}
