import { Command } from 'commander'
import { sft } from '../../methods/index.ts'
import { sftSchema } from '../../methods/options.ts'
import { addFlags, readOptions } from '../flags.ts'
import { describeMemory, describeRun, runTraining } from '../run.ts'

export function sftCommand(): Command {
  return addFlags(new Command('sft').description('fine-tune a model on conversations, prompts with completions, or texts'), sftSchema)
    .option('--dry-run', 'check options, data and model, print the memory estimate and stop')
    .action(async (config: string | undefined, flags: Record<string, unknown>) => {
      const args = readOptions(sftSchema, config, flags)
      const run = await sft(args)
      describeRun(run)
      const maxLength = args.maxLength ?? run.model.config.maxPositionEmbeddings
      describeMemory({ ...run, rows: args.perDeviceTrainBatchSize, maxLength, gradientCheckpointing: args.gradientCheckpointing, dtype: args.dtype })
      if (flags['dryRun']) run.dispose()
      else await runTraining(run)
    })
}
