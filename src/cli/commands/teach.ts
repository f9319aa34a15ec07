import { Command } from 'commander'
import { teach } from '../../methods/index.ts'
import { teachSchema } from '../../methods/distillation/options.ts'
import { addFlags, readOptions } from '../flags.ts'
import { print } from '../terminal.ts'

export function teachCommand(): Command {
  return addFlags(new Command('teach').description("record a teacher's distributions of data, or let it write training data"), teachSchema)
    .action(async (config: string | undefined, flags: Record<string, unknown>) => {
      const args = readOptions(teachSchema, config, flags)
      const { rows, reused, meanTail } = await teach(args, {
        onProgress: (progress) => { process.stderr.write(`${progress.rows} of ${progress.totalRows} rows, ${progress.tokens} tokens\n`) },
      })
      print(`${args.output}: ${rows} rows${reused > 0 ? `, ${reused} of them from before` : ''}${meanTail === undefined ? '' : `; ${(100 * meanTail).toPrecision(3)} % of the teacher's probability lies on tokens that were not recorded`}`)
    })
}
