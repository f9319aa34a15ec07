import { add, broadcastTo, concat, exp, greater, maximum, minimum, mul, policyLoss, slice, sub, sum } from '../../../ops/index.ts'
import type { PolicyLossOptions } from '../../../ops/index.ts'
import { noGrad, Tensor } from '../../../tensor/index.ts'
import type { ObjectiveInput, ObjectiveOptions, PolicyObjectiveOptions } from './objective.ts'

const lowestLogRatio = Math.log(1e-8)

/** φ of each token's answer: exp(λ + k s - λ eˢ), where s is the log-ratio of policy to sampler of the whole answer. */
function phiOf({ logprob, old, counted, sequences, advantages, samplerLogRatios }: ObjectiveInput, { vespoPos, vespoNeg }: ObjectiveOptions): Tensor {
  const ofRows = sequences.starts.slice(1).map((end, i) => {
    const begin = sequences.starts[i]!
    const part = (x: Tensor): Tensor => slice(x, [begin], [end - begin])
    const difference = old ? sub(part(logprob), part(old)) : mul(part(logprob), 0)
    return sum(mul(minimum(maximum(difference, -20), 20), part(counted)), [0], true)
  })
  const drift = concat(ofRows)
  const s = maximum(minimum(samplerLogRatios ? add(drift, samplerLogRatios) : drift, 20), lowestLogRatio)
  const notNegative = sub(1, greater(0, advantages))
  const choose = (positive: number, negative: number): Tensor => add(mul(notNegative, positive - negative), negative)
  const lambda = choose(Math.max(vespoPos[1], 1e-4), Math.max(vespoNeg[1], 1e-4))
  const phi = exp(sub(add(lambda, mul(choose(vespoPos[0], vespoNeg[0]), s)), mul(lambda, exp(s))))
  return concat(sequences.starts.slice(1).map((end, i) => broadcastTo(slice(phi, [i], [1]), [end - sequences.starts[i]!])))
}

/**
 * VESPO where the kernel's own does not do: with answers of another engine φ is of the policy's ratio to the sampler (TRL's get_gamma_weights), and the KL is
 * weighted by tokens' ratios to the old policy, not by the answer's. So -φ A log p and the KL are two calls.
 */
export function vespoInParts(input: ObjectiveInput, options: ObjectiveOptions, { level, beta, correctedKl }: PolicyObjectiveOptions): { loss: Tensor, statistics: Tensor } {
  const { logprob, sequences, advantages, weights, factors, old, reference } = input
  const phi = noGrad(() => phiOf(input, options))
  const policy = policyLoss(logprob, { objective: 'cispo', cap: 1, sequences, advantages, weights, factors: factors ? mul(phi, factors) : phi })
  const kl = policyLoss(logprob, { objective: 'clip', level, beta, correctedKl, sequences, advantages: mul(advantages, 0), weights, old, reference } as PolicyLossOptions)
  return { loss: add(policy.loss, kl.loss), statistics: kl.statistics }
}
