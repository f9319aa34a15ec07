import { mul, neg, sub } from '../../../ops/index.ts'
import type { Tensor } from '../../../tensor/index.ts'
import { log1mexp, logSigmoid } from './math.ts'

/**
 * The odds-ratio term of ORPO (arXiv 2403.07691) from mean log-probabilities per token, [pairs] each: -β log σ(log odds ratio), and that log odds
 * ratio. Equals TRL's ORPOTrainer, which computes it in float32. The language-model loss is added outside.
 */
export function oddsRatioLoss(chosen: Tensor, rejected: Tensor, beta: number): { losses: Tensor, logOdds: Tensor } {
  const logOdds = sub(sub(chosen, rejected), sub(log1mexp(chosen), log1mexp(rejected)))
  return { losses: mul(neg(logSigmoid(logOdds)), beta), logOdds }
}
