import { isImpliedOne } from '../tensor/autograd.ts'
import { Tensor } from '../tensor/tensor.ts'
import { usesHalf } from './compute.ts'
import { oneHot } from './embedding.ts'
import { emptyLike, expect, expectDtype, expectShape, fusedOp, gradientOr, shapeText } from './op.ts'
import { add, equal, exp, log, matmul, max, mean, mul, reshape, sub, sum, tanh, toDtype } from './primitives.ts'

/** The label of a token that does not count, as in PyTorch and transformers. */
export const ignoreIndex = -100

// --- What the losses mean ---

/** log(sum(exp(x))) of each row, [rows, 1]. */
function logSumExp(x: Tensor): Tensor {
  const top = max(x, [-1], true).detach()
  return add(log(sum(exp(sub(x, top)), [-1], true)), top)
}

/** 1 for tokens that count, 0 for ignored ones. */
const counted = (labels: Tensor, like: Tensor): Tensor => sub(1, equal(toDtype(labels, like.dtype), ignoreIndex))

function nllDefinition(logits: Tensor, labels: Tensor, smoothing: number): Tensor {
  const chosen = sum(mul(logits, oneHot(labels, logits.dim(1), logits.dtype)), [-1])
  const lse = reshape(logSumExp(logits), [logits.dim(0)])
  const smooth = add(mul(chosen, 1 - smoothing), mul(mean(logits, [-1]), smoothing))
  return mul(sub(lse, smooth), counted(labels, logits))
}

function logitsDefinition(hidden: Tensor, weight: Tensor, bias: Tensor | null, softCap: number): Tensor {
  const product = matmul(hidden, weight, { transposeB: true })
  const logits = bias ? add(product, bias) : product
  return softCap > 0 ? mul(tanh(mul(logits, 1 / softCap)), softCap) : logits
}

function logprobDefinition(logits: Tensor, id: Tensor, temperature: number): readonly [Tensor, Tensor] {
  const scaled = mul(logits, 1 / temperature)
  const lse = logSumExp(scaled)
  const rows = [logits.dim(0)]
  const live = counted(id, logits)
  const logprob = mul(sub(sum(mul(scaled, oneHot(id, logits.dim(1), logits.dtype)), [-1]), reshape(lse, rows)), live)
  const probability = exp(sub(scaled, lse))
  const entropy = mul(sub(reshape(lse, rows), sum(mul(probability, scaled), [-1])), live)
  return [logprob, entropy]
}

// --- Cross-entropy from logits ---

const crossEntropyOp = fusedOp<readonly [Tensor, Tensor], { smoothing: number }, Tensor>({
  name: 'cross_entropy',
  definition: ([logits, labels], { smoothing }) => nllDefinition(logits, labels, smoothing),
  forward([logits, labels], { smoothing }, save) {
    const [nll, lse] = [emptyLike(logits, [logits.dim(0)], 'float32'), emptyLike(logits, [logits.dim(0)], 'float32')]
    logits.device.kernels.cross_entropy(nll.handle, lse.handle, logits.handle, labels.handle, smoothing)
    save(logits, lse, labels)
    return nll
  },
  backward([dnll], context, { smoothing }) {
    const [logits, lse, labels] = context.saved as [Tensor, Tensor, Tensor]
    const dlogits = emptyLike(logits)
    dlogits.device.kernels.cross_entropy_backward(dlogits.handle, dnll!.handle, logits.handle, lse.handle, labels.handle, smoothing)
    context.give(0, dlogits)
  },
})

/**
 * Negative log-likelihood of each label, float32 [tokens]; logits [tokens, vocabulary], labels int32 [tokens], -100 gives 0. With label smoothing
 * e it is (1 - e) nll + e (lse - mean(logits)). Equals torch's cross_entropy(reduction='none').
 */
export function crossEntropy(logits: Tensor, labels: Tensor, { labelSmoothing = 0 }: { labelSmoothing?: number } = {}): Tensor {
  expect(logits.rank === 2, 'crossEntropy', () => `logits must have shape [tokens, vocabulary], but has ${shapeText(logits.shape)}`)
  expectShape('crossEntropy', 'labels', labels, [logits.dim(0)], 'one per row of logits')
  expectDtype('crossEntropy', 'labels', labels, 'int32')
  return crossEntropyOp([logits, labels], { smoothing: labelSmoothing })
}

// --- Cross-entropy from hidden states ---

/** What `linearCrossEntropy` takes beside hidden states, weight and labels. */
export interface LinearCrossEntropyOptions {
  labelSmoothing?: number
  /** Logits become softCap * tanh(logits / softCap) (Gemma 2); 0 is no cap. */
  softCap?: number
  /** The loss is the sum over tokens divided by this; the number of labels that count over the whole optimizer step, usually. 1 by default. */
  numItems?: number
}

/** The parameter's gradient as the kernel wants it: where to write, and whether to add to what is there. */
interface Place { handle: number; accumulate: boolean }

const linearOp = fusedOp<readonly [Tensor, Tensor, Tensor | null, Tensor], { smoothing: number; softCap: number; numItems: number; half: boolean }, readonly [Tensor, Tensor, Tensor]>({
  name: 'linear_cross_entropy',
  differentiable: 1,
  definition([hidden, weight, bias, labels], { smoothing, softCap, numItems }) {
    const logits = logitsDefinition(hidden, weight, bias, softCap)
    const nll = nllDefinition(logits, labels, smoothing)
    const top = max(logits, [-1], true).detach()
    const chosen = sum(mul(logits, oneHot(labels, logits.dim(1), logits.dtype)), [-1], true).detach()
    return [mul(sum(nll), 1 / numItems), nll.detach(), mul(reshape(equal(chosen, top), [logits.dim(0)]), counted(labels, logits)).detach()]
  },
  forward([hidden, weight, bias, labels], { smoothing, softCap, numItems, half }, save, wanted) {
    const tokens = [hidden.dim(0)]
    const [nll, correct] = [emptyLike(hidden, tokens, 'float32'), emptyLike(hidden, tokens, 'float32')]
    // The loss is a sum, so its gradient is known up to the factor that backward brings. Computing it now, while a part of the logits is at hand,
    // saves computing the logits again: three products of tokens × width × vocabulary instead of four.
    const dhidden = wanted(0) ? emptyLike(hidden) : null
    const dweight = wanted(1) ? emptyLike(weight, weight.shape, 'float32') : null
    const dbias = bias && wanted(2) ? emptyLike(bias, bias.shape, 'float32') : null
    hidden.device.kernels.linear_cross_entropy(nll.handle, correct.handle, dhidden?.handle ?? 0, dweight?.handle ?? 0, dbias?.handle ?? 0,
      hidden.handle, weight.handle, bias?.handle ?? 0, labels.handle, smoothing, softCap, 1 / numItems, false, half)
    const total = mul(sum(nll), 1 / numItems)
    save(...[dhidden, dweight, dbias].filter((tensor) => tensor !== null))
    return [total, nll, correct]
  },
  backward([dloss], context) {
    let next = 0
    for (const i of [0, 1, 2]) {
      if (context.needs(i)) context.give(i, scaledBy(context.saved[next++]!, dloss))
    }
  },
})

/** gradient * factor []; the factor of 1 with which backward() starts costs nothing. */
export function scaledBy(gradient: Tensor, factor: Tensor | null | undefined): Tensor {
  if (!factor) return Tensor.zeros(gradient.shape, { dtype: gradient.dtype, device: gradient.device })
  return isImpliedOne(factor) ? gradient : mul(gradient, toDtype(factor, gradient.dtype))
}

/** What `linearCrossEntropy` gives. */
export interface LinearCrossEntropyResult {
  /** sum(nll) / numItems, []. Differentiable. */
  loss: Tensor
  /** Of each token, float32 [tokens]; 0 where ignored. Not differentiable. */
  nll: Tensor
  /** 1 where the label has the largest logit, float32 [tokens]. Not differentiable. */
  correct: Tensor
}

/**
 * The language-model loss from hidden states [tokens, width] and the output embedding [vocabulary, width] (bias [vocabulary]), a part of the logits at
 * a time: tokens × vocabulary never exists. labels int32 [tokens], already shifted; -100 is ignored.
 */
export function linearCrossEntropy(
  hidden: Tensor, weight: Tensor, labels: Tensor, { labelSmoothing = 0, softCap = 0, numItems = 1, bias = null }: LinearCrossEntropyOptions & { bias?: Tensor | null } = {},
): LinearCrossEntropyResult {
  checkHead('linearCrossEntropy', hidden, weight, bias, labels, 'labels')
  const attributes = { smoothing: labelSmoothing, softCap, numItems, half: usesHalf(hidden.dtype, weight.dtype) }
  const [loss, nll, correct] = linearOp([hidden, weight, bias, labels], attributes)
  return { loss, nll, correct }
}

function checkHead(operation: string, hidden: Tensor, weight: Tensor, bias: Tensor | null, ids: Tensor, what: string): void {
  expect(hidden.rank === 2, operation, () => `hidden must have shape [tokens, width], but has ${shapeText(hidden.shape)}`)
  expect(weight.rank === 2 && weight.dim(1) === hidden.dim(1), operation, () => `weight must have shape [vocabulary, ${hidden.dim(1)}], but has ${shapeText(weight.shape)}`)
  if (bias) expectShape(operation, 'bias', bias, [weight.dim(0)], 'one per row of weight')
  expectShape(operation, what, ids, [hidden.dim(0)], 'one per row of hidden')
  expectDtype(operation, what, ids, 'int32')
}

// --- Log-probabilities of given tokens ---

const selectiveOp = fusedOp<readonly [Tensor, Tensor], { temperature: number }, readonly [Tensor, Tensor]>({
  name: 'selective_log_softmax',
  definition: ([logits, id], { temperature }) => logprobDefinition(logits, id, temperature),
  forward([logits, id], { temperature }, save) {
    const rows = [logits.dim(0)]
    const [logprob, entropy, lse] = [emptyLike(logits, rows, 'float32'), emptyLike(logits, rows, 'float32'), emptyLike(logits, rows, 'float32')]
    logits.device.kernels.selective_log_softmax(logprob.handle, entropy.handle, lse.handle, logits.handle, id.handle, temperature)
    save(logits, id, entropy, lse)
    return [logprob, entropy]
  },
  backward([dlogprob, dentropy], context, { temperature }) {
    const [logits, id, entropy, lse] = context.saved as [Tensor, Tensor, Tensor, Tensor]
    const dlogits = emptyLike(logits)
    dlogits.device.kernels.selective_log_softmax_backward(dlogits.handle, gradientOr(dlogprob, lse.shape, lse).handle, dentropy?.handle ?? 0,
      logits.handle, id.handle, entropy.handle, lse.handle, temperature)
    context.give(0, dlogits)
  },
})

/** What `selectiveLogSoftmax` and `linearLogprob` give. */
export interface LogprobResult {
  /** log p(id), float32 [tokens]; 0 where id is -100. */
  logprob: Tensor
  /** Of the whole distribution, float32 [tokens]. */
  entropy: Tensor
}

/** log softmax(logits / temperature) of the given ids, and the entropy; logits [tokens, vocabulary], id int32 [tokens]. TRL's selective_log_softmax. */
export function selectiveLogSoftmax(logits: Tensor, id: Tensor, { temperature = 1 }: { temperature?: number } = {}): LogprobResult {
  expect(logits.rank === 2, 'selectiveLogSoftmax', () => `logits must have shape [tokens, vocabulary], but has ${shapeText(logits.shape)}`)
  expectShape('selectiveLogSoftmax', 'id', id, [logits.dim(0)], 'one per row of logits')
  expectDtype('selectiveLogSoftmax', 'id', id, 'int32')
  const [logprob, entropy] = selectiveOp([logits, id], { temperature })
  return { logprob, entropy }
}

const linearLogprobOp = fusedOp<readonly [Tensor, Tensor, Tensor | null, Tensor], { temperature: number; softCap: number; half: boolean }, readonly [Tensor, Tensor]>({
  name: 'linear_logprob',
  definition: ([hidden, weight, bias, id], { temperature, softCap }) => logprobDefinition(logitsDefinition(hidden, weight, bias, softCap), id, temperature),
  forward([hidden, weight, bias, id], { temperature, softCap, half }, save) {
    const rows = [hidden.dim(0)]
    const [logprob, entropy, lse] = [emptyLike(hidden, rows, 'float32'), emptyLike(hidden, rows, 'float32'), emptyLike(hidden, rows, 'float32')]
    hidden.device.kernels.linear_logprob(logprob.handle, entropy.handle, lse.handle, hidden.handle, weight.handle, bias?.handle ?? 0, id.handle, temperature, softCap, half)
    save(hidden, weight, id, entropy, lse, ...(bias ? [bias] : []))
    return [logprob, entropy]
  },
  backward([dlogprob, dentropy], context, { temperature, softCap, half }) {
    const [hidden, weight, id, entropy, lse, bias] = context.saved as [Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | undefined]
    const dhidden = context.needs(0) ? emptyLike(hidden) : null
    const place = (i: number): Place => {
      if (!context.needs(i)) return { handle: 0, accumulate: false }
      const { tensor, accumulate } = context.target(i)
      // One flag serves both parameters, so each is made to hold something to add to.
      if (!accumulate) tensor.device.kernels.fill(tensor.handle, 0)
      return { handle: tensor.handle, accumulate: true }
    }
    const [dweight, dbias] = [place(1), place(2)]
    hidden.device.kernels.linear_logprob_backward(dhidden?.handle ?? 0, dweight.handle, dbias.handle, gradientOr(dlogprob, lse.shape, lse).handle, dentropy?.handle ?? 0,
      hidden.handle, weight.handle, bias?.handle ?? 0, id.handle, entropy.handle, lse.handle, temperature, softCap, true, half)
    if (dhidden) context.give(0, dhidden)
  },
})

/** selectiveLogSoftmax from hidden states [tokens, width] and the output embedding [vocabulary, width], without tokens × vocabulary logits. */
export function linearLogprob(
  hidden: Tensor, weight: Tensor, id: Tensor, { temperature = 1, softCap = 0, bias = null }: { temperature?: number; softCap?: number; bias?: Tensor | null } = {},
): LogprobResult {
  checkHead('linearLogprob', hidden, weight, bias, id, 'id')
  const [logprob, entropy] = linearLogprobOp([hidden, weight, bias, id], { temperature, softCap, half: usesHalf(hidden.dtype, weight.dtype) })
  return { logprob, entropy }
}
