import { Command } from 'commander'
import { kto, ktoSchema } from '../../methods/index.ts'
import { addFlags, readOptions } from '../flags.ts'
import { runPreference } from '../preferenceRun.ts'

export function ktoCommand(): Command {
  return addFlags(new Command('kto').description('learn from single answers that are desirable or not: KTO, unpaired APO, BCO'), ktoSchema)
    .option('--dry-run', 'check options, data and model, print the memory estimate and stop')
    .action(async (config: string | undefined, flags: Record<string, unknown>) => {
      const args = readOptions(ktoSchema, config, flags)
      await runPreference(await kto(args), args, { sequences: 2, dryRun: flags['dryRun'] === true })
    })
}
