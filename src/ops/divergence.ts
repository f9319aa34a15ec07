import type { BackwardContext } from '../tensor/autograd.ts'
import { resultsOnly } from '../tensor/scope.ts'
import { Tensor } from '../tensor/tensor.ts'
import { usesHalf } from './compute.ts'
import { oneHot } from './embedding.ts'
import { scaledBy } from './loss.ts'
import { emptyLike, expect, expectDtype, expectShape, fusedOp, shapeText } from './op.ts'
import { add, concat, equal, exp, gather, log, matmul, max, maximum, mul, slice, sub, sum, toDtype } from './primitives.ts'

/** What remains for the tokens that were not recorded is at least this, so that a reverse KL stays finite. */
const leastTail = 2 ** -23

// --- What the divergences mean ---

/** log softmax of each row. */
function logSoftmax(x: Tensor): Tensor {
  const shifted = sub(x, max(x, [-1], true).detach())
  return sub(shifted, log(sum(exp(shifted), [-1], true)))
}

/**
 * @internal The generalised Jensen–Shannon divergence of each row of log-probabilities, [rows]: with M = (1 - beta) S + beta T it is
 * beta KL(T ‖ M) + (1 - beta) KL(S ‖ M); at beta 0 KL(T ‖ S), at beta 1 KL(S ‖ T) (GKD, arXiv 2306.13649).
 */
export function rowDivergence(student: Tensor, teacher: Tensor, beta: number): Tensor {
  const [s, t] = [exp(student), exp(teacher)]
  const total = (p: Tensor, a: Tensor, b: Tensor): Tensor => sum(mul(p, sub(a, b)), [-1])
  if (beta === 0) return total(t, teacher, student)
  if (beta === 1) return total(s, student, teacher)
  const [left, right] = [add(student, Math.log1p(-beta)), add(teacher, Math.log(beta))]
  const top = maximum(left, right).detach()
  const mixture = add(top, log(add(exp(sub(left, top)), exp(sub(right, top)))))
  return add(mul(total(t, teacher, mixture), beta), mul(total(s, student, mixture), 1 - beta))
}

/** 1 in each row at the ids of that row, else 0. */
function chosen(ids: Tensor, like: Tensor): Tensor {
  const mask = Tensor.zeros(like.shape, { dtype: like.dtype, device: like.device })
  const ones = Tensor.ones(ids.shape, { dtype: like.dtype, device: like.device })
  mask.device.kernels.scatter_add_last(mask.handle, ones.handle, ids.handle)
  return mask
}

/** Log-probabilities of the recorded tokens and, behind them, of all others together: the student's and the teacher's, [rows, k + 1]. */
function withTail(logits: Tensor, ids: Tensor, recorded: Tensor, tail: Tail): readonly [Tensor, Tensor] {
  const all = logSoftmax(logits)
  const [student, mass] = [gather(all, ids), sum(exp(recorded), [-1], true)]
  const teacher = tail === 'renormalise' ? sub(recorded, log(mass)) : recorded
  if (ids.dim(1) === logits.dim(1)) return [student, teacher]
  const others = add(all, mul(chosen(ids, logits), -1e4))
  const top = max(others, [-1], true).detach()
  const rest = add(top, log(sum(exp(sub(others, top)), [-1], true)))
  // Where nothing is left to the teacher, exp() of this is 0 and its product with a finite number too.
  const restOfTeacher = tail === 'renormalise' ? Tensor.full(rest.shape, -1e4, { dtype: rest.dtype, device: rest.device }) : log(maximum(sub(1, mass), leastTail))
  return [concat([student, rest], -1), concat([teacher, restOfTeacher], -1)]
}

/** Of each label among the first `vocabulary` logits: negative log-likelihood, and whether it is the largest. */
function hardTerms(logits: Tensor, labels: Tensor, counted: Tensor): readonly [Tensor, Tensor] {
  const hot = oneHot(labels, logits.dim(1), logits.dtype)
  const pick = (x: Tensor): Tensor => sum(mul(x, hot), [-1])
  const correct = equal(pick(logits), max(logits, [-1]))
  return [mul(sub(0, pick(logSoftmax(logits))), counted), mul(correct, counted).detach()]
}

// --- The operations ---

/** Hidden states [tokens, width] and the output layer that makes logits of them: weight [vocabulary, width], bias [vocabulary]. */
export interface OutputLayer { hidden: Tensor; weight: Tensor; bias?: Tensor | null }

/** How a divergence treats the tokens that were not recorded: as one, with the mass that is left; or the recorded ones are made to sum to 1. */
export type Tail = 'bucket' | 'renormalise'

/** What `linearDivergence` takes: which divergence, its temperature, and the weights of soft and hard loss. */
export interface DivergenceOptions {
  /** 0, the default, is the forward KL(T ‖ S), 1 the reverse KL(S ‖ T), between them the generalised Jensen–Shannon divergence. */
  beta?: number
  /** Both distributions are softmax(logits / temperature). Default 1. */
  temperature?: number
  /** Multiplies the sum of divergences in the loss. Default 1. */
  softWeight?: number
  /** Multiplies the sum of negative log-likelihoods (of temperature 1) in the loss. Default 0. */
  hardWeight?: number
}

/** What `linearDivergence` and `linearTopDivergence` give. */
export interface DivergenceResult {
  /** softWeight × sum(divergence) + hardWeight × sum(nll), []. Differentiable in the student. */
  loss: Tensor
  /** Of each token, float32 [tokens]; 0 where ignored. Not differentiable. */
  divergence: Tensor
  /** Of each label among the vocabulary that both have, float32 [tokens]. Not differentiable. */
  nll: Tensor
  /** 1 where the label has the student's largest logit, float32 [tokens]. */
  correct: Tensor
}

interface Weights { beta: number; temperature: number; softWeight: number; hardWeight: number }

function checkOptions(operation: string, { beta = 0, temperature = 1, softWeight = 1, hardWeight = 0 }: DivergenceOptions): Weights {
  expect(beta >= 0 && beta <= 1, operation, () => `beta must be from 0 (forward KL) to 1 (reverse KL), but is ${beta}`)
  expect(temperature > 0 && temperature < Infinity, operation, () => `temperature must be above 0, but is ${temperature}; 1 leaves the logits as they are`)
  return { beta, temperature, softWeight, hardWeight }
}

function checkLayer(operation: string, what: string, { hidden, weight, bias }: OutputLayer, tokens: number): void {
  expect(hidden.rank === 2 && hidden.dim(0) === tokens, operation, () => `${what}.hidden must have shape [${tokens}, width], one row per label, but has ${shapeText(hidden.shape)}`)
  expect(weight.rank === 2 && weight.dim(1) === hidden.dim(1), operation, () => `${what}.weight must have shape [vocabulary, ${hidden.dim(1)}], but has ${shapeText(weight.shape)}`)
  if (bias) expectShape(operation, `${what}.bias`, bias, [weight.dim(0)], 'one per row of weight')
}

/** Logits of the first `vocabulary` tokens. */
function logitsOf({ hidden, weight, bias }: OutputLayer, vocabulary: number): Tensor {
  const rows = weight.dim(0) === vocabulary ? weight : slice(weight, [0, 0], [vocabulary, weight.dim(1)])
  const product = matmul(hidden, rows, { transposeB: true })
  return bias ? add(product, slice(bias, [0], [vocabulary])) : product
}

function resultOf(logits: Tensor, labels: Tensor, divergences: (scaled: Tensor) => Tensor, { temperature, softWeight, hardWeight }: Weights): DivergenceResult {
  const counted = sub(1, equal(toDtype(labels, logits.dtype), -100))
  const divergence = mul(divergences(mul(logits, 1 / temperature)), counted)
  const [nll, correct] = hardTerms(logits, labels, counted)
  return { loss: add(mul(sum(divergence), softWeight), mul(sum(nll), hardWeight)), divergence: divergence.detach(), nll: nll.detach(), correct }
}

type Results = readonly [loss: Tensor, divergence: Tensor, nll: Tensor, correct: Tensor]
const resultsOf = ({ loss, divergence, nll, correct }: DivergenceResult): Results => [loss, divergence, nll, correct]
const namedResults = ([loss, divergence, nll, correct]: Results): DivergenceResult => ({ loss, divergence, nll, correct })

type StudentInputs = readonly [hidden: Tensor, weight: Tensor, bias: Tensor | null]

interface Buffers { handles: readonly [divergence: number, nll: number, correct: number, dhidden: number, dweight: number, dbias: number]; finish: (save: (...tensors: Tensor[]) => void) => Results }

/** What a kernel writes: numbers of each token, and the student's gradients, known up to the factor that backward brings. */
function buffersFor([hidden, weight, bias]: StudentInputs, { softWeight, hardWeight }: Weights, wanted: (i: number) => boolean): Buffers {
  const perToken = (): Tensor => emptyLike(hidden, [hidden.dim(0)], 'float32')
  const [each, nll, correct] = [perToken(), perToken(), perToken()]
  const dhidden = wanted(0) ? emptyLike(hidden) : null
  const dweight = wanted(1) ? emptyLike(weight, weight.shape, 'float32') : null
  const dbias = bias && wanted(2) ? emptyLike(bias, bias.shape, 'float32') : null
  return {
    handles: [each.handle, nll.handle, correct.handle, dhidden?.handle ?? 0, dweight?.handle ?? 0, dbias?.handle ?? 0],
    finish(save) {
      save(...[dhidden, dweight, dbias].filter((tensor) => tensor !== null))
      return [add(mul(sum(each), softWeight), mul(sum(nll), hardWeight)), each, nll, correct]
    },
  }
}

function giveStudentGradients(context: BackwardContext, dloss: Tensor | null | undefined): void {
  let next = 0
  for (const i of [0, 1, 2]) {
    if (context.needs(i)) context.give(i, scaledBy(context.saved[next++]!, dloss))
  }
}

type LiveInputs = readonly [...StudentInputs, teacherHidden: Tensor, teacherWeight: Tensor, teacherBias: Tensor | null, labels: Tensor]

const liveOp = fusedOp<LiveInputs, Weights & { half: boolean; teacherHalf: boolean }, Results>({
  name: 'linear_divergence',
  differentiable: 1,
  definition([hidden, weight, bias, teacherHidden, teacherWeight, teacherBias, labels], weights) {
    const vocabulary = Math.min(weight.dim(0), teacherWeight.dim(0))
    const taught = logSoftmax(mul(logitsOf({ hidden: teacherHidden, weight: teacherWeight, bias: teacherBias }, vocabulary), 1 / weights.temperature)).detach()
    return resultsOf(resultOf(logitsOf({ hidden, weight, bias }, vocabulary), labels, (scaled) => rowDivergence(logSoftmax(scaled), taught, weights.beta), weights))
  },
  forward([hidden, weight, bias, teacherHidden, teacherWeight, teacherBias, labels], weights, save, wanted) {
    const { beta, temperature, softWeight, hardWeight, half, teacherHalf } = weights
    const { handles, finish } = buffersFor([hidden, weight, bias], weights, wanted)
    hidden.device.kernels.linear_divergence(...handles, hidden.handle, weight.handle, bias?.handle ?? 0, teacherHidden.handle, teacherWeight.handle,
      teacherBias?.handle ?? 0, labels.handle, beta, temperature, softWeight, hardWeight, false, half, teacherHalf)
    return finish(save)
  },
  backward([dloss], context) { giveStudentGradients(context, dloss) },
})

type TopInputs = readonly [...StudentInputs, ids: Tensor, logprobs: Tensor, labels: Tensor]

const topOp = fusedOp<TopInputs, Weights & { tail: Tail; vocabulary: number; half: boolean }, Results>({
  name: 'linear_top_divergence',
  differentiable: 1,
  definition([hidden, weight, bias, ids, logprobs, labels], { tail, vocabulary, ...weights }) {
    return resultsOf(resultOf(logitsOf({ hidden, weight, bias }, vocabulary), labels, topDivergences({ ids, logprobs }, tail, weights), weights))
  },
  forward([hidden, weight, bias, ids, logprobs, labels], weights, save, wanted) {
    const { beta, temperature, softWeight, hardWeight, tail, vocabulary, half } = weights
    const { handles, finish } = buffersFor([hidden, weight, bias], weights, wanted)
    hidden.device.kernels.linear_top_divergence(...handles, hidden.handle, weight.handle, bias?.handle ?? 0, ids.handle, logprobs.handle, labels.handle,
      vocabulary, beta, temperature, softWeight, hardWeight, tail === 'renormalise', false, half)
    return finish(save)
  },
  backward([dloss], context) { giveStudentGradients(context, dloss) },
})

/**
 * How far a student's distributions are from a teacher's, from the hidden states of both. labels int32 [tokens], already shifted: a token of label
 * -100 is left out. Of vocabularies of different sizes the rows that only one has are padding and count for nothing. Equals TRL's
 * GKDTrainer.generalized_jsd_loss before its mean over tokens.
 */
export function linearDivergence(student: OutputLayer, teacher: OutputLayer, labels: Tensor, options: DivergenceOptions = {}): DivergenceResult {
  const operation = 'linearDivergence'
  const weights = checkOptions(operation, options)
  expectDtype(operation, 'labels', labels, 'int32')
  checkLayer(operation, 'student', student, labels.size)
  checkLayer(operation, 'teacher', teacher, labels.size)
  const half = usesHalf(student.hidden.dtype, student.weight.dtype)
  return namedResults(liveOp([student.hidden, student.weight, student.bias ?? null, teacher.hidden, teacher.weight, teacher.bias ?? null, labels], {
    ...weights, half, teacherHalf: usesHalf(teacher.hidden.dtype, teacher.weight.dtype),
  }))
}

/** What is known of a teacher's distributions at some temperature: ids int32 [tokens, k], each once in a row, and their log-probabilities [tokens, k]. */
export interface RecordedDistributions { ids: Tensor; logprobs: Tensor }

/** What `linearTopDivergence` takes: also what becomes of the probability outside the recorded tokens. */
export interface TopDivergenceOptions extends DivergenceOptions {
  /** Default 'bucket'. */
  tail?: Tail
  /** Rows of the student's weight from there on are padding. Default: all count. */
  vocabulary?: number
}

function checkRecorded(operation: string, rows: number, { ids, logprobs }: RecordedDistributions, labels: Tensor, { tail = 'bucket', vocabulary = rows }: TopDivergenceOptions, { beta }: Weights): { tail: Tail, vocabulary: number } {
  expectDtype(operation, 'ids', ids, 'int32')
  expect(vocabulary >= 1 && vocabulary <= rows, operation, () => `vocabulary must be from 1 to ${rows}, what the student has, but is ${vocabulary}`)
  expect(ids.rank === 2 && ids.dim(0) === labels.size && ids.dim(1) >= 1 && ids.dim(1) <= vocabulary, operation, () => `ids must have shape [${labels.size}, k], k from 1 to ${vocabulary}, but has ${shapeText(ids.shape)}`)
  expectShape(operation, 'logprobs', logprobs, ids.shape, 'that of ids')
  expect(tail === 'bucket' || beta < 1 || ids.dim(1) === vocabulary, operation, () => "beta is 1, but the reverse KL is infinite where the teacher has no mass; use tail 'bucket'")
  return { tail, vocabulary }
}

const topDivergences = ({ ids, logprobs }: RecordedDistributions, tail: Tail, { beta }: Weights) => (scaled: Tensor): Tensor => {
  const [own, taught] = withTail(scaled, ids, logprobs.detach(), tail)
  return rowDivergence(own, taught, beta)
}

/**
 * linearDivergence() from a teacher's most probable tokens alone, recorded at the same temperature. With the teacher's mass d on the other tokens,
 * the gradient of a token's logits differs from the live teacher's by at most 2 d / temperature in the L1 norm at beta 0; with tail 'bucket' the
 * divergence is never more than the live one.
 */
export function linearTopDivergence(student: OutputLayer, recorded: RecordedDistributions, labels: Tensor, options: TopDivergenceOptions = {}): DivergenceResult {
  const operation = 'linearTopDivergence'
  const weights = checkOptions(operation, options)
  expectDtype(operation, 'labels', labels, 'int32')
  checkLayer(operation, 'student', student, labels.size)
  const { tail, vocabulary } = checkRecorded(operation, student.weight.dim(0), recorded, labels, options, weights)
  const half = usesHalf(student.hidden.dtype, student.weight.dtype)
  return namedResults(topOp([student.hidden, student.weight, student.bias ?? null, recorded.ids, recorded.logprobs, labels], { ...weights, tail, vocabulary, half }))
}

/** linearDivergence() from logits [tokens, vocabulary] of both, where an output layer is not a plain matrix. */
export function logitsDivergence(student: Tensor, teacher: Tensor, labels: Tensor, options: DivergenceOptions = {}): DivergenceResult {
  const operation = 'logitsDivergence'
  const weights = checkOptions(operation, options)
  const vocabulary = Math.min(student.dim(-1), teacher.dim(-1))
  return resultsOnly(() => {
    const taught = logSoftmax(mul(firstColumns(operation, 'teacher', teacher, labels, vocabulary), 1 / weights.temperature)).detach()
    return resultOf(firstColumns(operation, 'student', student, labels, vocabulary), labels, (scaled) => rowDivergence(logSoftmax(scaled), taught, weights.beta), weights)
  })
}

/** linearTopDivergence() from logits [tokens, vocabulary]. */
export function logitsTopDivergence(student: Tensor, recorded: RecordedDistributions, labels: Tensor, options: TopDivergenceOptions = {}): DivergenceResult {
  const operation = 'logitsTopDivergence'
  const weights = checkOptions(operation, options)
  const { tail, vocabulary } = checkRecorded(operation, student.dim(-1), recorded, labels, options, weights)
  return resultsOnly(() => resultOf(firstColumns(operation, 'student', student, labels, vocabulary), labels, topDivergences(recorded, tail, weights), weights))
}

function firstColumns(operation: string, what: string, logits: Tensor, labels: Tensor, vocabulary: number): Tensor {
  expectDtype(operation, 'labels', labels, 'int32')
  expect(logits.rank === 2 && logits.dim(0) === labels.size, operation, () => `${what} must have shape [${labels.size}, vocabulary], one row per label, but has ${shapeText(logits.shape)}`)
  return logits.dim(1) === vocabulary ? logits : slice(logits, [0, 0], [labels.size, vocabulary])
}
