import { resultsOnly } from '../tensor/scope.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { emptyLike, expect, expectDtype, expectShape, shapeText } from './op.ts'
import { advantageScalings } from './operations.ts'
import type { AdvantageScaling } from './operations.ts'

/** What `groupAdvantages` takes beside the rewards. */
export interface GroupAdvantagesOptions {
  /** Samples in a row that answer one prompt. */
  groupSize: number
  /** What a reward's distance from its group's mean is divided by. 'group' by default, as in GRPO; 'none' is Dr. GRPO's. */
  scaling?: AdvantageScaling
  /** One for each reward function, of rewards' dtype; 1 by default. */
  weights?: Tensor | null
  /** Added to deviations. 1e-4, as in TRL. */
  eps?: number
}
/** What `groupAdvantages` gives. */
export interface GroupAdvantages {
  /** [samples]. */
  advantages: Tensor
  /** Groups whose rewards are all alike and so teach nothing, int32 [1]. */
  withoutSpread: Tensor
}

/**
 * Rewards to advantages, as TRL's GRPO (Shao et al., 2024) and RLOO trainers have them. rewards [samples, functions], or [samples]; float32 or float64.
 * A reward of NaN was not given; a sample without any has advantage 0. Not differentiable.
 */
export function groupAdvantages(rewards: Tensor, { groupSize, scaling = 'group', weights = null, eps = 1e-4 }: GroupAdvantagesOptions): GroupAdvantages {
  expectDtype('groupAdvantages', 'rewards', rewards, 'float32', 'float64')
  expect(rewards.rank === 1 || rewards.rank === 2, 'groupAdvantages', () => `rewards must have shape [samples, functions], but has ${shapeText(rewards.shape)}`)
  const [samples, functions] = [rewards.dim(0), rewards.rank === 2 ? rewards.dim(1) : 1]
  expect(Number.isInteger(groupSize) && groupSize > 0 && samples % groupSize === 0, 'groupAdvantages', () => `groupSize must divide the ${samples} samples, but is ${groupSize}`)
  if (weights) {
    expectShape('groupAdvantages', 'weights', weights, [functions], 'one per reward function')
    expectDtype('groupAdvantages', 'weights', weights, rewards.dtype)
  }
  return resultsOnly(() => {
    const advantages = emptyLike(rewards, [samples])
    const withoutSpread = emptyLike(rewards, [1], 'int32')
    const table = rewards.rank === 2 ? rewards : rewards.viewAs([samples, 1])
    rewards.device.kernels.group_advantages(advantages.handle, withoutSpread.handle, table.handle, weights?.handle ?? 0, groupSize, advantageScalings[scaling], eps)
    return { advantages, withoutSpread }
  })
}

/** Discount γ and λ, and which steps count, of `gae`. */
export interface GaeOptions { gamma?: number; lambda?: number; mask?: Tensor | null }
/** What `gae` gives for each step: advantages, and returns to train values towards. */
export interface GaeResult { advantages: Tensor; returns: Tensor }

/**
 * Generalised advantage estimation (Schulman et al., 2016) of rewards and values [sequences, steps], float32 or float64; both results of that shape.
 * Steps where mask is 0 are passed over: advantage 0, return = value. gamma 1 and lambda 0.95, as TRL's PPO has them. Not differentiable.
 */
export function gae(rewards: Tensor, values: Tensor, { gamma = 1, lambda = 0.95, mask = null }: GaeOptions = {}): GaeResult {
  expectDtype('gae', 'rewards', rewards, 'float32', 'float64')
  expect(rewards.rank === 2, 'gae', () => `rewards must have shape [sequences, steps], but has ${shapeText(rewards.shape)}`)
  for (const [what, tensor] of [['values', values], ['mask', mask]] as const) {
    if (!tensor) continue
    expectShape('gae', what, tensor, rewards.shape, 'that of rewards')
    expectDtype('gae', what, tensor, rewards.dtype)
  }
  const [advantages, returns] = [emptyLike(rewards), emptyLike(rewards)]
  rewards.device.kernels.gae(advantages.handle, returns.handle, rewards.handle, values.handle, mask?.handle ?? 0, gamma, lambda)
  return { advantages, returns }
}
