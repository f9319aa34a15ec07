import { Command } from 'commander'
import { score, scoreSchema } from '../../methods/index.ts'
import { addFlags, exampleText, readOptions } from '../flags.ts'
import { print } from '../terminal.ts'

export function scoreCommand(): Command {
  return addFlags(new Command('score').description('score texts, answers or preference pairs with a reward model; writes one JSON object a row'), scoreSchema)
    .addHelpText('after', exampleText('score', '--model ./reward-model --files answers.jsonl'))
    .action(async (config: string | undefined, flags: Record<string, unknown>) => {
      for await (const row of score(readOptions(scoreSchema, config, flags))) print(JSON.stringify(row))
    })
}
