import { Command } from 'commander'
import { orpo, orpoSchema } from '../../methods/index.ts'
import { addFlags, readOptions } from '../flags.ts'
import { runPreference } from '../preferenceRun.ts'

export function orpoCommand(): Command {
  return addFlags(new Command('orpo').description('learn from preference pairs without a reference: ORPO'), orpoSchema)
    .option('--dry-run', 'check options, data and model, print the memory estimate and stop')
    .action(async (config: string | undefined, flags: Record<string, unknown>) => {
      const args = readOptions(orpoSchema, config, flags)
      await runPreference(await orpo(args), args, { sequences: 2, dryRun: flags['dryRun'] === true })
    })
}
