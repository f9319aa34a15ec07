import { resultsOnly } from '../tensor/scope.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { rowDivergence } from './divergence.ts'
import { embedding } from './embedding.ts'
import { expect, shapeText } from './op.ts'
import { abs, add, log, maximum, mul, reshape, slice, sub, sum, transpose } from './primitives.ts'
import { topK } from './topK.ts'

/** Least probability of which TRL takes the logarithm. */
const leastProbability = 1e-8

/** Tokens that two vocabularies write alike: int32 ids of either, one beside the other, and masks [vocabulary] with 1 at all other tokens. */
export interface Overlap {
  student: Tensor
  teacher: Tensor
  studentOthers: Tensor
  teacherOthers: Tensor
  /** Of the divergence of tokens that both have. */
  matchedWeight: number
  /** Of the distance of the others. */
  unmatchedWeight: number
}

/** What `universalDivergence` takes: universal logit distillation between two vocabularies. */
export interface UniversalOptions {
  /** Compare the tokens that both vocabularies have one by one, and only the others by their order. */
  overlap?: Overlap
  /** Of the generalised Jensen–Shannon divergence of tokens that both have. Default 0.5. */
  beta?: number
}

/** Each row from its largest number to its smallest. */
const sorted = (x: Tensor): Tensor => topK(x, x.dim(1)).value

/** The sum of the differences between the k-th largest of either, [rows]; a shorter row goes on with zeros. Neither has numbers below 0. */
function sortedDistance(student: Tensor, teacher: Tensor): Tensor {
  const [a, b] = [sorted(student), sorted(teacher)]
  const rows = a.dim(0)
  const shared = Math.min(a.dim(1), b.dim(1))
  const part = (x: Tensor, from: number, to: number): Tensor => from === 0 && to === x.dim(1) ? x : slice(x, [0, from], [rows, to - from])
  const distance = sum(abs(sub(part(a, 0, shared), part(b, 0, shared))), [-1])
  const longer = a.dim(1) > shared ? a : b
  return longer.dim(1) === shared ? distance : add(distance, sum(part(longer, shared, longer.dim(1)), [-1]))
}

/** The columns `ids` of x, [rows, ids]. */
const columns = (x: Tensor, ids: Tensor): Tensor => transpose(embedding(transpose(x), ids))

/**
 * How far a student's distributions are from those of a teacher with another vocabulary, [rows]: probabilities [rows, vocabulary] of both, sorted, and the sum
 * of the differences (universal logit distillation, arXiv 2402.12030). With `overlap` the divergence of the tokens that both vocabularies have and the sorted
 * distance of the others, weighted. Rows need not sum to 1. Equals TRL's ULDLoss before its mean over rows. Differentiable in the student.
 */
export function universalDivergence(student: Tensor, teacher: Tensor, { overlap, beta = 0.5 }: UniversalOptions = {}): Tensor {
  expect(student.rank === 2 && teacher.rank === 2 && student.dim(0) === teacher.dim(0), 'universalDivergence',
    () => `student and teacher must have shape [rows, vocabulary], as many rows each, but have ${shapeText(student.shape)} and ${shapeText(teacher.shape)}`)
  return resultsOnly(() => {
    const taught = teacher.detach()
    if (!overlap) return sortedDistance(student, taught)
    const { matchedWeight, unmatchedWeight, studentOthers, teacherOthers } = overlap
    const only = (x: Tensor, mask: Tensor): Tensor => mul(x, reshape(mask, [1, mask.size]))
    const logs = (x: Tensor, ids: Tensor): Tensor => log(maximum(columns(x, ids), leastProbability))
    const parts: Tensor[] = []
    if (matchedWeight > 0 && overlap.student.size > 0) parts.push(mul(rowDivergence(logs(student, overlap.student), logs(taught, overlap.teacher), beta), matchedWeight))
    // As in TRL, tokens of one vocabulary alone have nothing to be compared with.
    const both = student.dim(1) > overlap.student.size && teacher.dim(1) > overlap.teacher.size
    if (unmatchedWeight > 0 && both) parts.push(mul(sortedDistance(only(student, studentOthers), only(taught, teacherOthers)), unmatchedWeight))
    return parts.length > 0 ? parts.reduce(add) : mul(sum(student, [-1]), 0)
  })
}
