import { Command } from 'commander'
import { rrhf, rrhfSchema } from '../../methods/index.ts'
import { addFlags, readOptions } from '../flags.ts'
import { runPreference } from '../preferenceRun.ts'

export function rrhfCommand(): Command {
  return addFlags(new Command('rrhf').description('learn from several answers ranked by their scores: RRHF'), rrhfSchema)
    .option('--dry-run', 'check options, data and model, print the memory estimate and stop')
    .action(async (config: string | undefined, flags: Record<string, unknown>) => {
      const args = readOptions(rrhfSchema, config, flags)
      await runPreference(await rrhf(args), args, { sequences: 4, dryRun: flags['dryRun'] === true })
    })
}
