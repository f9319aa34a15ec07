import { add, greater, maximum, minimum, mul, policyLoss, square, sub, sum } from '../../../ops/index.ts'
import type { PolicyLossResult, SequenceStarts } from '../../../ops/index.ts'
import type { Tensor } from '../../../tensor/index.ts'

export interface ValueLossOptions {
  /** Values when the answers were sampled, [places]. */
  old: Tensor
  /** [places]. */
  returns: Tensor
  /** A place's share of the loss, [places]: 1 over their number, or 0. */
  weights: Tensor
  /** How far a value may move from `old` before its gradient stops. */
  clipRange: number
}

export interface ValueLossResult {
  /** []. Differentiable in the values. */
  loss: Tensor
  /** Weighted share of places whose value was clipped, []. Not differentiable. */
  clipFraction: Tensor
}

/** Half the larger squared distance of the value, and of the value clipped around the old one, from the return: TRL's PPOTrainer. Any float dtype. */
export function valueLoss(values: Tensor, { old, returns, weights, clipRange }: ValueLossOptions): ValueLossResult {
  const free = square(sub(values, returns))
  const clipped = square(sub(minimum(maximum(values, sub(old, clipRange)), add(old, clipRange)), returns))
  const loss = mul(sum(mul(weights, maximum(free, clipped))), 0.5)
  return { loss, clipFraction: sum(mul(weights, greater(clipped.detach(), free.detach()))) }
}

export interface PpoLossOptions {
  sequences: SequenceStarts
  /** [tokens] each. */
  oldLogprobs: Tensor
  advantages: Tensor
  /** A token's share of the policy loss, [tokens]. */
  weights: Tensor
  cliprange: number
  /** Most that a negative advantage is multiplied by; undefined for no bound (Ye et al. 2020; verl has 3). */
  dualClip?: number | undefined
  value: ValueLossOptions
  vfCoef: number
}

export interface PpoLossResult extends ValueLossResult {
  /** policy + vfCoef · value, []. */
  loss: Tensor
  policy: PolicyLossResult
  valueLoss: Tensor
}

/** The clipped policy loss of PPO (Schulman et al. 2017) plus the weighted value loss. */
export function ppoLoss(logprobs: Tensor, values: Tensor, options: PpoLossOptions): PpoLossResult {
  const { sequences, oldLogprobs, advantages, weights, cliprange, dualClip, vfCoef } = options
  const policy = policyLoss(logprobs, {
    sequences, old: oldLogprobs, advantages, weights, clipLow: cliprange, clipHigh: cliprange, ...(dualClip === undefined ? {} : { dualLimit: dualClip }),
  })
  const value = valueLoss(values, options.value)
  return { loss: add(policy.loss, mul(value.loss, vfCoef)), policy, valueLoss: value.loss, clipFraction: value.clipFraction }
}
