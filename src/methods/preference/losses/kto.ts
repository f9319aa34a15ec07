import { add, maximum, mean, mul, neg, sigmoid, sub } from '../../../ops/index.ts'
import { Tensor } from '../../../tensor/index.ts'
import { logSigmoid } from './math.ts'

/** The losses of unpaired preferences, by TRL's names. */
export const ktoLossTypes = ['kto', 'apo_zero_unpaired', 'bco'] as const
/** The name of a loss of unpaired preferences, one of `ktoLossTypes`. */
export type KtoLossType = (typeof ktoLossTypes)[number]

/** What the losses of KTO and BCO are computed from. */
export interface KtoInputs {
  /** Log-probabilities of whole completions under policy and reference, [rows]. */
  logps: Tensor
  reference: Tensor
  /** Which of them are desirable. */
  labels: readonly boolean[]
  /** What a log-ratio is measured from, []: for 'kto' the estimated KL, for 'bco' the running mean of rewards. */
  baseline?: Tensor | undefined
}

/** What the losses of KTO take beside log-probabilities. */
export interface KtoLossOptions {
  lossType: KtoLossType
  beta: number
  desirableWeight: number
  undesirableWeight: number
}

/** The KL estimate of a micro-batch from mismatched pairs, []: never below 0, and no gradient. */
export const klEstimate = (logps: Tensor, reference: Tensor): Tensor => maximum(mean(sub(logps.detach(), reference.detach())), 0)

/**
 * KTO (arXiv 2402.01306), APO-zero for unpaired data (2408.06266) and BCO (2404.04656): the loss of each row [rows], as TRL's KTOTrainer and
 * BCOTrainer have it, and its reward β log-ratio.
 */
export function ktoLoss({ logps, reference, labels, baseline }: KtoInputs, options: KtoLossOptions): { losses: Tensor, rewards: Tensor } {
  const { lossType, beta, desirableWeight, undesirableWeight } = options
  const place = { dtype: logps.dtype, device: logps.device }
  const sign = Tensor.from(labels.map((label) => (label ? 1 : -1)), [labels.length], place)
  const weight = Tensor.from(labels.map((label) => (label ? desirableWeight : undesirableWeight)), [labels.length], place)
  const ratio = sub(logps, reference)
  const rewards = mul(ratio.detach(), beta)
  if (lossType === 'bco') return { losses: mul(weight, neg(logSigmoid(mul(sign, sub(mul(ratio, beta), baseline!))))), rewards }
  const x = mul(sign, mul(lossType === 'kto' ? sub(ratio, baseline!) : ratio, beta))
  // 1 - σ(x), without the difference of two numbers near 1.
  return { losses: mul(weight, sigmoid(neg(x))), rewards }
}

/** A running mean with another batch of numbers taken in: mean + (mean(x) - mean) n / (count + n). */
export const updatedMean = (running: Tensor, count: number, x: Tensor): Tensor => add(running, mul(sub(mean(x), running), x.size / (count + x.size)))
