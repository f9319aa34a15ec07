import { Command } from 'commander'
import { ppo } from '../../methods/reinforcement/ppo/ppo.ts'
import { ppoSchema } from '../../methods/reinforcement/ppo/options.ts'
import { addFlags, readOptions } from '../flags.ts'
import { runTraining } from '../run.ts'
import { bold, print } from '../terminal.ts'

export function ppoCommand(): Command {
  return addFlags(new Command('ppo').description('train from rewards with a value model: PPO'), ppoSchema)
    .option('--dry-run', 'check options, prompts, reward functions and models, and stop')
    .action(async (config: string | undefined, flags: Record<string, unknown>) => {
      const run = await ppo(readOptions(ppoSchema, config, flags))
      const { data, model, trainer: { args, totalSteps } } = run
      print(bold(`${model.config.architecture}, ${(model.numParameters() / 1e6).toFixed(1)}M parameters, ${(model.numParameters({ onlyTrainable: true }) / 1e6).toFixed(1)}M trained`))
      print(`data: ${data.train.length} prompts; ${totalSteps} steps of ${args.perDeviceTrainBatchSize} × ${args.gradientAccumulationSteps} answers; output in ${args.outputDir}`)
      if (flags['dryRun']) run.dispose()
      else await runTraining(run)
    })
}
