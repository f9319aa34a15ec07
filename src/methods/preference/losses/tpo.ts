import type { Tensor } from '../../../tensor/index.ts'
import { cpoLoss } from './cpo.ts'
import type { PairLosses } from './dpo.ts'

/** The losses of TPO, by TRL's names. */
export const tpoLossTypes = ['sigmoid', 'hinge', 'ipo', 'tpo-l'] as const
/** The name of a loss of TPO, one of `tpoLossTypes`. */
export type TpoLossType = (typeof tpoLossTypes)[number]

/** What the loss of TPO takes beside log-probabilities. */
export interface TpoLossOptions {
  lossType: TpoLossType
  beta: number
  labelSmoothing: number
  /** The target margin of 'tpo-l'. */
  tpoLGamma: number
}

/**
 * TPO's loss of pairs (arXiv 2405.16681) from log-probabilities of completions [pairs]: sums, or means per token for 'ipo' and 'tpo-l'. There is no
 * reference model, so it is CPO's, 'tpo-l' being SimPO's. Equals TRL's TPOTrainer. The language-model loss of gold completions is added outside.
 */
export const tpoLoss = (chosen: Tensor, rejected: Tensor, { lossType, beta, labelSmoothing, tpoLGamma }: TpoLossOptions): PairLosses =>
  cpoLoss(chosen, rejected, { lossType: lossType === 'tpo-l' ? 'simpo' : lossType, beta, labelSmoothing, simpoGamma: tpoLGamma, alpha: 0 })
