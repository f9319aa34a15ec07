import { Command } from 'commander'
import { pretrain } from '../../methods/index.ts'
import { pretrainSchema } from '../../methods/options.ts'
import { addFlags, readOptions } from '../flags.ts'
import { describeMemory, describeRun, runTraining } from '../run.ts'

export function pretrainCommand(): Command {
  return addFlags(new Command('pretrain').description('train a language model on text, from scratch or continued: a decoder, or with --mlm an encoder'), pretrainSchema)
    .option('--dry-run', 'check options, data and model, print the memory estimate and stop')
    .action(async (config: string | undefined, flags: Record<string, unknown>) => {
      const args = readOptions(pretrainSchema, config, flags)
      const run = args.mlm ? await pretrain({ ...args, mlm: true }) : await pretrain({ ...args, mlm: false })
      describeRun(run)
      describeMemory({ ...run, rows: args.perDeviceTrainBatchSize, maxLength: args.maxLength, gradientCheckpointing: args.gradientCheckpointing, dtype: args.dtype })
      if (flags['dryRun']) run.dispose()
      else await runTraining(run)
    })
}
