import { mul, sum } from '../../../ops/index.ts'
import { Tensor } from '../../../tensor/index.ts'
import { differences, relu } from './math.ts'

/** A ranked group of responses: the scores of one query, in the order of its responses. */
export type RankedScores = readonly number[]

/** The index of the best response; of equal ones the first. */
export const bestOf = (scores: RankedScores): number => scores.reduce((best, score, i) => (score > scores[best]! ? i : best), 0)

/**
 * The ranking loss of RRHF (arXiv 2304.05302), []: the sum of max(0, p_i - p_j) over the pairs of one query with s_i < s_j; equal scores make no
 * pair. `p` [responses] holds length-normalised log-probabilities, the responses of all queries one after another.
 */
export function rankLoss(p: Tensor, queries: readonly RankedScores[]): Tensor {
  const n = p.size
  const worse = new Float64Array(n * n)
  let begin = 0
  for (const scores of queries) {
    for (const [i, a] of scores.entries()) for (const [j, b] of scores.entries()) if (a < b) worse[(begin + i) * n + begin + j] = 1
    begin += scores.length
  }
  return sum(mul(relu(differences(p)), Tensor.from(worse, [n, n], { dtype: p.dtype, device: p.device })))
}
