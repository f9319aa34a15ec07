import { createSampler } from '../../../data/index.ts'
import type { CausalLanguageModel } from '../../../models/index.ts'
import { mul, sub, sum } from '../../../ops/index.ts'
import { Tensor } from '../../../tensor/index.ts'
import type { Tokenizer } from '../../../tokenizers/index.ts'
import type { LossResult, TaskStep, TrainingTask } from '../../../train/task.ts'
import { modelKeeping } from '../../model.ts'
import { collatePairs, type PairBatch } from '../../preference/dpo.ts'
import { completionLogps } from '../../preference/logps.ts'
import { dpoLoss } from '../../preference/losses/index.ts'
import { halves, pairMetrics } from '../../preference/metrics.ts'
import type { Reference } from '../../reference.ts'
import { lengthMetrics, rewardedGroups, samplesOf, type Failures, type GenerationOptions, type Group, type RewardedOptions } from '../policy/generation.ts'
import type { PromptRow } from '../rollouts/prompts.ts'
import { isEnded, rankedPair, type RankedPair } from './pairs.ts'

export interface OnlineDpoTaskOptions<Row> extends RewardedOptions<Row>, Pick<GenerationOptions<Row>, 'rewardWeights' | 'samplesToLog'> {
  model: CausalLanguageModel
  reference: Pick<Reference, 'run'>
  tokenizer: Tokenizer
  prompts: readonly PromptRow<Row>[]
  /** Names the prompts; a run resumes only with the same. */
  fingerprint: string
  perDeviceTrainBatchSize: number
  gradientAccumulationSteps: number
  missingEosPenalty?: number | undefined
  maxLength: number
  beta: number | readonly number[]
  lossType: 'sigmoid' | 'ipo'
  measure?: (signal?: AbortSignal) => Promise<Record<string, number>>
}

/** A micro-batch of ranked pairs and the epoch's beta. `counted` is 0 where no pair could be judged: such a batch changes nothing. */
export interface OnlineDpoBatch extends PairBatch { beta: number, counted: number }

/** The beta of an epoch: the last one stays. */
export const betaOf = (beta: number | readonly number[], epoch: number): number => (typeof beta === 'number' ? beta : beta[Math.min(epoch, beta.length - 1)]!)

/**
 * Sample two answers to each prompt of the step, rank them, and take a step of DPO on the pairs. What a step trains on is a function of the seed, the
 * step and the weights before it, so checkpoints hold the weights alone.
 */
export function onlineDpoTask<Row>(options: OnlineDpoTaskOptions<Row>): TrainingTask<OnlineDpoBatch> {
  const { model, tokenizer, prompts, fingerprint, perDeviceTrainBatchSize, gradientAccumulationSteps, sampling, measure } = options
  const sampler = createSampler(prompts.length, { perDeviceTrainBatchSize, gradientAccumulationSteps, seed: sampling.seed })
  return {
    name: 'online dpo', model, fingerprint, ...modelKeeping(model, tokenizer), stepsPerEpoch: sampler.stepsPerEpoch,
    async batches(step): Promise<TaskStep<OnlineDpoBatch>> {
      await sampler.prepare(step)
      const { epoch, microBatches } = sampler.at(step)
      const beta = betaOf(options.beta, epoch)
      const begin = performance.now()
      const failures: Failures = { failed: options.runner.names.map(() => 0), errors: [] }
      const groups = await rewardedGroups(options, microBatches.flatMap((indices) => Array.from(indices, (i) => prompts[i]!)), step, 0, failures)
      const seconds = (performance.now() - begin) / 1000
      let at = 0
      const pairs = microBatches.map(({ length }) => groups.slice(at, at += length).map((group) => rankedPair(group, options)))
      const batches = pairs.map((some) => batchOf(some, beta))
      const judged = batches.reduce((total, { counted }) => total + counted, 0)
      const tokens = batches.reduce((total, batch) => total + batch.tokens, 0)
      return {
        microBatches: batches, numItems: Math.max(judged, 1), tokens,
        metrics: { ...stepMetrics(options, groups, pairs.flat(), failures), beta, rolloutTokensPerSecond: groups.reduce((total, { rollouts }) => total + rollouts.reduce((a, { completionIds }) => a + completionIds.length, 0), 0) / Math.max(seconds, 1e-9) },
        samples: samplesOf(groups, options.runner.names, options.samplesToLog), warnings: warningsOf(options.runner.names, pairs.flat(), failures),
      }
    },
    loss: (batch, numItems) => onlineDpoLoss(model, options.reference, batch, { lossType: options.lossType, numItems }),
    ...(measure ? { measure } : {}),
  }
}

const isJudged = ({ chosenScore, rejectedScore }: RankedPair): boolean => !Number.isNaN(chosenScore) && !Number.isNaN(rejectedScore)

/** Pairs that could not be judged are left out; where none could, they stay with no weight, as a step needs a batch. */
function batchOf(pairs: readonly RankedPair[], beta: number): OnlineDpoBatch {
  const judged = pairs.filter(isJudged)
  return { ...collatePairs(judged.length > 0 ? judged : pairs), beta, counted: judged.length }
}

/** The loss of a micro-batch: that of DPO, or IPO of whole completions' log-probabilities as TRL's OnlineDPOTrainer has it. */
export function onlineDpoLoss(model: CausalLanguageModel, reference: Pick<Reference, 'run'>, batch: OnlineDpoBatch, { lossType, numItems }: { lossType: 'sigmoid' | 'ipo', numItems: number }): LossResult {
  const { beta, counted } = batch
  const sumsOf = (other: CausalLanguageModel): Tensor => {
    const { rows, logprob } = completionLogps(other, batch)
    return rows.sum(logprob)
  }
  const own = sumsOf(model)
  const theirs = reference.run(sumsOf)
  const [chosen, rejected] = halves(own)
  const [referenceChosen, referenceRejected] = halves(theirs)
  // Lengths of 1 take the mean per token out of IPO.
  const ones = Tensor.ones([batch.pairs.length], { dtype: own.dtype, device: own.device })
  const { losses, chosenRewards, rejectedRewards } = dpoLoss(
    { chosen, rejected, referenceChosen, referenceRejected, chosenLengths: ones, rejectedLengths: ones },
    { lossType: [lossType], beta, labelSmoothing: 0, fDivergenceType: 'reverse_kl', fAlphaDivergenceCoef: 0.5, discopopTau: 0.05 },
  )
  const loss = mul(sum(losses), counted === 0 ? 0 : 1 / numItems)
  if (counted === 0) return { loss }
  const kl = sum(sub(own, theirs).detach())
  const answers = 2 * batch.pairs.length
  return {
    loss,
    sums: {
      ...pairMetrics(chosenRewards, rejectedRewards, chosen, rejected),
      'objective/kl': { sum: kl, count: answers }, 'objective/non_score_reward': { sum: mul(kl, -beta), count: answers }, 'objective/entropy': { sum: mul(sum(own.detach()), -1), count: answers },
    },
  }
}

/** TRL's numbers of what was sampled, and those of each reward function. */
function stepMetrics<Row>({ runner }: OnlineDpoTaskOptions<Row>, groups: readonly Group<Row>[], pairs: readonly RankedPair[], { failed }: Failures): Record<string, number> {
  const rollouts = groups.flatMap((group) => group.rollouts)
  const judged = pairs.filter(isJudged)
  const mean = (numbers: readonly number[]): number => numbers.reduce((a, b) => a + b, 0) / numbers.length
  const scores = judged.length === 0 ? {} : {
    'objective/scores': mean(judged.flatMap(({ chosenScore, rejectedScore }) => [chosenScore, rejectedScore])),
    'objective/scores_margin': mean(judged.map(({ chosenScore, rejectedScore }) => chosenScore - rejectedScore)),
    'objective/ties': mean(judged.map(({ chosenScore, rejectedScore }) => Number(chosenScore === rejectedScore))),
  }
  const perFunction = runner.names.flatMap((name, f) => {
    const values = groups.flatMap((group) => Array.from(group.values).filter((value, i) => i % runner.names.length === f && !Number.isNaN(value)))
    return [...values.length > 0 ? [[`rewards/${name}/mean`, mean(values)] as const] : [], [`rewards/${name}/failed`, failed[f]!] as const]
  })
  return { ...scores, ...Object.fromEntries(perFunction), 'val/contain_eos_token': mean(rollouts.map((one) => Number(isEnded(one)))), withoutReward: pairs.length - judged.length, ...lengthMetrics(rollouts) }
}

function warningsOf(names: readonly string[], pairs: readonly RankedPair[], { failed, errors }: Failures): string[] {
  const judged = pairs.filter(isJudged)
  return [
    ...names.flatMap((name, f) => (failed[f]! >= 2 * pairs.length ? [`reward function ${name} failed for every answer, which count as having no reward from it: ${errors[f] ?? ''}`] : [])),
    ...(judged.length < pairs.length ? [`${pairs.length - judged.length} of ${pairs.length} pairs have an answer without a reward and are left out`] : []),
    ...(judged.length > 0 && judged.every(({ chosenScore, rejectedScore }) => chosenScore === rejectedScore) ? ['both answers to every prompt have the same score, so the first counts as the better one by chance; make the rewards tell answers apart'] : []),
  ]
}
