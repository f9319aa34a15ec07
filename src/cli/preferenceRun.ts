import type { PreparedPreferenceRun } from '../methods/index.ts'
import { describeMemory, describePreferenceRun, runTraining } from './run.ts'

interface Arguments { perDeviceTrainBatchSize: number, maxLength: number | null, gradientCheckpointing: boolean, dtype: 'float32' | 'bfloat16' }

/** Says what a run on preference data will do, and does it unless it is dry. `sequences` is how many an example has. */
export async function runPreference<E, B>(run: PreparedPreferenceRun<E, B>, args: Arguments, { sequences, dryRun }: { sequences: number, dryRun: boolean }): Promise<void> {
  describePreferenceRun(run)
  const { model: { config } } = run
  const maxLength = Math.min(args.maxLength ?? Infinity, config.maxPositionEmbeddings)
  describeMemory({ model: run.model, rows: sequences * args.perDeviceTrainBatchSize, maxLength, gradientCheckpointing: args.gradientCheckpointing, dtype: args.dtype })
  if (dryRun) run.dispose()
  else await runTraining(run)
}
