import { Command } from 'commander'
import { z } from 'zod'
import { quantizeFolder, quantizeFolderSchema, type QuantizationReport } from '../../quantization/index.ts'
import { addFlags, readOptions } from '../flags.ts'
import { bytesText, print } from '../terminal.ts'

const schema = quantizeFolderSchema.extend({ json: z.boolean().default(false).describe('Print JSON') })

function describe({ output, format, block, method, layers, head, parameters, byteLength, bitsPerWeight, bitsPerParameter, perplexity }: QuantizationReport): void {
  print(`${output}: ${layers} linear layers in ${format}, ${block === undefined ? 'a scale for each row' : `blocks of ${block}`}, by ${method}${head === undefined ? '' : `, the head among them in ${head}`}, ${bitsPerWeight.toFixed(3)} bits per weight`)
  print(`${(parameters / 1e6).toFixed(1)}M parameters, ${bytesText(byteLength)}, ${bitsPerParameter.toFixed(2)} bits each with embeddings and norms`)
  if (perplexity) print(`perplexity ${perplexity.before.toPrecision(6)} before, ${perplexity.after.toPrecision(6)} after`)
}

export function quantizeCommand(): Command {
  return addFlags(new Command('quantize').description('write a model with its linear layers in 4 or 8 bits, and measure what that does'), schema)
    .action(async (config: string | undefined, flags: Record<string, unknown>) => {
      const { json, ...options } = readOptions(schema, config, flags)
      const report = await quantizeFolder({ ...options, onProgress: ({ layers, of }) => { if (!json) print(`layer ${layers} of ${of}`) } })
      if (json) print(JSON.stringify(report, undefined, 2))
      else describe(report)
    })
}
