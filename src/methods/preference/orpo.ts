import { preferenceKinds, type PairExample } from '../../data/index.ts'
import type { CausalLanguageModel } from '../../models/index.ts'
import { add, mul, neg, slice, sum } from '../../ops/index.ts'
import { givenOptions, parseOptions } from '../../options.ts'
import { withPrompts } from './collate.ts'
import { CompletionRows } from './completionRows.ts'
import { collatePairs, pairLength, pairTokens, type PairBatch } from './dpo.ts'
import { completionLogps } from './logps.ts'
import { logSigmoid, oddsRatioLoss } from './losses/index.ts'
import { halves, pairMetrics } from './metrics.ts'
import { orpoSchema, type OrpoArguments, type OrpoOptions } from './options.ts'
import { decisive, loadPolicy, loadTokenizerAndData, preparePreferenceRun, sampling, taskArguments, type PreparedPreferenceRun, type WithRows } from './prepare.ts'
import { meanOf, perItem, preferenceTask, type PreferenceLoss, type Window } from './task.ts'

/**
 * ORPO (arXiv 2403.07691): the language-model loss of chosen completions and the odds ratio of chosen to rejected ones, without a reference model.
 * Options are TRL's ORPOConfig in camelCase.
 */
export async function orpo(input: WithRows<OrpoOptions>): Promise<PreparedPreferenceRun<PairExample, PairBatch>> {
  const { rows, evalRows, ...options } = givenOptions('orpo', input, "model: './model', files: 'data.jsonl', outputDir: './out'")
  const args = parseOptions(orpoSchema, options, 'orpo')
  const { tokenizer, data } = await loadTokenizerAndData(args, { rows, evalRows, make: preferenceKinds.pair, tokensOf: pairTokens, longest: pairLength })
  const model = await loadPolicy(args)
  try {
    const task = preferenceTask({
      name: 'orpo', model, tokenizer, train: data.train, eval: data.eval, fingerprint: data.fingerprint, ...taskArguments(args), loss: orpoStep(model, args),
      collate: args.nllScope === 'completion' ? collatePairs : (pairs) => ({ ...collatePairs(pairs), labelled: pairs.reduce((total, { chosen }) => total + chosen.inputIds.length - 1, 0) }),
      decisiveOptions: decisive(args, ['beta', 'nllScope']), ...sampling(model, tokenizer, args.samplePrompts),
    })
    return preparePreferenceRun(args, { model, tokenizer, data, task })
  } catch (error) {
    model.dispose()
    throw error
  }
}

function orpoStep(model: CausalLanguageModel, { beta, nllScope }: OrpoArguments): (batch: PairBatch, window: Window) => PreferenceLoss {
  return (pairs, window) => {
    const batch = nllScope === 'prompt_completion' ? withPrompts(pairs) : { ...pairs, whole: undefined }
    const { logprob, rows } = completionLogps(model, batch)
    const [chosen, rejected] = halves(rows.mean(logprob))
    const { losses, logOdds } = oddsRatioLoss(chosen, rejected, beta)
    // By token over prompts and completions, or by the completions' own means.
    const nll = batch.whole ? perItem(neg(sum(slice(new CompletionRows(batch.whole, logprob).sum(logprob), [0], [pairs.items]))), window) : neg(sum(chosen))
    return {
      loss: add(nll, sum(losses)),
      sums: {
        ...pairMetrics(mul(chosen.detach(), beta), mul(rejected.detach(), beta), chosen, rejected), nll_loss: { sum: nll.detach(), count: pairs.items },
        log_odds_ratio: meanOf(logSigmoid(logOdds.detach())), log_odds_chosen: meanOf(logOdds),
      },
    }
  }
}
