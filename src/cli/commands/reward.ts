import { Command } from 'commander'
import { reward, rewardSchema, stepwiseReward } from '../../methods/index.ts'
import { addFlags, readOptions } from '../flags.ts'
import { runPreference } from '../preferenceRun.ts'

export function rewardCommand(): Command {
  return addFlags(new Command('reward').description('train a reward model on preference pairs, or with --stepwise on judged steps'), rewardSchema)
    .option('--dry-run', 'check options, data and model, print the memory estimate and stop')
    .action(async (config: string | undefined, flags: Record<string, unknown>) => {
      const args = readOptions(rewardSchema, config, flags)
      const dryRun = flags['dryRun'] === true
      if (args.stepwise) await runPreference(await stepwiseReward(args), args, { sequences: 1, dryRun })
      else await runPreference(await reward({ ...args, stepwise: false }), args, { sequences: 2, dryRun })
    })
}
