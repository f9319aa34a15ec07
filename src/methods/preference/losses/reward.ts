import { add, mul, neg, square, sub } from '../../../ops/index.ts'
import type { Tensor } from '../../../tensor/index.ts'
import { logSigmoid } from './math.ts'

/**
 * The Bradley-Terry loss of a reward model, [pairs]: -log σ(chosen - rejected - margin) + centring · (chosen + rejected)². Equals TRL's RewardTrainer.
 */
export function rewardLoss(chosen: Tensor, rejected: Tensor, { margin, centerRewardsCoefficient = 0 }: { margin?: Tensor | undefined, centerRewardsCoefficient?: number } = {}): Tensor {
  const difference = sub(chosen, rejected)
  const loss = neg(logSigmoid(margin ? sub(difference, margin) : difference))
  return centerRewardsCoefficient === 0 ? loss : add(loss, mul(square(add(chosen, rejected)), centerRewardsCoefficient))
}
