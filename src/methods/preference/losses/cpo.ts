import { exp, mul, square, sub } from '../../../ops/index.ts'
import type { Tensor } from '../../../tensor/index.ts'
import { smoothedLogistic, type PairLosses } from './dpo.ts'
import { relu } from './math.ts'

/** The losses of CPO, by TRL's names. */
export const cpoLossTypes = ['sigmoid', 'hinge', 'ipo', 'simpo'] as const
/** The name of a loss of CPO, one of `cpoLossTypes`. */
export type CpoLossType = (typeof cpoLossTypes)[number]

/** What the loss of CPO, SimPO and AlphaPO takes beside log-probabilities. */
export interface CpoLossOptions {
  lossType: CpoLossType
  beta: number
  labelSmoothing: number
  /** SimPO's target margin. */
  simpoGamma: number
  /** AlphaPO's α; 0 is the log-probability itself. */
  alpha: number
}

/** Whether the loss takes means per token instead of sums. */
export const takesMeans = (lossType: CpoLossType): boolean => lossType === 'ipo' || lossType === 'simpo'

/**
 * CPO (arXiv 2401.08417), SimPO (2405.14734) and AlphaPO (2501.03884) from log-probabilities of completions [pairs]: sums, or means per token for
 * 'ipo' and 'simpo'. Equals TRL's CPOTrainer. The language-model loss is added outside.
 */
export function cpoLoss(chosen: Tensor, rejected: Tensor, { lossType, beta, labelSmoothing, simpoGamma, alpha }: CpoLossOptions): PairLosses {
  // AlphaPO's reward (1 - p^-α) / α.
  const reward = (logp: Tensor): Tensor => (alpha === 0 ? logp : mul(sub(1, exp(mul(logp, -alpha))), 1 / alpha))
  const [c, r] = [reward(chosen), reward(rejected)]
  const x = sub(c, r)
  const rewards = { chosenRewards: mul(c.detach(), beta), rejectedRewards: mul(r.detach(), beta) }
  switch (lossType) {
    case 'sigmoid': return { losses: smoothedLogistic(mul(x, beta), labelSmoothing), ...rewards }
    case 'hinge': return { losses: relu(sub(1, mul(x, beta))), ...rewards }
    case 'ipo': return { losses: square(sub(x, 1 / (2 * beta))), ...rewards }
    case 'simpo': return { losses: smoothedLogistic(sub(mul(x, beta), simpoGamma), labelSmoothing), ...rewards }
  }
}
