import { Command } from 'commander'
import { distill } from '../../methods/index.ts'
import { distillSchema } from '../../methods/distillation/options.ts'
import { addFlags, readOptions } from '../flags.ts'
import { describeMemory, describeRun, runTraining } from '../run.ts'

export function distillCommand(): Command {
  return addFlags(new Command('distill').description('teach a model what another knows: soft labels, features, GKD, MiniLLM, or by universal logit distillation (uld) where tokenizers differ'), distillSchema)
    .option('--dry-run', 'check options, data and models, print the memory estimate and stop')
    .action(async (config: string | undefined, flags: Record<string, unknown>) => {
      const args = readOptions(distillSchema, config, flags)
      const run = await distill(args)
      describeRun(run)
      const maxLength = args.maxLength ?? run.model.config.maxPositionEmbeddings
      describeMemory({ ...run, rows: args.perDeviceTrainBatchSize, maxLength, gradientCheckpointing: args.gradientCheckpointing, dtype: args.dtype })
      if (flags['dryRun']) run.dispose()
      else await runTraining(run)
    })
}
