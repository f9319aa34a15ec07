import { preferenceKinds, type CompletionExample, type RankedExample } from '../../data/index.ts'
import type { CausalLanguageModel } from '../../models/index.ts'
import { add, mul, neg, sum } from '../../ops/index.ts'
import { givenOptions, parseOptions } from '../../options.ts'
import { Tensor } from '../../tensor/index.ts'
import { collateCompletions, sumOf, type CompletionBatch } from './collate.ts'
import { completionLogps } from './logps.ts'
import { bestOf, rankLoss } from './losses/index.ts'
import { rrhfSchema, type RrhfArguments, type RrhfOptions } from './options.ts'
import { decisive, loadPolicy, loadTokenizerAndData, preparePreferenceRun, sampling, taskArguments, type PreparedPreferenceRun, type WithRows } from './prepare.ts'
import { preferenceTask, type Countable, type PreferenceLoss } from './task.ts'

/** The responses of all queries one after another. */
export interface RankedBatch extends CompletionBatch, Countable { queries: readonly RankedExample[] }

function collateRanked(queries: readonly RankedExample[]): RankedBatch {
  const batch = collateCompletions(queries.flatMap(({ responses }) => responses))
  return { ...batch, queries, items: queries.length, labelled: sumOf(batch.lengths), tokens: batch.inputIds.length }
}

const longestOf = (responses: readonly CompletionExample[]): number => Math.max(...responses.map(({ inputIds }) => inputIds.length))

/**
 * RRHF (arXiv 2304.05302): responses of one prompt are ranked by their length-normalised log-probabilities as their scores rank them, and the best
 * one is learnt. The loss is a mean over prompts. Rows have prompt, responses and scores.
 */
export async function rrhf(input: WithRows<RrhfOptions>): Promise<PreparedPreferenceRun<RankedExample, RankedBatch>> {
  const { rows, evalRows, ...options } = givenOptions('rrhf', input, "model: './model', files: 'data.jsonl', outputDir: './out'")
  const args = parseOptions(rrhfSchema, options, 'rrhf')
  const { tokenizer, data } = await loadTokenizerAndData(args, {
    rows, evalRows, make: preferenceKinds.ranked, tokensOf: ({ responses }) => sumOf(responses.map(({ inputIds }) => inputIds.length)), longest: ({ responses }) => longestOf(responses),
  })
  const model = await loadPolicy(args)
  try {
    const task = preferenceTask({
      name: 'rrhf', model, tokenizer, train: data.train, eval: data.eval, fingerprint: data.fingerprint, ...taskArguments(args), collate: collateRanked, loss: rrhfStep(model, args),
      decisiveOptions: decisive(args, ['rankWeight', 'ftReduction', 'lengthPenalty']), ...sampling(model, tokenizer, args.samplePrompts),
    })
    return preparePreferenceRun(args, { model, tokenizer, data, task })
  } catch (error) {
    model.dispose()
    throw error
  }
}

function rrhfStep(model: CausalLanguageModel, { rankWeight, ftReduction, lengthPenalty }: RrhfArguments): (batch: RankedBatch) => PreferenceLoss {
  return (batch) => {
    const { queries, lengths } = batch
    const { logprob, rows } = completionLogps(model, batch)
    const rank = rankLoss(rows.sum(logprob, (row) => lengths[row]! ** -lengthPenalty), queries.map(({ scores }) => scores))
    // What the best response of each query weighs; the others weigh nothing.
    const best = new Float64Array(lengths.length)
    let begin = 0
    for (const { responses, scores } of queries) {
      const row = begin + bestOf(scores)
      best[row] = 1 / { sum: 1, mean: lengths[row]!, mean_padded: longestOf(responses) }[ftReduction]
      begin += responses.length
    }
    const fineTuning = neg(sum(mul(rows.sum(logprob), Tensor.from(best, [best.length], { dtype: logprob.dtype, device: logprob.device }))))
    return {
      loss: add(mul(rank, rankWeight), fineTuning),
      sums: { rank_loss: { sum: rank.detach(), count: batch.items }, sft_loss: { sum: fineTuning.detach(), count: batch.items } },
    }
  }
}
