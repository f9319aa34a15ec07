import type { Batch } from '../../data/index.ts'
import type { BaseOutput, CausalLanguageModel } from '../../models/index.ts'
import { plainHead } from '../../models/outputLayer.ts'
import type { Linear } from '../../nn/index.ts'
import { add, crossEntropy, linearCrossEntropy, linearDivergence, linearLogprob, linearTopDivergence, logitsDivergence, logitsTopDivergence, mul, policyLoss, selectiveLogSoftmax, SequenceStarts, sum, toDtype } from '../../ops/index.ts'
import type { DivergenceOptions, DivergenceResult, RecordedDistributions, Tail } from '../../ops/index.ts'
import { noGrad, Tensor } from '../../tensor/index.ts'
import type { LossResult, Sum } from '../../train/task.ts'
import { featureLoss, type FeatureOptions } from './features.ts'
import { miniLlmAdvantages, type MiniLlmOptions } from './minillm.ts'
import type { RecordedRow } from './recording.ts'
import type { SharedVocabulary, UniversalBatch } from './universalBatch.ts'
import { groupsOfChunk, universalDistances, type UniversalSide } from './universalLoss.ts'

/** A batch with what was recorded of the teacher for its trained places, row after row; or with the same text in the tokens of another tokenizer. */
export interface DistillBatch extends Batch { recorded?: readonly RecordedRow[]; universal?: UniversalBatch }

/** What a distillation loss is made of: divergence, temperature, weights, features. */
export interface LossOptions extends MiniLlmOptions, FeatureOptions {
  objective: 'divergence' | 'minillm' | 'uld'
  beta: number
  temperature: number
  scaleByTemperature: boolean
  alpha: number
  tail: Tail
  rklAdvantage: boolean
  singleStepDecomposition: boolean
  /** Rows of the output layers that both models have. */
  vocabulary: number
  /** Tokens that both vocabularies have, for the hybrid loss of universal logit distillation. */
  hybrid?: SharedVocabulary | undefined
}

/** What the student learns from, and what belongs to the student alone. */
export interface LossParts { student: CausalLanguageModel; teacher: CausalLanguageModel | undefined; projections: readonly Linear[] }

/** The divergence from a live teacher, in chunks where both output layers are plain matrices. */
function liveDivergence(student: CausalLanguageModel, own: Tensor, teacher: CausalLanguageModel, taught: Tensor, labels: Tensor, options: DivergenceOptions): DivergenceResult {
  const [head, teacherHead] = [plainHead(student.lm_head, own), plainHead(teacher.lm_head, taught)]
  if (head && teacherHead) return linearDivergence(head, teacherHead, labels, options)
  return logitsDivergence(student.logits(own), noGrad(() => teacher.logits(taught)), labels, options)
}

/** What was recorded, laid out as the batch is: one row a token, those without a label filled with some ids that do not count. */
function recordedTensors(rows: readonly RecordedRow[], { labels }: Batch, topK: number, like: Tensor): RecordedDistributions {
  const tokens = labels.length
  const [ids, logprobs] = [new Int32Array(tokens * topK), new Float32Array(tokens * topK)]
  let [row, at] = [0, 0]
  for (let t = 0; t < tokens; t++) {
    if (t + 1 >= tokens || labels[t + 1] === -100) {
      for (let i = 0; i < topK; i++) [ids[t * topK + i], logprobs[t * topK + i]] = [i, -Math.log(topK)]
      continue
    }
    while (at >= rows[row]!.ids.length) [row, at] = [row + 1, 0]
    ids.set(rows[row]!.ids.subarray(at, at + topK), t * topK)
    logprobs.set(rows[row]!.logprobs.subarray(at, at + topK), t * topK)
    at += topK
  }
  return { ids: Tensor.from(ids, [tokens, topK], { device: like.device }), logprobs: Tensor.from(logprobs, [tokens, topK], { device: like.device }) }
}

function recordedDivergence(student: CausalLanguageModel, own: Tensor, recorded: RecordedDistributions, labels: Tensor, options: DivergenceOptions & { tail: Tail, vocabulary: number }): DivergenceResult {
  const head = plainHead(student.lm_head, own)
  return head ? linearTopDivergence(head, recorded, labels, options) : logitsTopDivergence(student.logits(own), recorded, labels, options)
}

function logprobs(model: CausalLanguageModel, hidden: Tensor, labels: Tensor, temperature: number): Tensor {
  const head = plainHead(model.lm_head, hidden)
  return (head ? linearLogprob(hidden, head.weight, labels, { temperature, bias: head.bias ?? null }) : selectiveLogSoftmax(model.logits(hidden), labels, { temperature })).logprob
}

/** The policy gradient whose reward is how much likelier the teacher finds a token than the student that wrote it; summed over tokens / numItems. */
function policyTerm(own: Tensor, taught: Tensor, { cuSeqlens, labels }: Batch, numItems: number, options: LossOptions): Tensor {
  const counts = (token: number): boolean => token + 1 < labels.length && labels[token + 1] !== -100
  const weights = Tensor.from(Float32Array.from(labels, (_, token) => counts(token) ? 1 / numItems : 0), own.shape, { device: own.device })
  const advantages = miniLlmAdvantages(own, taught, { cuSeqlens, counts }, options)
  return policyLoss(own, { sequences: new SequenceStarts(cuSeqlens, own.device), advantages, weights }).loss
}

/** The cross-entropy of the labels over `items`, differentiable; of each token, and whether its label has the largest logit where that is known. */
function hardLabels(student: CausalLanguageModel, { lastHiddenState, labels }: BaseOutput, items: number): { loss: Tensor, nll: Tensor, correct?: Tensor } {
  const head = plainHead(student.lm_head, lastHiddenState)
  if (head) return linearCrossEntropy(lastHiddenState, head.weight, labels!, { numItems: items, bias: head.bias ?? null })
  const nll = crossEntropy(student.logits(lastHiddenState), labels!)
  return { loss: mul(sum(nll), 1 / items), nll }
}

/** Universal logit distillation: the teacher reads the same text in its own tokens. */
function universalLoss(student: CausalLanguageModel, teacher: CausalLanguageModel, batch: DistillBatch, aligned: UniversalBatch, items: number, options: LossOptions): LossResult {
  const { alpha, temperature } = options
  const own = student.base({ inputIds: batch.inputIds, labels: batch.labels, cuSeqlens: batch.cuSeqlens })
  const taught = noGrad(() => teacher.base({ inputIds: aligned.inputIds, cuSeqlens: aligned.cuSeqlens })).lastHiddenState
  const side = (model: CausalLanguageModel, hidden: Tensor): UniversalSide => ({ hidden, logits: (rows) => model.logits(rows), logprobs: (ids) => logprobs(model, hidden, ids, temperature) })
  const distances = universalDistances(side(student, own.lastHiddenState), side(teacher, taught), aligned, { ...options, chunkRows: groupsOfChunk(student, teacher) })
  const { weights } = aligned
  const divergence = distances ? sum(mul(distances, Tensor.from(weights, [weights.length], { device: distances.device }))) : mul(sum(toDtype(own.lastHiddenState, 'float32')), 0)
  const hard = (): ReturnType<typeof hardLabels> => hardLabels(student, own, items)
  const { loss, nll, correct } = alpha > 0 ? hard() : noGrad(hard)
  const soft = mul(divergence, (1 - alpha) / items)
  const metric = (value: Tensor): Sum => ({ sum: sum(value.detach()), count: batch.numItems })
  return {
    loss: alpha > 0 ? add(soft, mul(loss, alpha)) : soft,
    sums: { divergence: metric(divergence), nll: metric(nll), ...(correct ? { meanTokenAccuracy: metric(correct) } : {}) },
  }
}

/** The loss of a batch, its sum over trained tokens divided by numItems, and what it is made of. */
export function distillationLoss({ student, teacher, projections }: LossParts, batch: DistillBatch, numItems: number, options: LossOptions): LossResult {
  if (batch.universal) return universalLoss(student, teacher!, batch, batch.universal, Math.max(numItems, 1), options)
  const { objective, temperature, scaleByTemperature, alpha, tail, vocabulary, hiddenLayers, attentionLayers, rklAdvantage, singleStepDecomposition } = options
  const wanted = { outputHiddenStates: hiddenLayers.length > 0, outputAttentions: attentionLayers.length > 0 }
  const input = { inputIds: batch.inputIds, labels: batch.labels, cuSeqlens: batch.cuSeqlens }
  const own: BaseOutput = student.base({ ...input, ...wanted })
  const taught = teacher && noGrad(() => teacher.base({ inputIds: batch.inputIds, cuSeqlens: batch.cuSeqlens, ...wanted }))
  const labels = own.labels!
  const items = Math.max(numItems, 1)
  const isMiniLlm = objective === 'minillm'
  const scale = scaleByTemperature && !isMiniLlm ? temperature ** 2 : 1
  const weights = { beta: isMiniLlm ? 1 : options.beta, temperature, softWeight: isMiniLlm && !singleStepDecomposition ? 0 : (1 - alpha) * scale / items, hardWeight: alpha / items }
  const { loss, divergence, nll, correct } = batch.recorded
    ? recordedDivergence(student, own.lastHiddenState, recordedTensors(batch.recorded, batch, topKOf(batch.recorded), own.lastHiddenState), labels, { ...weights, tail, vocabulary })
    : liveDivergence(student, own.lastHiddenState, teacher!, taught!.lastHiddenState, labels, weights)
  let total = loss
  const sums: NonNullable<LossResult['sums']> = {}
  const report = (name: string, value: Tensor): void => { sums[name] = { sum: sum(value), count: batch.numItems } }
  report('divergence', divergence)
  report('nll', nll)
  report('meanTokenAccuracy', correct)
  if (isMiniLlm && rklAdvantage) {
    total = add(total, policyTerm(logprobs(student, own.lastHiddenState, labels, temperature), noGrad(() => logprobs(teacher!, taught!.lastHiddenState, labels, temperature)), batch, items, options))
  }
  const features = taught ? featureLoss(own, taught, projections, batch.cuSeqlens, labels, options) : null
  if (features) {
    sums['features'] = { sum: mul(features.detach(), 1), count: batch.numItems }
    total = add(total, mul(features, 1 / items))
  }
  return { loss: total, sums }
}

/** k of recorded rows; a batch without a trained place has none. */
const topKOf = (rows: readonly RecordedRow[]): number => Math.max(1, ...rows.map(({ topK }) => topK))
