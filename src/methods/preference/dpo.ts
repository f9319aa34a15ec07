import { ConfigError } from '../../errors.ts'
import { preferenceKinds, type PairExample } from '../../data/index.ts'
import type { CausalLanguageModel } from '../../models/index.ts'
import { broadcastTo, mul, sum } from '../../ops/index.ts'
import type { Tensor } from '../../tensor/index.ts'
import { givenOptions, parseOptions } from '../../options.ts'
import { Owned } from '../../owned.ts'
import { collateCompletions, sumOf, type CompletionBatch } from './collate.ts'
import { lengthDesensitised } from './completionRows.ts'
import { agreementWeights, completionLogps, type CompletionLogps } from './logps.ts'
import { dpoLoss, type DpoLossType } from './losses/index.ts'
import { scoredLosses, smoothedLosses } from './losses/dpo.ts'
import { halves, pairMetrics } from './metrics.ts'
import { dpoSchema, type DpoArguments, type DpoOptions } from './options.ts'
import { decisive, loadPolicy, loadTokenizerAndData, preparePreferenceRun, sampling, taskArguments, type PreparedPreferenceRun, type WithRows } from './prepare.ts'
import { Reference } from '../reference.ts'
import { batchesInOrder, perItem, preferenceTask, type Countable, type PreferenceLoss, type Window } from './task.ts'

/** Chosen completions with their prompts, then the rejected ones. */
export interface PairBatch extends CompletionBatch, Countable { pairs: readonly PairExample[] }

export function collatePairs(pairs: readonly PairExample[]): PairBatch {
  const batch = collateCompletions([...pairs.map(({ chosen }) => chosen), ...pairs.map(({ rejected }) => rejected)])
  return { ...batch, pairs, items: pairs.length, labelled: sumOf(batch.lengths.slice(0, pairs.length)), tokens: batch.inputIds.length }
}

/** Tokens of the longer of the two. */
export const pairLength = ({ chosen, rejected }: PairExample): number => Math.max(chosen.inputIds.length, rejected.inputIds.length)
export const pairTokens = ({ chosen, rejected }: PairExample): number => chosen.inputIds.length + rejected.inputIds.length

/** The loss types of the options as a list, checked together with what belongs to them. */
function lossTypesOf({ lossType, lossWeights, labelSmoothing, fDivergenceType }: Pick<DpoArguments, 'lossType' | 'lossWeights' | 'labelSmoothing' | 'fDivergenceType'>): readonly DpoLossType[] {
  const types = [lossType].flat()
  if (lossWeights && lossWeights.length !== types.length) throw new ConfigError(`lossWeights: expected ${types.length}, one for each of lossType, got ${lossWeights.length}`)
  if (labelSmoothing > 0 && !types.some((type) => smoothedLosses.has(type))) throw new ConfigError(`labelSmoothing: has no meaning for ${types.join(', ')}; it has for ${[...smoothedLosses].join(', ')}`)
  if (labelSmoothing === 0 && types.includes('exo_pair')) throw new ConfigError('labelSmoothing: exo_pair needs a number above 0, such as 1e-3')
  if (fDivergenceType !== 'reverse_kl' && !types.some((type) => scoredLosses.has(type))) throw new ConfigError(`fDivergenceType: has no meaning for ${types.join(', ')}; it has for ${[...scoredLosses].join(', ')}`)
  return types
}

/**
 * Direct preference optimisation (arXiv 2305.18290) and its kin on pairs of a preferred and a rejected completion. Options are TRL's DPOConfig in
 * camelCase. Returns the run, ready to train(); with precomputeRefLogProbs the reference has been computed.
 */
export async function dpo(input: WithRows<DpoOptions>): Promise<PreparedPreferenceRun<PairExample, PairBatch>> {
  const { rows, evalRows, ...options } = givenOptions('dpo', input, "model: './model', files: 'data.jsonl', outputDir: './out'")
  const args = parseOptions(dpoSchema, options, 'dpo')
  lossTypesOf(args)
  const { tokenizer, data } = await loadTokenizerAndData(args, { rows, evalRows, make: preferenceKinds.pair, tokensOf: pairTokens, longest: pairLength })
  const model = await loadPolicy(args)
  const owned = new Owned()
  try {
    const reference = owned.add(await Reference.of(model, args))
    const task = preferenceTask({
      name: 'dpo', model, tokenizer, train: data.train, eval: data.eval, fingerprint: data.fingerprint, ...taskArguments(args), collate: collatePairs, loss: dpoStep(model, reference, args),
      decisiveOptions: decisive(args, ['lossType', 'lossWeights', 'beta', 'labelSmoothing', 'fDivergenceType', 'fAlphaDivergenceCoef', 'ldAlpha', 'useWeighting', 'discopopTau', 'refModel', 'precomputeRefLogProbs', 'syncRefModel', 'refModelMixupAlpha', 'refModelSyncSteps']),
      ...sampling(model, tokenizer, args.samplePrompts),
    })
    const run = preparePreferenceRun(args, { model, tokenizer, data, task: reference.keptBy(task, args), final: task, owned })
    if (args.precomputeRefLogProbs) {
      const examples = batchesInOrder([...data.train, ...data.eval ?? []], args.precomputeRefBatchSize ?? args.perDeviceTrainBatchSize)
      const logps = (pairs: readonly PairExample[], other: CausalLanguageModel): readonly Tensor[] => {
        const batch = collatePairs(pairs)
        return halves(sumLogps(completionLogps(other, batch), batch, args))
      }
      await reference.precompute(examples, logps, { bf16: run.trainer.args.bf16 ?? false, keepAdapters: args.adapterPath !== undefined })
      reference.dispose()
    }
    return run
  } catch (error) {
    owned.dispose()
    model.dispose()
    throw error
  }
}

/** Log-probabilities of whole completions, those past the shorter of a pair with LD-DPO's weight. */
const sumLogps = ({ logprob, rows }: CompletionLogps, batch: PairBatch, { ldAlpha }: DpoArguments): Tensor =>
  (ldAlpha === undefined ? rows.sum(logprob) : rows.sum(logprob, lengthDesensitised(batch, ldAlpha)))

export function dpoStep(model: CausalLanguageModel, reference: Reference, args: DpoArguments): (batch: PairBatch, window: Window) => PreferenceLoss {
  const lossType = lossTypesOf(args)
  const { lossWeights, beta, labelSmoothing, fDivergenceType, fAlphaDivergenceCoef, discopopTau, useWeighting } = args
  return (batch, window) => {
    const policy = completionLogps(model, batch)
    const { rows, logprob } = policy
    const [chosen, rejected] = halves(sumLogps(policy, batch, args))
    const [referenceChosen, referenceRejected] = reference.isPrecomputed
      ? [reference.of(batch.pairs, 0, logprob), reference.of(batch.pairs, 1, logprob)]
      : halves(reference.run((other) => sumLogps(completionLogps(other, batch), batch, args)))
    const [chosenLengths, rejectedLengths] = halves(rows.lengths)
    const weights = useWeighting ? halves(agreementWeights(model, batch, policy)) : undefined
    const { losses, chosenRewards, rejectedRewards } = dpoLoss({
      chosen, rejected, referenceChosen, referenceRejected, chosenLengths, rejectedLengths,
      ...lossType.includes('sft') ? { sft: sftShares(rows.sum(logprob), batch, window) } : {},
      ...weights ? { weights: mul(weights[0], weights[1]) } : {},
    }, { lossType, lossWeights, beta, labelSmoothing, fDivergenceType, fAlphaDivergenceCoef, discopopTau })
    return {
      loss: sum(losses),
      sums: { ...pairMetrics(chosenRewards, rejectedRewards, chosen, rejected), entropy: { sum: sum(rows.sum(policy.entropy.detach())), count: sumOf(batch.lengths) } },
    }
  }
}

/** The mean over chosen tokens of the window, the same for each pair of the micro-batch, so that the sum over pairs is that mean times the pairs. */
function sftShares(logps: Tensor, batch: PairBatch, window: Window): Tensor {
  const [chosen] = halves(logps)
  const total = mul(perItem(sum(chosen), window), -1 / batch.items)
  return broadcastTo(total, chosen.shape)
}
