import { preferenceKinds, type PairExample } from '../../data/index.ts'
import type { CausalLanguageModel } from '../../models/index.ts'
import { add, mul, neg, sum } from '../../ops/index.ts'
import { givenOptions, parseOptions } from '../../options.ts'
import { collatePairs, pairLength, pairTokens, type PairBatch } from './dpo.ts'
import { completionLogps } from './logps.ts'
import { cpoLoss, takesMeans } from './losses/index.ts'
import { halves, pairMetrics } from './metrics.ts'
import { cpoSchema, type CpoArguments, type CpoOptions } from './options.ts'
import { decisive, loadPolicy, loadTokenizerAndData, preparePreferenceRun, sampling, taskArguments, type PreparedPreferenceRun, type WithRows } from './prepare.ts'
import { perItem, preferenceTask, type PreferenceLoss, type Window } from './task.ts'

/**
 * CPO (arXiv 2401.08417), SimPO (2405.14734: lossType 'simpo') and AlphaPO (2501.03884: alpha) without a reference model. Options are TRL's CPOConfig in
 * camelCase; unlike there, cpoAlpha is 0 for 'simpo' unless given, as SimPO has no language-model loss.
 */
export async function cpo(input: WithRows<CpoOptions>): Promise<PreparedPreferenceRun<PairExample, PairBatch>> {
  const { rows, evalRows, ...options } = givenOptions('cpo', input, "model: './model', files: 'data.jsonl', outputDir: './out'")
  const args = parseOptions(cpoSchema, options, 'cpo')
  const cpoAlpha = args.cpoAlpha ?? (args.lossType === 'simpo' ? 0 : 1)
  const { tokenizer, data } = await loadTokenizerAndData(args, { rows, evalRows, make: preferenceKinds.pair, tokensOf: pairTokens, longest: pairLength })
  const model = await loadPolicy(args)
  try {
    const task = preferenceTask({
      name: 'cpo', model, tokenizer, train: data.train, eval: data.eval, fingerprint: data.fingerprint, ...taskArguments(args), collate: collatePairs, loss: cpoStep(model, { ...args, cpoAlpha }),
      decisiveOptions: decisive(args, ['lossType', 'beta', 'labelSmoothing', 'cpoAlpha', 'simpoGamma', 'alpha']), ...sampling(model, tokenizer, args.samplePrompts),
    })
    return preparePreferenceRun(args, { model, tokenizer, data, task })
  } catch (error) {
    model.dispose()
    throw error
  }
}

function cpoStep(model: CausalLanguageModel, args: CpoArguments & { cpoAlpha: number }): (batch: PairBatch, window: Window) => PreferenceLoss {
  return (batch, window) => {
    const { logprob, rows } = completionLogps(model, batch)
    const sums = rows.sum(logprob)
    const [chosen, rejected] = halves(takesMeans(args.lossType) ? rows.mean(logprob) : sums)
    const { losses, chosenRewards, rejectedRewards } = cpoLoss(chosen, rejected, args)
    const nll = perItem(neg(sum(halves(sums)[0])), window)
    return {
      loss: args.cpoAlpha === 0 ? sum(losses) : add(sum(losses), mul(nll, args.cpoAlpha)),
      sums: { ...pairMetrics(chosenRewards, rejectedRewards, chosen, rejected), nll_loss: { sum: nll.detach(), count: batch.items } },
    }
  }
}
