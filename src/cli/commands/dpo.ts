import { Command } from 'commander'
import { dpo, dpoSchema } from '../../methods/index.ts'
import { addFlags, readOptions } from '../flags.ts'
import { runPreference } from '../preferenceRun.ts'

export function dpoCommand(): Command {
  return addFlags(new Command('dpo').description('learn from pairs of a preferred and a rejected answer: DPO, IPO, APO, robust, … with a reference'), dpoSchema)
    .option('--dry-run', 'check options, data and model, print the memory estimate and stop')
    .action(async (config: string | undefined, flags: Record<string, unknown>) => {
      const args = readOptions(dpoSchema, config, flags)
      await runPreference(await dpo(args), args, { sequences: 2, dryRun: flags['dryRun'] === true })
    })
}
