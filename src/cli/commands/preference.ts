import { Command } from 'commander'
import type { z } from 'zod'
import {
  cpo, cpoSchema, dpo, dpoSchema, kto, ktoSchema, orpo, orpoSchema, reward, rewardSchema, rrhf, rrhfSchema, stepwiseReward, tpo, tpoSchema, type PreparedPreferenceRun,
} from '../../methods/index.ts'
import type { PretrainedModel } from '../../models/index.ts'
import { addFlags, exampleText, readOptions } from '../flags.ts'
import { describeMemory, describePreferenceRun, runTraining } from '../run.ts'

interface Arguments { perDeviceTrainBatchSize: number, maxLength: number | null, gradientCheckpointing: boolean, dtype: 'float32' | 'bfloat16' }

/** A command that learns from preferences, by the schema of its options. `sequences` is how many an example has, for the memory estimate. */
function preferenceCommand<S extends z.ZodObject & z.ZodType<Arguments>>(
  name: string, description: string, schema: S, prepare: (args: z.output<S>) => Promise<PreparedPreferenceRun<unknown, unknown, PretrainedModel>>, sequences: number | ((args: z.output<S>) => number) = 2,
): Command {
  return addFlags(new Command(name).description(description), schema)
    .option('--dry-run', 'check options, data and model, print the memory estimate and stop')
    .addHelpText('after', exampleText(name, '--model ./model --files preferences.jsonl --output-dir ./out'))
    .action(async (config: string | undefined, flags: Record<string, unknown>) => {
      const args = readOptions(schema, config, flags)
      const { perDeviceTrainBatchSize, maxLength, gradientCheckpointing, dtype } = args
      const run = await prepare(args)
      describePreferenceRun(run)
      describeMemory({
        model: run.model, rows: perDeviceTrainBatchSize * (typeof sequences === 'number' ? sequences : sequences(args)),
        maxLength: Math.min(maxLength ?? Infinity, run.model.config.maxPositionEmbeddings), gradientCheckpointing, dtype,
      })
      if (flags['dryRun'] === true) run.dispose()
      else await runTraining(run)
    })
}

/** reward, dpo, kto, orpo, cpo, tpo and rrhf. */
export const preferenceCommands = (): Command[] => [
  preferenceCommand(
    'reward', 'train a reward model on preference pairs, or with --stepwise on judged steps', rewardSchema,
    (args): Promise<PreparedPreferenceRun<unknown, unknown, PretrainedModel>> => (args.stepwise ? stepwiseReward(args) : reward({ ...args, stepwise: false })), ({ stepwise }) => (stepwise ? 1 : 2),
  ),
  preferenceCommand('dpo', 'learn from pairs of a preferred and a rejected answer: DPO, IPO, APO, robust, … with a reference', dpoSchema, dpo),
  preferenceCommand('kto', 'learn from single answers that are desirable or not: KTO, unpaired APO, BCO', ktoSchema, kto),
  preferenceCommand('orpo', 'learn from preference pairs without a reference: ORPO', orpoSchema, orpo),
  preferenceCommand('cpo', 'learn from preference pairs without a reference: CPO, SimPO, AlphaPO', cpoSchema, cpo),
  preferenceCommand('tpo', 'learn from preference pairs with a gold answer, without a reference model: TPO', tpoSchema, tpo, 3),
  preferenceCommand('rrhf', 'learn from several answers ranked by their scores: RRHF', rrhfSchema, rrhf, 4),
]
