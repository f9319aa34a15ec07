import { Command } from 'commander'
import type { z } from 'zod'
import type { PolicyRun } from '../methods/reinforcement/preparePolicy.ts'
import { addFlags, readOptions } from './flags.ts'
import { runTraining } from './run.ts'
import { bold, print } from './terminal.ts'

/** A command that trains from rewards, by the schema of its options. */
export function policyCommand<S extends z.ZodObject>(name: string, description: string, schema: S, prepare: (args: z.output<S>) => Promise<PolicyRun>): Command {
  return addFlags(new Command(name).description(description), schema)
    .option('--dry-run', 'check options, prompts, reward functions and model, and stop')
    .action(async (config: string | undefined, flags: Record<string, unknown>) => {
      const run = await prepare(readOptions(schema, config, flags))
      const { data, model, trainer: { args, totalSteps } } = run
      print(bold(`${model.config.architecture}, ${(model.numParameters() / 1e6).toFixed(1)}M parameters, ${(model.numParameters({ onlyTrainable: true }) / 1e6).toFixed(1)}M trained`))
      print(`data: ${data.train.length} prompts to train on, ${data.eval.length} held out`)
      print(`${totalSteps} steps of ${args.perDeviceTrainBatchSize} × ${args.gradientAccumulationSteps} answers, ${args.bf16 ? 'bfloat16 products' : 'float32'}; output in ${args.outputDir}`)
      if (flags['dryRun']) run.dispose()
      else await runTraining(run)
    })
}
