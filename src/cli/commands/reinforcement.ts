import { Command } from 'commander'
import type { z } from 'zod'
import { grpo, grpoSchema, onlineDpo, onlineDpoSchema, ppo, ppoSchema, rloo, rlooSchema, type PolicyRun } from '../../methods/index.ts'
import { addFlags, exampleText, readOptions } from '../flags.ts'
import { describePolicyRun, runTraining, type TrainableRun } from '../run.ts'

/** A command that trains from rewards, by the schema of its options. */
function policyCommand<S extends z.ZodObject>(name: string, description: string, example: string, schema: S, prepare: (args: z.output<S>) => Promise<TrainableRun & Pick<PolicyRun, 'model' | 'data'>>): Command {
  return addFlags(new Command(name).description(description), schema)
    .option('--dry-run', 'check options, prompts, reward functions and models, and stop')
    .addHelpText('after', exampleText(name, `--model ./model --files prompts.jsonl --output-dir ./out ${example}`))
    .action(async (config: string | undefined, flags: Record<string, unknown>) => {
      const run = await prepare(readOptions(schema, config, flags))
      describePolicyRun(run)
      if (flags['dryRun']) run.dispose()
      else await runTraining(run)
    })
}

/** grpo, rloo, online-dpo and ppo. */
export const reinforcementCommands = (): Command[] => [
  policyCommand('grpo', 'train from rewards of groups of answers: GRPO, DAPO, Dr. GRPO, GSPO, CISPO, SAPO, VESPO', '--reward numericMatch --max-completion-length 256', grpoSchema, (args) => grpo(args)),
  policyCommand('rloo', 'train from rewards with the other answers as baseline: RLOO', '--reward ./reward.ts', rlooSchema, (args) => rloo(args)),
  policyCommand('online-dpo', 'learn from pairs of own answers that rewards, a reward model or a judge rank: online DPO', '--reward-model ./judge', onlineDpoSchema, (args) => onlineDpo(args)),
  policyCommand('ppo', 'train from rewards with a value model: PPO', '--reward-model ./judge --response-length 128', ppoSchema, (args) => ppo(args)),
]
