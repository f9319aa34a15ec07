import { ShapeError } from '../errors.ts'
import { cpu, type DeviceLike } from '../tensor/device.ts'
import { nextStream } from '../tensor/random.ts'
import { resultsOnly, unscoped } from '../tensor/scope.ts'
import { Tensor } from '../tensor/tensor.ts'
import { usesHalf } from './compute.ts'
import { dropoutApplied } from './dropout.ts'
import { emptyLike, expect, expectShape, fusedOp, shapeText } from './op.ts'
import { add, concat, log, matmul, max, mul, permute, reshape, slice, sub, sum, tanh, toDtype, exp, div } from './primitives.ts'

/** Where one sequence's queries and keys lie among the tokens of a batch. */
export interface Span { queryBegin: number; queryLength: number; keyBegin: number; keyLength: number }

/** The sequences of a batch: which queries see which keys. Query i of a sequence sits at position i + keyLength - queryLength of its keys. */
export class Spans {
  readonly spans: readonly Span[]
  readonly tensor: Tensor

  /** `place`: the device, or a tensor int32 [sequences, 4] that holds the numbers or is yet to be given them. */
  constructor(spans: readonly Span[], place?: DeviceLike | Tensor) {
    this.spans = spans
    if (place instanceof Tensor) {
      this.tensor = place
      return
    }
    const numbers = Int32Array.from(spans.flatMap((s) => [s.queryBegin, s.queryLength, s.keyBegin, s.keyLength]))
    this.tensor = Tensor.from(numbers, [spans.length, 4], place ? { device: place } : {})
  }

  /** Sequences packed one after the other, each seeing only itself; `cuSeqlens` is 0, the end of the first, of the second, … */
  static packed(cuSeqlens: ArrayLike<number>, device?: DeviceLike): Spans {
    const spans = Array.from({ length: cuSeqlens.length - 1 }, (_, i) => {
      const [begin, end] = [cuSeqlens[i]!, cuSeqlens[i + 1]!]
      if (!(end >= begin)) throw new ShapeError(`Spans.packed: cuSeqlens must not decrease, but goes from ${begin} to ${end} at ${i + 1}`)
      return { queryBegin: begin, queryLength: end - begin, keyBegin: begin, keyLength: end - begin }
    })
    return new Spans(spans, device)
  }

  get queries(): number { return this.spans.reduce((total, span) => total + span.queryLength, 0) }
  dispose(): void { this.tensor.dispose() }
}

/**
 * How a device cuts up attention() over the same spans, found out once for all layers of a pass instead of once in each. Valid as long as the values in
 * the spans' tensor are.
 */
export class AttentionPlans {
  readonly #spans: Spans
  readonly #plans = new Map<string, Tensor>()

  constructor(spans: Spans) { this.#spans = spans }

  /** @internal The plan of a call; `backward`: of its backward too. Null on the CPU, which needs none. */
  of(q: Tensor, k: Tensor, { causal, window, half }: Attributes, backward: boolean): Tensor | null {
    const { device } = q
    if (device === cpu) return null
    const key = [q.dtype, q.shape, k.shape, causal, window, half, backward].join(' ')
    let plan = this.#plans.get(key)
    if (!plan) {
      const [tokens, slots, sequences] = [q.dim(0), k.dim(0), this.#spans.spans.length]
      const tiles = Math.ceil(tokens / 16 + 3 * sequences) + (backward ? Math.ceil((tokens + slots) / 16) : 0)
      const runs = tokens <= 16 * sequences ? 64 * Math.ceil(tokens * q.dim(1) / k.dim(1) / 16 + sequences) : 0
      plan = unscoped(() => Tensor.empty([6 + 2 * (tiles + runs)], { dtype: 'int32', device }))
      device.kernels.attention_plan(plan.handle, q.handle, k.handle, this.#spans.tensor.handle, causal, window, half, backward)
      this.#plans.set(key, plan)
    }
    return plan
  }

  dispose(): void {
    for (const plan of this.#plans.values()) plan.dispose()
    this.#plans.clear()
  }
}

/** What `attention` takes beside queries, keys and values. */
export interface AttentionOptions {
  /** Multiplies the scores; 1 / sqrt(headDim) by default. */
  scale?: number
  /** Whether a query sees only keys up to its own position. True by default. */
  causal?: boolean
  /** A query sees only the last `window` of the keys it could see (Mistral); 0 is no limit. */
  window?: number
  /** Scores become softCap * tanh(score / softCap) (Gemma 2); 0 is no cap. */
  softCap?: number
  /** Weights are dropped with this probability, and the others divided by 1 - dropout; 0 is none. Draws from the next stream of manualSeed(). */
  dropout?: number
  /** Where calls with the same spans share what they find out about them. */
  plans?: AttentionPlans | undefined
}
interface Attributes extends Required<AttentionOptions> { spans: Spans; half: boolean }
interface DropoutAttributes extends Attributes { seed: number; stream: number }

const unseen = -1e30

/** 0 where query i may see key j, else a very negative number. */
function mask(span: Span, { causal, window }: Attributes, like: Tensor): Tensor {
  const numbers = new Float64Array(span.queryLength * span.keyLength)
  for (let i = 0; i < span.queryLength; i++) {
    const position = i + span.keyLength - span.queryLength
    for (let j = 0; j < span.keyLength; j++) {
      const seen = (!causal || j <= position) && (window === 0 || j > position - window)
      numbers[i * span.keyLength + j] = seen ? 0 : unseen
    }
  }
  return Tensor.from(numbers, [1, span.queryLength, span.keyLength], { dtype: like.dtype, device: like.device })
}

/** @internal Attention in primitives; the third result is each sequence's probabilities [heads, queries, keys], `kept` what they are multiplied by after. */
function attentionDefinition(q: Tensor, k: Tensor, v: Tensor, attributes: Attributes, kept?: (span: Span) => Tensor): { out: Tensor; lse: Tensor; probabilities: Tensor[] } {
  const [, heads, width] = q.shape as [number, number, number]
  const group = heads / k.dim(1)
  const probabilities: Tensor[] = []
  const lses: Tensor[] = []
  const outs = attributes.spans.spans.map((span) => {
    const mine = permute(slice(q, [span.queryBegin, 0, 0], [span.queryLength, heads, width]), [1, 0, 2])
    const repeated = (x: Tensor): Tensor => {
      const piece = permute(slice(x, [span.keyBegin, 0, 0], [span.keyLength, x.dim(1), width]), [1, 0, 2])
      const pieces = Array.from({ length: heads }, (_, head) => slice(piece, [Math.floor(head / group), 0, 0], [1, span.keyLength, width]))
      return concat(pieces, 0)
    }
    let scores = mul(matmul(mine, repeated(k), { transposeB: true }), attributes.scale)
    if (attributes.softCap > 0) scores = mul(tanh(mul(scores, 1 / attributes.softCap)), attributes.softCap)
    scores = add(scores, mask(span, attributes, q))
    const top = max(scores, [-1], true).detach()
    const shifted = exp(sub(scores, top))
    const total = sum(shifted, [-1], true)
    const probability = div(shifted, total)
    probabilities.push(probability)
    lses.push(permute(reshape(add(log(total), top), [heads, span.queryLength]), [1, 0]))
    return permute(matmul(kept ? mul(probability, kept(span)) : probability, repeated(v)), [1, 0, 2])
  })
  return { out: concat(outs, 0), lse: concat(lses, 0), probabilities }
}

const op = fusedOp<readonly [Tensor, Tensor, Tensor], Attributes, Tensor>({
  name: 'attention',
  definition: ([q, k, v], attributes) => attentionDefinition(q, k, v, attributes).out,
  forward([q, k, v], attributes, save, wanted) {
    const { spans, scale, causal, window, softCap, half, plans } = attributes
    const [out, lse] = [emptyLike(q), emptyLike(q, [q.dim(0), q.dim(1)], 'float32')]
    const plan = plans?.of(q, k, attributes, [0, 1, 2].some(wanted)) ?? null
    q.device.kernels.attention(out.handle, lse.handle, q.handle, k.handle, v.handle, spans.tensor.handle, plan?.handle ?? 0, scale, causal, window, softCap, half)
    save(q, k, v, out, lse, spans.tensor, ...(plan ? [plan] : []))
    return out
  },
  backward([dout], context, { scale, causal, window, softCap, half }) {
    const [q, k, v, out, lse, spans, plan] = context.saved as [Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | undefined]
    const [dq, dk, dv] = [emptyLike(q), emptyLike(k), emptyLike(v)]
    dq.device.kernels.attention_backward(dq.handle, dk.handle, dv.handle, dout!.handle, q.handle, k.handle, v.handle, out.handle, lse.handle, spans.handle, plan?.handle ?? 0, scale, causal, window, softCap, half)
    context.give(0, dq)
    context.give(1, dk)
    context.give(2, dv)
  },
})

/** The words of a query of one head, as the kernel counts them. */
const wordsOfRow = (spans: Spans): number => 128 * Math.ceil(Math.max(0, ...spans.spans.map(({ keyLength }) => keyLength)) / 128)

const dropoutOp = fusedOp<readonly [Tensor, Tensor, Tensor], DropoutAttributes, Tensor>({
  name: 'attention_dropout',
  definition([q, k, v], attributes) {
    const { spans, dropout: p, seed, stream } = attributes
    const heads = q.dim(1)
    const all = dropoutApplied(Tensor.ones([q.dim(0), heads, wordsOfRow(spans)], { device: q.device }), { p, seed, stream })
    const kept = ({ queryBegin, queryLength, keyLength }: Span): Tensor => toDtype(permute(slice(all, [queryBegin, 0, 0], [queryLength, heads, keyLength]), [1, 0, 2]), q.dtype)
    return attentionDefinition(q, k, v, attributes, kept).out
  },
  forward([q, k, v], { spans, scale, causal, window, softCap, half, dropout: p, seed, stream }, save) {
    const [out, lse] = [emptyLike(q), emptyLike(q, [q.dim(0), q.dim(1)], 'float32')]
    q.device.kernels.attention_dropout(out.handle, lse.handle, q.handle, k.handle, v.handle, spans.tensor.handle, scale, causal, window, softCap, half, p, seed, stream)
    save(q, k, v, out, lse, spans.tensor)
    return out
  },
  backward([dout], context, { scale, causal, window, softCap, half, dropout: p, seed, stream }) {
    const [q, k, v, out, lse, spans] = context.saved as [Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
    const [dq, dk, dv] = [emptyLike(q), emptyLike(k), emptyLike(v)]
    dq.device.kernels.attention_dropout_backward(dq.handle, dk.handle, dv.handle, dout!.handle, q.handle, k.handle, v.handle, out.handle, lse.handle, spans.handle, scale, causal, window, softCap, half, p, seed, stream)
    context.give(0, dq)
    context.give(1, dk)
    context.give(2, dv)
  },
})

function complete(q: Tensor, k: Tensor, v: Tensor, spans: Spans, options: AttentionOptions): Attributes {
  expect(q.rank === 3 && k.rank === 3, 'attention', () => `q, k and v must have shape [tokens, heads, headDim], but q has ${shapeText(q.shape)} and k ${shapeText(k.shape)}`)
  expectShape('attention', 'v', v, k.shape, 'that of k')
  expect(q.dim(2) === k.dim(2), 'attention', () => `q and k must have one headDim, but have ${q.dim(2)} and ${k.dim(2)}`)
  expect(k.dim(1) > 0 && q.dim(1) % k.dim(1) === 0, 'attention', () => `the ${q.dim(1)} query heads must be a multiple of the ${k.dim(1)} key/value heads`)
  expect(spans.queries === q.dim(0), 'attention', () => `the spans cover ${spans.queries} queries, but q has ${q.dim(0)} tokens`)
  const { scale = 1 / Math.sqrt(q.dim(2)), causal = true, window = 0, softCap = 0, dropout = 0, plans } = options
  expect(dropout >= 0 && dropout < 1, 'attention', () => `dropout must be at least 0 and below 1, but is ${dropout}`)
  return { spans, scale, causal, window, softCap, dropout, plans, half: usesHalf(q.dtype, k.dtype) }
}

/**
 * Scaled dot-product attention over packed sequences without ever holding queries × keys (Dao et al. 2022). q [tokens, heads, headDim];
 * k and v [slots, kvHeads, headDim], heads being a multiple of kvHeads; the result has q's shape.
 */
export function attention(q: Tensor, k: Tensor, v: Tensor, spans: Spans, options: AttentionOptions = {}): Tensor {
  const attributes = complete(q, k, v, spans, options)
  if (attributes.dropout === 0) return op([q, k, v], attributes)
  const drawing = { ...attributes, ...nextStream() }
  // A GPU has no kernel for it.
  return q.device === cpu ? dropoutOp([q, k, v], drawing) : resultsOnly(() => dropoutOp.op.definition([q, k, v], drawing))
}

/** Runs `body` with plans that the attentions over these spans share. */
export function withPlans<T>(spans: Spans, body: (plans: AttentionPlans) => T): T {
  const plans = new AttentionPlans(spans)
  try {
    return body(plans)
  } finally {
    plans.dispose()
  }
}

/** The attention probabilities themselves, per sequence [heads, queries, keys], computed plainly: for looking at, not for training. */
export function attentionProbabilities(q: Tensor, k: Tensor, v: Tensor, spans: Spans, options: AttentionOptions = {}): Tensor[] {
  return resultsOnly(() => attentionDefinition(q, k, v, complete(q, k, v, spans, options)).probabilities)
}
