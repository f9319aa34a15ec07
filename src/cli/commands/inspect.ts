import { Command } from 'commander'
import { z } from 'zod'
import { describeExample, loadDataset } from '../../data/index.ts'
import { Tokenizer } from '../../tokenizers/index.ts'
import { addFlags, readOptions } from '../flags.ts'
import { bold, dim, green, print, yellow } from '../terminal.ts'

const schema = z.strictObject({
  tokenizer: z.string().min(1).describe('Folder of the tokenizer, usually the model'),
  files: z.union([z.string(), z.array(z.string())]).describe('Training data: files, folders or globs'),
  rows: z.int().min(1).default(3).describe('How many rows to show'),
  maxLength: z.int().min(2).nullable().default(1024).describe('Longest row in tokens'),
  packing: z.union([z.boolean(), z.enum(['bfd', 'bfd_split', 'wrapped'])]).default(false).describe('As in training'),
  format: z.string().optional().describe('Shape of the rows, where it is not to be recognised'),
  columns: z.record(z.string(), z.string()).optional().describe('Where a known column has another name'),
  completionOnlyLoss: z.boolean().optional().describe('As in training'),
  assistantOnlyLoss: z.boolean().default(false).describe('As in training'),
})

export function inspectCommand(): Command {
  return addFlags(new Command('inspect').description('show which tokens of the data are trained'), schema)
    .action(async (config: string | undefined, flags: Record<string, unknown>) => {
      const { tokenizer: folder, rows, ...options } = readOptions(schema, config, flags)
      const tokenizer = await Tokenizer.fromPretrained(folder)
      const given = Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined))
      const data = await loadDataset({ ...given, tokenizer, cacheDir: false })
      print(`${data.stats.rows} rows, ${data.stats.tokens} tokens, ${(100 * data.stats.trainedShare).toFixed(1)} % trained; ${green('trained')}, ${dim('not trained')}`)
      for (const warning of data.warnings) print(yellow(`warning: ${warning}`))
      for (let i = 0; i < Math.min(rows, data.train.length); i++) {
        const { segments, tokens, trainedTokens } = describeExample(data.train.get(i), tokenizer)
        print(bold(`\n--- row ${i}: ${tokens} tokens, ${trainedTokens} trained`))
        print(segments.map(({ text, trained }) => process.stdout.isTTY ? (trained ? green(text) : dim(text)) : trained ? `[[${text}]]` : text).join(''))
      }
      data.close()
    })
}
