import { ShapeError } from '../errors.ts'
import { isImpliedOne } from '../tensor/autograd.ts'
import type { DeviceLike } from '../tensor/device.ts'
import { Tensor } from '../tensor/tensor.ts'
import { emptyLike, expect, expectDtype, expectShape, fusedOp, shapeText } from './op.ts'
import { policyObjectives, ratioLevels } from './operations.ts'
import type { PolicyObjective, RatioLevel } from './operations.ts'
import { add, broadcastTo, concat, div, equal, exp, greater, max, maximum, minimum, mul, neg, sigmoid, slice, sub, sum, toDtype, where } from './primitives.ts'

/** Where each sequence begins among packed tokens: 0, the end of the first, of the second, … */
export class SequenceStarts {
  readonly starts: readonly number[]
  readonly tensor: Tensor

  constructor(starts: ArrayLike<number>, device?: DeviceLike) {
    this.starts = Array.from(starts)
    if (this.starts[0] !== 0) throw new ShapeError(`SequenceStarts: the first must be 0, but is ${this.starts[0]}`)
    const falling = this.starts.findIndex((start, i) => i > 0 && !(start >= this.starts[i - 1]!))
    if (falling >= 0) throw new ShapeError(`SequenceStarts: starts must not decrease, but goes from ${this.starts[falling - 1]} to ${this.starts[falling]} at ${falling}`)
    this.tensor = Tensor.from(Int32Array.from(this.starts), [this.starts.length], device ? { device } : {})
  }

  /** Of sequences with these lengths. */
  static ofLengths(lengths: ArrayLike<number>, device?: DeviceLike): SequenceStarts {
    const starts = [0]
    for (const length of Array.from(lengths)) starts.push(starts.at(-1)! + length)
    return new SequenceStarts(starts, device)
  }

  get count(): number { return this.starts.length - 1 }
  get tokens(): number { return this.starts.at(-1)! }
  dispose(): void { this.tensor.dispose() }
}

interface Attributes {
  sequences: SequenceStarts
  objective: PolicyObjective
  level: RatioLevel
  low: number
  high: number
  limit: number
  dualLimit: number
  beta: number
  correctedKl: boolean
}

/** Beyond ±20 a log-ratio counts as ±20, without gradient. */
const bounded = (x: Tensor): Tensor => minimum(maximum(x, -20), 20)
const lowestLogRatio = Math.log(1e-8)

/** L of every token from its log-ratio (or its sequence's) and advantage. */
function surrogate(logRatio: Tensor, logprob: Tensor, advantage: Tensor, { objective, low, high, limit, dualLimit }: Attributes): Tensor {
  const ratio = exp(bounded(logRatio))
  const choose = (condition: Tensor, a: number, b: number): Tensor => add(mul(condition, a - b), b)
  const positive = greater(advantage, 0)
  switch (objective) {
    case 'clip': {
      const free = mul(Number.isFinite(limit) ? minimum(ratio, limit) : ratio, advantage)
      const loss = neg(minimum(free, mul(minimum(maximum(ratio, 1 - low), 1 + high), advantage)))
      return Number.isFinite(dualLimit) ? where(greater(0, advantage), minimum(loss, mul(advantage, -dualLimit)), loss) : loss
    }
    case 'cispo': return neg(mul(mul(minimum(ratio, high).detach(), advantage), logprob))
    case 'sapo': {
      const tau = choose(positive, high, low)
      return neg(mul(mul(choose(positive, 4 / high, 4 / low), sigmoid(mul(tau, sub(ratio, 1)))), advantage))
    }
    case 'vespo': {
      const notNegative = sub(1, greater(0, advantage))
      const [k, lambda] = [choose(notNegative, low, limit), choose(notNegative, Math.max(high, 1e-4), Math.max(dualLimit, 1e-4))]
      const s = maximum(bounded(logRatio), lowestLogRatio)
      const phi = exp(sub(add(lambda, mul(k, s)), mul(lambda, exp(s))))
      return neg(mul(mul(phi.detach(), advantage), logprob))
    }
  }
}

/** The log-ratio that each token of a sequence goes by. */
function levelled(logRatio: Tensor, counted: Tensor, { sequences, level, objective }: Attributes): Tensor {
  if (level === 'token' && objective !== 'vespo') return logRatio
  const parts = Array.from({ length: sequences.count }, (_, i) => {
    const [begin, end] = [sequences.starts[i]!, sequences.starts[i + 1]!]
    const part = (x: Tensor): Tensor => slice(x, [begin], [end - begin])
    const total = sum(mul(objective === 'vespo' ? bounded(part(logRatio)) : part(logRatio), part(counted)), [0], true)
    const mean = objective === 'vespo' || level === 'sequence_sum' ? total : div(total, maximum(sum(part(counted), [0], true), 1))
    return broadcastTo(mean, [end - begin])
  })
  return parts.length > 0 ? concat(parts) : logRatio
}

type PolicyInputs = readonly [logprob: Tensor, old: Tensor | null, reference: Tensor | null, advantage: Tensor, weight: Tensor, factor: Tensor | null]

const op = fusedOp<PolicyInputs, Attributes, readonly [Tensor, Tensor, Tensor]>({
  name: 'policy_loss',
  differentiable: 1,
  definition([logprob, old, reference, advantage, weight, factor], attributes) {
    const { sequences, beta, correctedKl, low, high, limit, objective } = attributes
    const counted = sub(1, equal(weight, 0))
    const perToken = advantage.size === logprob.size ? advantage
      : concat(sequences.starts.slice(1).map((end, i) => broadcastTo(slice(advantage, [i], [1]), [end - sequences.starts[i]!])))
    const difference = sub(logprob, old ?? logprob.detach())
    const logRatio = levelled(difference, counted, attributes)
    const ratio = exp(bounded(logRatio))
    const term = surrogate(logRatio, logprob, perToken, attributes)
    const away = reference ? bounded(sub(reference, logprob)) : null
    const kl = away && sub(sub(exp(away), away), 1)
    const scaled = factor ? mul(factor, term) : term
    const tokenLoss = mul(weight, kl ? add(scaled, mul(correctedKl ? mul(kl, ratio) : kl, beta)) : scaled)
    const none = mul(counted, 0)
    const below = objective === 'clip' ? mul(greater(1 - low, ratio), greater(0, perToken)) : none
    const ceiling = objective === 'clip' ? 1 + high : high
    // A ratio that `limit` holds below the ceiling is not clipped there.
    const clips = objective === 'cispo' || (objective === 'clip' && limit > ceiling)
    const above = clips ? mul(greater(ratio, ceiling), greater(perToken, 0)) : none
    const total = (x: Tensor): Tensor => sum(mul(x, counted), [0], true)
    const statistics = [total(counted), total(below), total(above), total(ratio), logprob.size === 0 ? total(ratio) : max(mul(ratio, counted), [0], true), total(kl ?? none), total(neg(difference))]
    return [sum(tokenLoss), tokenLoss.detach(), toDtype(concat(statistics).detach(), 'float64')]
  },
  forward([logprob, old, reference, advantage, weight, factor], { sequences, objective, level, low, high, limit, dualLimit, beta, correctedKl }, save) {
    const [total, loss, dlogprob, statistics] = [emptyLike(logprob, []), emptyLike(logprob), emptyLike(logprob), emptyLike(logprob, [7], 'float64')]
    logprob.device.kernels.policy_loss(total.handle, loss.handle, dlogprob.handle, statistics.handle, logprob.handle, old?.handle ?? 0, reference?.handle ?? 0,
      advantage.handle, weight.handle, factor?.handle ?? 0, sequences.tensor.handle, policyObjectives[objective], ratioLevels[level], low, high, limit, dualLimit, beta, correctedKl)
    save(dlogprob)
    return [total, loss, statistics]
  },
  backward([dtotal], context) {
    const dlogprob = context.saved[0]!
    if (context.needs(0)) context.give(0, isImpliedOne(dtotal!) ? dlogprob : mul(dlogprob, dtotal!))
  },
})

interface CommonPolicyOptions {
  sequences: SequenceStarts
  /** Log-probabilities under the policy that sampled, [tokens]; left out, it is the policy itself: the ratio is 1 and its gradient flows. */
  old?: Tensor | null
  /** Log-probabilities under the reference policy, [tokens]. */
  reference?: Tensor | null
  /** [sequences] or [tokens]. */
  advantages: Tensor
  /** A token's share of the loss, [tokens]: its mask over what the sum is divided by. 0 takes it out, of sequences' ratios and statistics too. */
  weights: Tensor
  /** Multiplies a token's loss before the KL is added, [tokens]: off-policy and entropy masks, importance weights of the sampler. */
  factors?: Tensor | null
  /** What the ratio is taken over: 'token', or a sequence's mean (GSPO) or sum (RLOO) of log-ratios. */
  level?: RatioLevel
  /** Weight of the KL to the reference. */
  beta?: number
  /** Whether the KL is weighted by the ratio, which makes it unbiased for tokens of the old policy. */
  correctedKl?: boolean
}
/** The objective and its numbers. */
export type PolicyLossOptions = CommonPolicyOptions & (
  /** PPO, GRPO, DAPO, Dr. GRPO, GSPO, RLOO: clipped at 1 - clipLow and 1 + clipHigh; `limit` (TRL's delta) bounds the unclipped ratio, `dualLimit` the loss where A < 0. */
  | { objective?: 'clip'; clipLow?: number; clipHigh?: number; limit?: number; dualLimit?: number }
  /** CISPO: the ratio, at most `cap`, weights the policy gradient. */
  | { objective: 'cispo'; cap: number }
  /** SAPO: a sigmoid of the ratio, of temperature tauPositive where A > 0, else tauNegative. */
  | { objective: 'sapo'; tauPositive?: number; tauNegative?: number }
  /** VESPO: a sequence's weight, of (k, lambda) where A >= 0 and where A < 0. */
  | { objective: 'vespo'; positive?: readonly [k: number, lambda: number]; negative?: readonly [k: number, lambda: number] }
)

/** What `policyLoss` gives. */
export interface PolicyLossResult {
  /** The sum of tokenLoss, []. Differentiable in logprob. */
  loss: Tensor
  /** Weighted loss of each token, [tokens]. */
  tokenLoss: Tensor
  /** float64 [7] over tokens that count: their number, those clipped from below and from above, sum and largest of the ratio, sum of the KL, sum of old - logprob. */
  statistics: Tensor
}

/** The four numbers of the kernel. */
function numbersOf(options: PolicyLossOptions): Pick<Attributes, 'low' | 'high' | 'limit' | 'dualLimit'> {
  switch (options.objective) {
    case 'cispo': return { low: 0, high: options.cap, limit: Infinity, dualLimit: Infinity }
    case 'sapo': return { low: options.tauNegative ?? 1.05, high: options.tauPositive ?? 1, limit: Infinity, dualLimit: Infinity }
    case 'vespo': {
      const [[low, high], [limit, dualLimit]] = [options.positive ?? [2, 3], options.negative ?? [3, 2]]
      return { low, high, limit, dualLimit }
    }
    default: return { low: options.clipLow ?? 0.2, high: options.clipHigh ?? options.clipLow ?? 0.2, limit: options.limit ?? Infinity, dualLimit: options.dualLimit ?? Infinity }
  }
}

/**
 * The policy losses of PPO, GRPO and their kin from log-probabilities of sampled tokens, float32 [tokens], the sequences one after the other; with the
 * gradient in the same pass. Equals TRL's GRPOTrainer (per-token loss and KL), RLOOTrainer and PPOTrainer (policy part).
 */
export function policyLoss(logprob: Tensor, options: PolicyLossOptions): PolicyLossResult {
  const { sequences, old = null, reference = null, advantages, weights, factors = null, level = 'token', beta = 0, correctedKl = false, objective = 'clip' } = options
  expectDtype('policyLoss', 'logprob', logprob, 'float32', 'float64')
  expectShape('policyLoss', 'logprob', logprob, [sequences.tokens], 'the tokens of the sequences')
  for (const [what, tensor] of Object.entries({ old, reference, weights, factors })) {
    if (!tensor) continue
    expectShape('policyLoss', what, tensor, logprob.shape, 'that of logprob')
    expectDtype('policyLoss', what, tensor, logprob.dtype)
  }
  expectDtype('policyLoss', 'advantages', advantages, logprob.dtype)
  expect(advantages.rank === 1 && [sequences.count, sequences.tokens].includes(advantages.size), 'policyLoss',
    () => `advantages must have shape [${sequences.count}], one per sequence, or [${sequences.tokens}], but has ${shapeText(advantages.shape)}`)
  expect(beta === 0 || reference !== null, 'policyLoss', () => `beta is ${beta}, so reference must be given`)
  const [loss, tokenLoss, statistics] = op([logprob, old, reference, advantages, weights, factors], { sequences, objective, level, beta, correctedKl, ...numbersOf(options) })
  return { loss, tokenLoss, statistics }
}
