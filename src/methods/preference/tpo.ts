import { preferenceKinds, type TripleExample } from '../../data/index.ts'
import { ConfigError } from '../../errors.ts'
import type { CausalLanguageModel } from '../../models/index.ts'
import { add, mul, neg, slice, sum } from '../../ops/index.ts'
import { givenOptions, parseOptions } from '../../options.ts'
import { collateCompletions, sumOf, type CompletionBatch } from './collate.ts'
import { completionLogps } from './logps.ts'
import { takesMeans, tpoLoss } from './losses/index.ts'
import { pairMetrics } from './metrics.ts'
import { tpoSchema, type TpoArguments, type TpoOptions } from './options.ts'
import { decisive, lengthOf, loadPolicy, loadTokenizerAndData, preparePreferenceRun, sampling, taskArguments, type PreparedPreferenceRun, type WithRows } from './prepare.ts'
import { perItem, preferenceTask, type Countable, type PreferenceLoss, type Window } from './task.ts'

/** The chosen completions of all pairs, the rejected ones, and unless tpoAlpha is 0 the gold ones. */
export interface TripleBatch extends CompletionBatch, Countable {}

/**
 * TPO (arXiv 2405.16681) on pairs with a gold completion: the pair's loss without a reference model, and the gold completion's language-model loss.
 * Options are TRL's TPOConfig in camelCase. Rows have prompt, chosen, rejected and reference, the gold one.
 */
export async function tpo(input: WithRows<TpoOptions>): Promise<PreparedPreferenceRun<TripleExample, TripleBatch>> {
  const { rows, evalRows, ...options } = givenOptions('tpo', input, "model: './model', files: 'data.jsonl', outputDir: './out'")
  const args = parseOptions(tpoSchema, options, 'tpo')
  if (args.labelSmoothing > 0 && (args.lossType === 'hinge' || args.lossType === 'ipo')) throw new ConfigError(`labelSmoothing: has no meaning for ${args.lossType}; it has for sigmoid, tpo-l`)
  const all = ({ chosen, rejected, reference }: TripleExample) => [chosen, rejected, reference].map(lengthOf)
  const { tokenizer, data } = await loadTokenizerAndData(args, { rows, evalRows, make: preferenceKinds.triple, tokensOf: (example) => sumOf(all(example)), longest: (example) => Math.max(...all(example)) })
  const model = await loadPolicy(args)
  try {
    const task = preferenceTask({
      name: 'tpo', model, tokenizer, train: data.train, eval: data.eval, fingerprint: data.fingerprint, ...taskArguments(args), loss: tpoStep(model, args),
      collate: (triples) => collateTriples(triples, args.tpoAlpha !== 0),
      decisiveOptions: decisive(args, ['lossType', 'beta', 'labelSmoothing', 'tpoAlpha', 'tpoLGamma']), ...sampling(model, tokenizer, args.samplePrompts),
    })
    return preparePreferenceRun(args, { model, tokenizer, data, task })
  } catch (error) {
    model.dispose()
    throw error
  }
}

export function collateTriples(triples: readonly TripleExample[], withGold: boolean): TripleBatch {
  const batch = collateCompletions([...triples.map(({ chosen }) => chosen), ...triples.map(({ rejected }) => rejected), ...withGold ? triples.map(({ reference }) => reference) : []])
  return { ...batch, items: triples.length, labelled: sumOf(batch.lengths.slice(2 * triples.length)), tokens: batch.inputIds.length }
}

export function tpoStep(model: CausalLanguageModel, args: TpoArguments): (batch: TripleBatch, window: Window) => PreferenceLoss {
  const isMean = args.lossType === 'tpo-l' || takesMeans(args.lossType)
  return (batch, window) => {
    const { logprob, rows } = completionLogps(model, batch)
    const sums = rows.sum(logprob)
    const part = (of: typeof sums, i: number) => slice(of, [i * batch.items], [batch.items])
    const scores = isMean ? rows.mean(logprob) : sums
    const [chosen, rejected] = [part(scores, 0), part(scores, 1)]
    const { losses, chosenRewards, rejectedRewards } = tpoLoss(chosen, rejected, args)
    const metrics = pairMetrics(chosenRewards, rejectedRewards, chosen, rejected)
    if (args.tpoAlpha === 0) return { loss: sum(losses), sums: metrics }
    const nll = perItem(neg(sum(part(sums, 2))), window)
    return { loss: add(sum(losses), mul(nll, args.tpoAlpha)), sums: { ...metrics, nll_loss: { sum: nll.detach(), count: batch.items } } }
  }
}
