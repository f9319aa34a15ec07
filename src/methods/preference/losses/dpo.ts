import { add, exp, maximum, minimum, mul, neg, sigmoid, square, sub, div } from '../../../ops/index.ts'
import type { Tensor } from '../../../tensor/index.ts'
import { logSigmoid, relu, sortAscending } from './math.ts'

/** The losses of DPO, by TRL's names. */
export const dpoLossTypes = [
  'sigmoid', 'hinge', 'ipo', 'exo_pair', 'nca_pair', 'robust', 'bco_pair', 'sppo_hard', 'aot', 'aot_unpaired', 'apo_zero', 'apo_down', 'discopop', 'sft', 'sigmoid_norm',
] as const
/** The name of a loss of DPO, one of `dpoLossTypes`. */
export type DpoLossType = (typeof dpoLossTypes)[number]

/** The divergences that hold DPO's policy to its reference, by TRL's names. */
export const fDivergenceTypes = ['reverse_kl', 'forward_kl', 'js_divergence', 'alpha_divergence'] as const
/** The name of a divergence, one of `fDivergenceTypes`. */
export type FDivergenceType = (typeof fDivergenceTypes)[number]

/** The losses that labelSmoothing has a meaning for. */
export const smoothedLosses: ReadonlySet<DpoLossType> = new Set(['sigmoid', 'sigmoid_norm', 'robust', 'exo_pair', 'aot', 'aot_unpaired'])
/** The losses of f-divergence scores; the others take the log-ratios themselves. */
export const scoredLosses: ReadonlySet<DpoLossType> = new Set(['sigmoid', 'hinge', 'ipo', 'exo_pair', 'robust', 'discopop', 'sigmoid_norm'])

/** What the losses are made of; all [pairs]. */
export interface DpoInputs {
  /** Log-probabilities of whole completions under the policy. */
  chosen: Tensor
  rejected: Tensor
  /** The same under the reference. */
  referenceChosen: Tensor
  referenceRejected: Tensor
  /** Tokens of the completions. */
  chosenLengths: Tensor
  rejectedLengths: Tensor
  /** Each pair's part of the language-model loss of chosen completions, for 'sft'. */
  sft?: Tensor | undefined
  /** Multiplies each pair's loss (WPO). */
  weights?: Tensor | undefined
}

/** What the losses of DPO take beside log-probabilities. */
export interface DpoLossOptions {
  lossType: readonly DpoLossType[]
  /** One a loss type; 1 each by default. */
  lossWeights?: readonly number[] | undefined
  beta: number
  labelSmoothing: number
  fDivergenceType: FDivergenceType
  fAlphaDivergenceCoef: number
  discopopTau: number
}

/** What a loss of preference pairs gives. */
export interface PairLosses {
  /** Of each pair, [pairs]. */
  losses: Tensor
  /** β log-ratios, [pairs]; not differentiable. */
  chosenRewards: Tensor
  rejectedRewards: Tensor
}

/** f'(e^x), by which a divergence other than the reverse KL scores a log-ratio (arXiv 2309.16240). */
export function divergenceScore(x: Tensor, type: FDivergenceType, alpha: number): Tensor {
  switch (type) {
    case 'reverse_kl': return x
    case 'forward_kl': return sub(1, exp(neg(x)))
    case 'js_divergence': return add(logSigmoid(x), Math.log(2))
    // Beyond 80 the exponential leaves float32.
    case 'alpha_divergence': return Math.abs(alpha - 1) < 1e-6 ? x : mul(sub(exp(minimum(mul(x, alpha - 1), 80)), 1), 1 / (alpha - 1))
  }
}

/** -(1 - e) log σ(x) - e log σ(-x). */
export const smoothedLogistic = (x: Tensor, e: number): Tensor =>
  e === 0 ? neg(logSigmoid(x)) : add(mul(logSigmoid(x), e - 1), mul(logSigmoid(neg(x)), -e))

/**
 * The losses of DPO and its kin from log-probabilities of whole completions; equals TRL's DPOTrainer, but for one thing: labelSmoothing e is
 * honoured in 'sigmoid' and 'sigmoid_norm' (conservative DPO: -(1 - e) log σ(βΔ) - e log σ(-βΔ)), where TRL 1.13 leaves it out silently.
 */
export function dpoLoss(inputs: DpoInputs, options: DpoLossOptions): PairLosses {
  const { beta, lossType, lossWeights } = options
  const c = sub(inputs.chosen, inputs.referenceChosen)
  const d = sub(inputs.rejected, inputs.referenceRejected)
  const terms = lossType.map((type, i) => mul(pairLoss(type, c, d, inputs, options), lossWeights?.[i] ?? 1))
  const total = terms.reduce((sum, term) => add(sum, term))
  return { losses: inputs.weights ? mul(total, inputs.weights) : total, chosenRewards: mul(c.detach(), beta), rejectedRewards: mul(d.detach(), beta) }
}

function pairLoss(type: DpoLossType, c: Tensor, d: Tensor, inputs: DpoInputs, options: DpoLossOptions): Tensor {
  const { beta, labelSmoothing: e, fDivergenceType, fAlphaDivergenceCoef, discopopTau } = options
  const score = (x: Tensor): Tensor => divergenceScore(x, fDivergenceType, fAlphaDivergenceCoef)
  const scaled = (): Tensor => mul(sub(score(c), score(d)), beta)
  const perToken = (): Tensor => sub(div(score(c), maximum(inputs.chosenLengths, 1)), div(score(d), maximum(inputs.rejectedLengths, 1)))
  const [bc, bd] = [mul(c, beta), mul(d, beta)]
  switch (type) {
    case 'sigmoid': return smoothedLogistic(scaled(), e)
    case 'hinge': return relu(sub(1, scaled()))
    case 'ipo': return square(sub(perToken(), 1 / (2 * beta)))
    case 'exo_pair': return exoLoss(scaled(), e)
    case 'nca_pair': return neg(add(logSigmoid(bc), mul(add(logSigmoid(neg(bc)), logSigmoid(neg(bd))), 0.5)))
    case 'robust': {
      const x = scaled()
      return mul(add(mul(logSigmoid(x), e - 1), mul(logSigmoid(neg(x)), e)), 1 / (1 - 2 * e))
    }
    case 'bco_pair': return neg(add(logSigmoid(bc), logSigmoid(neg(bd))))
    case 'sppo_hard': return add(square(sub(c, 0.5 / beta)), square(add(d, 0.5 / beta)))
    case 'aot': {
      const ratios = sortAscending(sub(inputs.chosen, inputs.rejected))
      const references = sortAscending(sub(inputs.referenceChosen, inputs.referenceRejected))
      return smoothedLogistic(mul(sub(ratios, references), beta), e)
    }
    case 'aot_unpaired': return smoothedLogistic(mul(sub(sortAscending(c), sortAscending(d)), beta), e)
    case 'apo_zero': return add(sub(1, sigmoid(bc)), sigmoid(bd))
    case 'apo_down': return sub(add(sigmoid(bc), 1), sigmoid(sub(bc, bd)))
    case 'discopop': {
      const x = scaled()
      const share = sigmoid(mul(x, 1 / discopopTau))
      return sub(mul(exp(neg(x)), share), mul(logSigmoid(x), sub(1, share)))
    }
    case 'sft': return inputs.sft!
    case 'sigmoid_norm': return smoothedLogistic(mul(perToken(), beta), e)
  }
}

/** KL(σ(x), σ(-x) || 1 - e, e). */
function exoLoss(x: Tensor, e: number): Tensor {
  const side = (sign: number, p: number): Tensor => {
    const y = mul(x, sign)
    return mul(sigmoid(y), sub(logSigmoid(y), Math.log(p)))
  }
  return add(side(1, 1 - e), side(-1, e))
}
