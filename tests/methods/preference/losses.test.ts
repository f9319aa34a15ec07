// Proves that the preference losses and their gradients equal what TRL 1.13's trainers and the RRHF authors' script gave.
import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { CompletionRows, lengthDesensitised } from '../../../src/methods/preference/completionRows.ts'
import {
  bestOf, cpoLoss, dpoLoss, klEstimate, ktoLoss, logSigmoid, oddsRatioLoss, rankLoss, rewardLoss, type CpoLossType, type DpoLossType, type FDivergenceType, type KtoLossType,
} from '../../../src/methods/preference/losses/index.ts'
import { log1mexp, sortAscending } from '../../../src/methods/preference/losses/math.ts'
import { add, div, exp, mean, mul, selectiveLogSoftmax, slice, sub, sum } from '../../../src/ops/index.ts'
import { backward, scope, Tensor } from '../../../src/tensor/index.ts'

interface Sequences { logits: number[][][], ref_logits: number[][][], input_ids: number[][], completion_mask: number[][] }
interface Recorded {
  dpo: Sequences & { cases: {
    loss_types: DpoLossType[], loss_weights: number[], loss: number, grad_logits_abs_sum: number, grad_logits_0_2: number[], metrics: Record<string, number>
    args: { beta: number, label_smoothing: number, ld_alpha: number | null, f_divergence_type: FDivergenceType, f_alpha_divergence_coef: number, use_weighting: boolean, discopop_tau: number }
  }[] }
  kto: Sequences & { label: boolean[], KL_logps: number[], ref_KL_logps: number[], beta: number, cases: { loss_type: KtoLossType, desirable_weight: number, undesirable_weight: number, loss: number, kl: number }[] }
  orpo: { avg_chosen_logps: number[], avg_rejected_logps: number[], beta: number, beta_logsig_log_odds: number[], mean_log_odds: number }
  cpo_simpo: { chosen_logps: number[], rejected_logps: number[], cases: { loss_type: CpoLossType, label_smoothing: number, alpha: number, beta: number, simpo_gamma: number, losses: number[] }[] }
  reward: { logits_chosen_then_rejected: number[][], cases: { center: number | null, margin: number[] | null, loss: number }[] }
  rrhf: { logprobs: number[][][], labels: number[][], reward_scores: number[][], scores: number[], rank_loss: number, sft_loss_official_mean_over_padded_L: number, sft_loss_paper_sum: number }
}
const recorded = JSON.parse(readFileSync(new URL('../../recorded/preference/losses.json', import.meta.url), 'utf8')) as Recorded

/** A part of the number, or of 1 below it. */
const tolerance = { float64: 1e-9, float32: 1e-5 } as const
type Precision = keyof typeof tolerance
const precisions = Object.keys(tolerance) as Precision[]

function expectNear(got: ArrayLike<number>, wanted: ArrayLike<number>, precision: Precision): void {
  expect(got.length).toBe(wanted.length)
  for (let i = 0; i < wanted.length; i++) expect(Math.abs(got[i]! - wanted[i]!) / Math.max(1, Math.abs(wanted[i]!)), `${got[i]!} against ${wanted[i]!}`).toBeLessThan(tolerance[precision])
}

const vector = (values: readonly number[], dtype: Precision): Tensor => Tensor.from(values, [values.length], { dtype })

/** Rows of recorded logits as our flat batch: all sequences one after another, labels shifted. */
function flat({ input_ids: ids, completion_mask: mask }: Sequences, logits: number[][][], dtype: Precision) {
  const [length, vocabulary] = [ids[0]!.length, logits[0]![0]!.length]
  const tensor = Tensor.from(logits.flat(2), [ids.length * length, vocabulary], { dtype })
  const labels = ids.flatMap((row, i) => row.map((_, t) => (mask[i]![t + 1] ? row[t + 1]! : -100)))
  const spans = {
    begins: mask.map((row, i) => i * length + row.indexOf(1) - 1),
    lengths: mask.map((row) => row.reduce((a, b) => a + b, 0)),
  }
  return { logits: tensor, labels: Tensor.from(labels, [labels.length], { dtype: 'int32' }), spans, length }
}

describe.each(precisions)('in %s', (dtype) => {
  test.each(recorded.dpo.cases.map((one) => [`${one.loss_types.join(' + ')} ${JSON.stringify(one.args)}`, one] as const))('DPO: %s', async (_, one) => {
    const { args } = one
    const batch = flat(recorded.dpo, recorded.dpo.logits, dtype)
    const reference = flat(recorded.dpo, recorded.dpo.ref_logits, dtype)
    batch.logits.requiresGrad_()
    const pairs = recorded.dpo.input_ids.length / 2
    const { loss, metrics } = scope(() => {
      const { logprob } = selectiveLogSoftmax(batch.logits, batch.labels)
      const rows = new CompletionRows(batch.spans, logprob)
      const weight = args.ld_alpha === null ? undefined : lengthDesensitised(batch.spans, args.ld_alpha)
      const logps = rows.sum(logprob, weight)
      const refs = rows.sum(selectiveLogSoftmax(reference.logits, batch.labels).logprob, weight)
      const half = (x: Tensor, second: boolean): Tensor => slice(x, [second ? pairs : 0], [pairs])
      const sharper = selectiveLogSoftmax(batch.logits.detach(), batch.labels, { temperature: 0.5 }).logprob
      const agreement = exp(rows.mean(sub(sharper, logprob.detach())))
      const chosenTokens = batch.spans.lengths.slice(0, pairs).reduce((a, b) => a + b, 0)
      const { losses, chosenRewards, rejectedRewards } = dpoLoss({
        chosen: half(logps, false), rejected: half(logps, true), referenceChosen: half(refs, false), referenceRejected: half(refs, true),
        chosenLengths: half(rows.lengths, false), rejectedLengths: half(rows.lengths, true),
        sft: mul(half(rows.sum(logprob), false), -pairs / chosenTokens),
        ...args.use_weighting ? { weights: mul(half(agreement, false), half(agreement, true)) } : {},
      }, {
        lossType: one.loss_types, lossWeights: one.loss_weights, beta: args.beta, labelSmoothing: args.label_smoothing,
        fDivergenceType: args.f_divergence_type, fAlphaDivergenceCoef: args.f_alpha_divergence_coef, discopopTau: args.discopop_tau,
      })
      return { loss: mean(losses), metrics: { chosen: mean(chosenRewards), rejected: mean(rejectedRewards) } }
    })
    backward(loss)
    expectNear([await loss.item()], [one.loss], dtype)
    const gradient = await batch.logits.grad!.toArray()
    const vocabulary = recorded.dpo.logits[0]![0]!.length
    expectNear(gradient.slice(2 * vocabulary, 3 * vocabulary), one.grad_logits_0_2, dtype)
    expectNear([gradient.reduce((a, b) => a + Math.abs(b), 0)], [one.grad_logits_abs_sum], dtype)
    if (one.metrics['rewards/chosen'] !== undefined) {
      expectNear([await metrics.chosen.item(), await metrics.rejected.item()], [one.metrics['rewards/chosen'], one.metrics['rewards/rejected']!], 'float32')
    }
  })

  test.each(recorded.kto.cases)('KTO: $loss_type, weights $desirable_weight and $undesirable_weight', async (one) => {
    const { kto } = recorded
    const batch = flat(kto, kto.logits, dtype)
    const reference = flat(kto, kto.ref_logits, dtype)
    const { logprob } = selectiveLogSoftmax(batch.logits, batch.labels)
    const rows = new CompletionRows(batch.spans, logprob)
    const baseline = one.loss_type === 'kto' ? klEstimate(vector(kto.KL_logps, dtype), vector(kto.ref_KL_logps, dtype)) : undefined
    if (baseline) expectNear([await baseline.item()], [one.kl], dtype)
    const { losses } = ktoLoss({
      logps: rows.sum(logprob), reference: rows.sum(selectiveLogSoftmax(reference.logits, batch.labels).logprob), labels: kto.label, baseline,
    }, { lossType: one.loss_type, beta: kto.beta, desirableWeight: one.desirable_weight, undesirableWeight: one.undesirable_weight })
    expectNear([await mean(losses).item()], [one.loss], dtype)
  })

  test('ORPO', async () => {
    const { avg_chosen_logps: chosen, avg_rejected_logps: rejected, beta, beta_logsig_log_odds: wanted, mean_log_odds: odds } = recorded.orpo
    const { losses, logOdds } = oddsRatioLoss(vector(chosen, dtype), vector(rejected, dtype), beta)
    // TRL computes in float32.
    expectNear(await losses.toArray(), wanted.map((x) => -x), 'float32')
    expectNear([await mean(logOdds).item()], [odds], 'float32')
  })

  test.each(recorded.cpo_simpo.cases)('CPO: $loss_type, label smoothing $label_smoothing, alpha $alpha', async (one) => {
    const { chosen_logps: chosen, rejected_logps: rejected } = recorded.cpo_simpo
    const { losses } = cpoLoss(vector(chosen, dtype), vector(rejected, dtype), {
      lossType: one.loss_type, beta: one.beta, labelSmoothing: one.label_smoothing, simpoGamma: one.simpo_gamma, alpha: one.alpha,
    })
    expectNear(await losses.toArray(), one.losses, dtype)
  })

  test.each(recorded.reward.cases)('reward model: centring $center, margin $margin', async ({ center, margin, loss }) => {
    const scores = recorded.reward.logits_chosen_then_rejected.flat()
    const pairs = scores.length / 2
    const losses = rewardLoss(vector(scores.slice(0, pairs), dtype), vector(scores.slice(pairs), dtype), {
      ...margin ? { margin: vector(margin, dtype) } : {}, ...center === null ? {} : { centerRewardsCoefficient: center },
    })
    expectNear([await mean(losses).item()], [loss], dtype)
  })

  test('RRHF: scores, rank loss and both reductions of the language-model loss', async () => {
    const { logprobs, labels, reward_scores: [ranks], rank_loss: rank, scores, sft_loss_paper_sum: total, sft_loss_official_mean_over_padded_L: padded } = recorded.rrhf
    const width = labels[0]!.length
    const chosen = labels.flatMap((row, i) => row.map((label, t) => (label === -100 ? 0 : logprobs[i]![t]![label]!)))
    const logprob = vector(chosen, dtype)
    const rows = new CompletionRows({ begins: labels.map((row, i) => i * width + row.findIndex((x) => x !== -100)), lengths: labels.map((row) => row.filter((x) => x !== -100).length) }, logprob)
    const p = rows.mean(logprob)
    expectNear(await p.toArray(), scores, dtype)
    expectNear([await rankLoss(p, [ranks!]).item()], [rank], dtype)
    const sums = await rows.sum(logprob).toArray()
    expectNear([-sums[bestOf(ranks!)]!, -sums[bestOf(ranks!)]! / width], [total, padded], dtype)
  })

  test('log σ: exact at both ends, with a gradient of 1/2 at 0', async () => {
    const x = vector([-1000, -20, 0, 20, 1000], dtype).requiresGrad_()
    const y = logSigmoid(x)
    backward(sum(y))
    expectNear(await y.toArray(), [-1000, -20 - Math.log1p(Math.exp(-20)), -Math.LN2, -Math.log1p(Math.exp(-20)), 0], dtype)
    expectNear(await x.grad!.toArray(), [1, 1 / (1 + Math.exp(-20)), 0.5, 1 / (1 + Math.exp(20)), 0], dtype)
  })

  test('log(1 - e^x): keeps its digits near 0, where the probability is almost 1', async () => {
    const values = [-30, -1, -0.011, -0.009, -1e-5, 0]
    const x = vector(values, dtype).requiresGrad_()
    const y = log1mexp(x)
    backward(sum(y))
    expectNear(await y.toArray(), values.map((v) => Math.log(-Math.expm1(Math.min(v, -1e-7)))), dtype)
    const gradient = await x.grad!.toArray()
    expectNear(gradient.slice(0, 5).map((g, i) => g * values[i]!), values.slice(0, 5).map((v) => (v * -Math.exp(v)) / -Math.expm1(v)), dtype)
    expect(gradient.every(Number.isFinite)).toBe(true)
  })

  test('sorting is a permutation whose gradient follows the numbers', async () => {
    const x = vector([3, -1, 3, 0.5, -7], dtype).requiresGrad_()
    const sorted = sortAscending(x)
    backward(sum(mul(sorted, vector([1, 2, 3, 4, 5], dtype))))
    expect(await sorted.toArray()).toEqual([-7, -1, 0.5, 3, 3])
    expect(await x.grad!.toArray()).toEqual([4, 2, 5, 3, 1])
  })
})

test('where policy and reference agree, DPO is log 2, and its label smoothing changes the gradient but not the loss', async () => {
  const gradients: number[][] = []
  for (const labelSmoothing of [0, 0.3]) {
    const chosen = vector([-4, -9], 'float64').requiresGrad_()
    const rejected = vector([-5, -2], 'float64')
    const { losses } = dpoLoss({
      chosen, rejected, referenceChosen: chosen.detach(), referenceRejected: rejected, chosenLengths: vector([3, 4], 'float64'), rejectedLengths: vector([2, 2], 'float64'),
    }, { lossType: ['sigmoid'], beta: 0.1, labelSmoothing, fDivergenceType: 'reverse_kl', fAlphaDivergenceCoef: 0.5, discopopTau: 0.05 })
    backward(mean(losses))
    expectNear(await losses.toArray(), [Math.LN2, Math.LN2], 'float64')
    gradients.push(await chosen.grad!.toArray())
  }
  expectNear(gradients[0]!, [-0.025, -0.025], 'float64')
  expectNear(gradients[1]!, gradients[0]!.map((g) => g * 0.4), 'float64')
})

test('a limit of the α-divergence is the reverse KL, and it stays finite', async () => {
  const x = vector([-3, 0, 200], 'float64')
  const score = (alpha: number) => dpoLoss({ chosen: x, rejected: mul(x, 0), referenceChosen: mul(x, 0), referenceRejected: mul(x, 0), chosenLengths: add(mul(x, 0), 1), rejectedLengths: div(add(x, 4), add(x, 4)) },
    { lossType: ['hinge'], beta: 1, labelSmoothing: 0, fDivergenceType: 'alpha_divergence', fAlphaDivergenceCoef: alpha, discopopTau: 0.05 }).losses.toArray()
  expect(await score(1)).toEqual([4, 1, 0])
  expect((await score(2)).every(Number.isFinite)).toBe(true)
})
