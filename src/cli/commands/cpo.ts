import { Command } from 'commander'
import { cpo, cpoSchema } from '../../methods/index.ts'
import { addFlags, readOptions } from '../flags.ts'
import { runPreference } from '../preferenceRun.ts'

export function cpoCommand(): Command {
  return addFlags(new Command('cpo').description('learn from preference pairs without a reference: CPO, SimPO, AlphaPO'), cpoSchema)
    .option('--dry-run', 'check options, data and model, print the memory estimate and stop')
    .action(async (config: string | undefined, flags: Record<string, unknown>) => {
      const args = readOptions(cpoSchema, config, flags)
      await runPreference(await cpo(args), args, { sequences: 2, dryRun: flags['dryRun'] === true })
    })
}
