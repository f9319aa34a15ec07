import type { CausalLanguageModel } from '../../models/index.ts'
import { concat, embedding, exp, gather, maximum, mul, reshape, slice, softmax, sum, toDtype, universalDivergence, type Overlap } from '../../ops/index.ts'
import { checkpoint, noGrad, Tensor } from '../../tensor/index.ts'
import type { GroupPlaces, SharedVocabulary, UniversalBatch } from './universalBatch.ts'

/** One side of the comparison: hidden states [tokens, width], logits of some of them, and log-probabilities [tokens] of ids. */
export interface UniversalSide {
  hidden: Tensor
  logits: (rows: Tensor) => Tensor
  logprobs: (ids: Tensor) => Tensor
}

export interface UniversalLossOptions {
  temperature: number
  /** Of the divergence of tokens that both vocabularies have. */
  beta: number
  hybrid?: SharedVocabulary | undefined
  /** Groups that are compared at a time. Default all. */
  chunkRows?: number
}

/** Least probability of a token that multiplies its group's distribution, as in TRL. */
const leastFactor = Math.log(1e-8)

/** The product of the probabilities of a group's other tokens, [groups]; null where no group has any. */
function factorsOf({ hidden, logprobs }: UniversalSide, { factorIds, factors }: GroupPlaces): Tensor | null {
  const most = factors.reduce((length, one) => Math.max(length, one.length), 0)
  if (most === 0) return null
  const { device } = hidden
  const shape = [factors.length, most]
  const [place, mask] = [new Int32Array(factors.length * most), new Float32Array(factors.length * most)]
  factors.forEach((places, group) => { places.forEach((token, i) => { place[group * most + i] = token; mask[group * most + i] = 1 }) })
  const all = maximum(logprobs(Tensor.from(factorIds, [factorIds.length], { device })), leastFactor)
  const own = reshape(gather(reshape(all, [1, all.size]), Tensor.from(place, [1, place.length], { device })), shape)
  return exp(sum(mul(own, Tensor.from(mask, shape, { dtype: all.dtype, device })), [-1]))
}

/** Tensors of both vocabularies' size that a chunk has alive together, at most. */
const chunkCopies = 10

/** Groups of a chunk, so that it takes less than 64 MiB on a CPU and 512 MiB on a GPU, where small products wait for memory. */
export function groupsOfChunk(student: CausalLanguageModel, teacher: CausalLanguageModel): number {
  const budget = student.device.name === 'cpu' ? 60 << 20 : 512 << 20
  return Math.max(1, Math.floor(budget / (4 * chunkCopies * (student.config.vocabSize + teacher.config.vocabSize))))
}

function overlapOf({ student, teacher, ...weights }: SharedVocabulary, rows: { student: number, teacher: number }, like: Tensor): Overlap {
  const ids = (values: Int32Array): Tensor => Tensor.from(values, [values.length], { device: like.device })
  const others = (values: Int32Array, size: number): Tensor => {
    const mask = new Float32Array(size).fill(1)
    for (const id of values) mask[id] = 0
    return Tensor.from(mask, [size], { dtype: like.dtype, device: like.device })
  }
  return { ...weights, student: ids(student), teacher: ids(teacher), studentOthers: others(student, rows.student), teacherOthers: others(teacher, rows.teacher) }
}

/**
 * The distance of each group's distributions, [groups], computed from hidden states in chunks of groups: the logits of all tokens never exist, and the
 * backward pass computes each chunk anew. Differentiable in the student. Null where there is no group.
 */
export function universalDistances(student: UniversalSide, teacher: UniversalSide, batch: Pick<UniversalBatch, 'student' | 'teacher'>, options: UniversalLossOptions): Tensor | null {
  const { temperature, beta, hybrid, chunkRows = batch.student.base.length } = options
  const groups = batch.student.base.length
  if (groups === 0) return null
  const factors = [factorsOf(student, batch.student), noGrad(() => factorsOf(teacher, batch.teacher))] as const
  const chunks: Tensor[] = []
  for (let at = 0; at < groups; at += chunkRows) {
    const count = Math.min(chunkRows, groups - at)
    const rowsAt = ({ hidden }: UniversalSide, { base }: GroupPlaces): Tensor => embedding(hidden, Tensor.from(base.slice(at, at + count), [count], { device: hidden.device }))
    const probabilities = ({ logits }: UniversalSide, rows: Tensor, factor: Tensor | undefined): Tensor => {
      const all = logits(rows)
      const own = softmax(mul(all.dtype === 'float64' ? all : toDtype(all, 'float32'), 1 / temperature))
      return factor ? mul(own, reshape(factor, [count, 1])) : own
    }
    const part = (factor: Tensor | null): Tensor[] => factor ? [slice(factor, [at], [count])] : []
    const taughtRows = noGrad(() => rowsAt(teacher, batch.teacher))
    const taughtFactor = noGrad(() => part(factors[1]))
    chunks.push(checkpoint((rows, factor) => {
      const taught = noGrad(() => probabilities(teacher, taughtRows, taughtFactor[0]))
      const own = probabilities(student, rows, factor)
      return universalDivergence(own, taught, { beta, ...(hybrid ? { overlap: overlapOf(hybrid, { student: own.dim(1), teacher: taught.dim(1) }, own) } : {}) })
    }, rowsAt(student, batch.student), ...part(factors[0])))
  }
  return concat(chunks)
}
