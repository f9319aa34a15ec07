import { Command } from 'commander'
import { bestOfN } from '../../methods/reinforcement/bestOfN/bestOfN.ts'
import { bestOfNSchema, type BestOfNArguments } from '../../methods/reinforcement/bestOfN/options.ts'
import { addFlags, exampleText, readOptions } from '../flags.ts'
import { print, yellow } from '../terminal.ts'

/** What keeps answers out, by the options that do. */
function whyNone({ threshold, keepTruncated, maxCompletionLength }: BestOfNArguments): string {
  const reasons = [
    ...(threshold === undefined ? [] : [`scores below --threshold ${threshold}`]),
    ...(keepTruncated ? [] : [`answers cut off at --max-completion-length ${maxCompletionLength} (--keep-truncated keeps those)`]),
  ]
  return reasons.length === 0 ? '' : `; left out are ${reasons.join(' and ')}`
}

export function bestOfNCommand(): Command {
  return addFlags(new Command('best-of-n').description('sample answers, keep the best or all good ones, and write them as rows for sft'), bestOfNSchema)
    .addHelpText('after', exampleText('best-of-n', '--model ./model --files prompts.jsonl --output best.jsonl --reward numericMatch --num-generations 16'))
    .action(async (config: string | undefined, flags: Record<string, unknown>) => {
      const args = readOptions(bestOfNSchema, config, flags)
      const result = await bestOfN({ ...args, onProgress: (done, total) => { print(`${done} of ${total} prompts`) } })
      for (const [k, share] of Object.entries(result.passAtK)) print(`pass@${k}: ${(100 * share).toFixed(1)} %`)
      print(`mean score ${result.meanScore.toFixed(3)}, of the best ${result.meanBestScore.toFixed(3)}; KL at most ${result.klBound.toFixed(2)} nats`)
      for (const error of result.rewardErrors) print(yellow(error))
      if (result.withoutAnswer > 0) print(`${result.withoutAnswer} prompts have no answer that is kept${whyNone(args)}`)
      print(`${result.kept} rows of ${result.prompts} prompts: ${args.output}`)
    })
}
