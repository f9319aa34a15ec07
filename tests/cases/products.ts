// Cases of the operations that are matrix products inside: linear layers, losses and attention.
import { attention, crossEntropy, linear, linearCrossEntropy, linearLogprob, selectiveLogSoftmax, Spans } from '../../src/ops/index.ts'
import type { AttentionOptions, Span } from '../../src/ops/index.ts'
import { activations } from '../../src/ops/operations.ts'
import type { Activation } from '../../src/ops/operations.ts'
import { manualSeed } from '../../src/tensor/index.ts'
import { float, labels, sharing } from './case.ts'
import type { OpCase, Work } from './case.ts'

const product = (m: number, n: number, k: number): Work => ({ flops: 2 * m * n * k })
const twice = ({ flops = 0 }: Work): Work => ({ flops: 2 * flops })

/** Weights of about the size that keeps the result near 1. */
const weight = (shape: readonly number[], inner: number) => float(shape, { low: -1 / Math.sqrt(inner || 1), high: 1 / Math.sqrt(inner || 1) })

// rows, inputs, outputs
const linearShapes = [[0, 3, 2], [3, 0, 2], [3, 2, 0], [1, 1, 1], [1, 64, 33], [2, 7, 5], [5, 33, 17], [33, 65, 129], [64, 128, 96], [131, 257, 67]] as const
const linearBenchShapes = [
  [1, 896, 4864], [1, 896, 151936], [8, 896, 4864], [64, 896, 4864], [256, 256, 256], [512, 512, 512], [1024, 1024, 1024], [1024, 768, 3072], [1024, 3072, 768], [1024, 768, 768],
  [512, 896, 4864], [512, 4864, 896], [512, 768, 50257], [1, 4096, 4096], [128, 4096, 4096], [512, 4096, 4096],
] as const
const linearCases: OpCase[] = [...linearShapes, ...linearBenchShapes].flatMap((shape, i): OpCase[] => {
  const [m, k, n] = shape
  const benchOnly = i >= linearShapes.length
  const work = { forward: product(m, n, k), backward: twice(product(m, n, k)), benchOnly }
  const x = float([m, k])
  const plain: OpCase = { op: 'linear', name: `${m}x${k}x${n}`, inputs: [x, weight([n, k], k)], run: (x, w) => linear(x, w), ...work, peer: { formula: 'linear' } }
  if (benchOnly) return [plain]
  return [
    plain,
    { op: 'linear', name: `${m}x${k}x${n} bias`, inputs: [x, weight([n, k], k), float([n])], run: (x, w, b) => linear(x, w, b), ...work },
    { op: 'linear', name: `${m}x${k}x${n} bias transposed`, inputs: [x, weight([k, n], k), float([n])], run: (x, w, b) => linear(x, w, b, { transposedWeight: true }), ...work },
  ]
})
const fusedLinearCases = (Object.keys(activations) as Activation[]).map((activation): OpCase => ({
  op: 'linear', name: `9x40x35 bias ${activation}`, inputs: [float([9, 40]), weight([35, 40], 40), float([35])], run: (x, w, b) => linear(x, w, b, { activation }),
  forward: product(9, 35, 40),
}))
const batchedLinear: OpCase = { op: 'linear', name: '[2, 3, 8]x5', inputs: [float([2, 3, 8]), weight([5, 8], 8), float([5])], run: (x, w, b) => linear(x, w, b), forward: {} }

/** Weights and activations of different dtypes, as in a float32 model that computes in bfloat16, and the other way round. */
const mixedLinearCases = (['float32', 'bfloat16'] as const).map((fixed): OpCase => ({
  op: 'linear', name: `17x40x35, the weight in ${fixed}`, inputs: [float([17, 40]), { ...weight([35, 40], 40), fixed }, { ...float([35]), fixed }],
  run: (x, w, b) => linear(x, w, b, { activation: 'silu' }), forward: product(17, 35, 40),
}))

// tokens, vocabulary
const logitShapes = [[0, 5], [1, 1], [3, 2], [5, 33], [19, 259], [512, 50257], [512, 151936]] as const
const logitCases = logitShapes.flatMap(([tokens, vocabulary]): OpCase[] => {
  const inputs = [float([tokens, vocabulary], { low: -6, high: 6 }), labels(tokens, vocabulary, 0.2)]
  const numbers = tokens * vocabulary
  const work = { forward: { bytes: (size: number) => numbers * size }, backward: { bytes: (size: number) => 2 * numbers * size }, benchOnly: numbers > 1e5 }
  return [
    { op: 'crossEntropy', name: `${tokens}x${vocabulary}`, inputs, run: (logits, label) => crossEntropy(logits, label), ...work, peer: { formula: 'cross_entropy' } },
    { op: 'crossEntropy', name: `${tokens}x${vocabulary} smoothing`, inputs, run: (logits, label) => crossEntropy(logits, label, { labelSmoothing: 0.1 }), ...work, peer: { formula: 'cross_entropy', smoothing: 0.1 } },
    {
      op: 'selectiveLogSoftmax', name: `${tokens}x${vocabulary}`, inputs, ...work, peer: { formula: 'selective_log_softmax', temperature: 0.8 },
      run(logits, id) {
        const { logprob, entropy } = selectiveLogSoftmax(logits, id, { temperature: 0.8 })
        return [logprob, entropy]
      },
    },
  ]
})

// tokens, width, vocabulary
const headShapes = [[0, 8, 5], [1, 1, 2], [3, 5, 7], [17, 24, 131], [70, 16, 300], [512, 768, 50257]] as const
const headCases = headShapes.flatMap(([tokens, width, vocabulary]): OpCase[] => {
  const inputs = [float([tokens, width]), weight([vocabulary, width], width / 9)]
  const id = labels(tokens, vocabulary, 0.2)
  const bias = float([vocabulary])
  const benchOnly = tokens > 100
  const flops = product(tokens, vocabulary, width)
  // The gradient is computed in the forward pass, but only where it is wanted.
  const loss = { forward: flops, backward: twice(flops), benchOnly }
  const logprob = { forward: flops, backward: { flops: 3 * flops.flops! }, benchOnly }
  const outputs = ({ logprob, entropy }: ReturnType<typeof linearLogprob>) => [logprob, entropy]
  const losses = ({ loss, nll, correct }: ReturnType<typeof linearCrossEntropy>) => [loss, nll, correct]
  const name = `${tokens}x${width}x${vocabulary}`
  return [
    { op: 'linearCrossEntropy', name, inputs: [...inputs, id], run: (h, w, label) => losses(linearCrossEntropy(h, w, label, { numItems: 11 })), ...loss, peer: { formula: 'linear_cross_entropy', items: 11 } },
    { op: 'linearLogprob', name, inputs: [...inputs, id], run: (h, w, id) => outputs(linearLogprob(h, w, id, { temperature: 0.7 })), ...logprob, peer: { formula: 'linear_logprob', temperature: 0.7 } },
    ...benchOnly ? [] : [
      {
        op: 'linearCrossEntropy', name: `${name} bias cap smoothing`, inputs: [...inputs, id, bias], ...loss,
        run: (h, w, label, bias) => losses(linearCrossEntropy(h, w, label, { labelSmoothing: 0.1, softCap: 5, bias: bias })),
      } satisfies OpCase,
      {
        op: 'linearLogprob', name: `${name} bias cap`, inputs: [...inputs, id, bias], ...logprob,
        run: (h, w, id, bias) => outputs(linearLogprob(h, w, id, { temperature: 1.3, softCap: 5, bias: bias })),
      } satisfies OpCase,
    ],
  ]
})

/** An output layer that adapters are trained under: its vocabulary is taken in blocks. */
const frozenHead: OpCase = {
  op: 'linearCrossEntropy', name: '512x896x151936 frozen weight', inputs: [float([512, 896]), { ...weight([151936, 896], 896), gradient: false }, labels(512, 151936, 0)],
  run: (h, w, label) => linearCrossEntropy(h, w, label).loss, forward: product(512, 151936, 896), backward: product(512, 151936, 896), benchOnly: true,
}

interface AttentionShape { name: string; heads: number; kvHeads: number; width: number; spans: readonly (readonly [queries: number, keys: number])[]; options?: AttentionOptions; benchOnly?: boolean }

const attentionShapes: AttentionShape[] = [
  { name: 'one token', heads: 1, kvHeads: 1, width: 8, spans: [[1, 1]] },
  { name: 'two sequences', heads: 2, kvHeads: 2, width: 8, spans: [[3, 3], [5, 5]] },
  { name: 'an empty sequence among others', heads: 1, kvHeads: 1, width: 8, spans: [[2, 2], [0, 0], [3, 3]] },
  { name: 'grouped heads', heads: 6, kvHeads: 2, width: 16, spans: [[17, 17], [4, 4]] },
  { name: 'one key head', heads: 3, kvHeads: 1, width: 24, spans: [[33, 33]] },
  { name: 'window', heads: 2, kvHeads: 1, width: 32, spans: [[70, 70], [3, 3]], options: { window: 9 } },
  { name: 'soft cap', heads: 2, kvHeads: 2, width: 40, spans: [[35, 35]], options: { softCap: 3, scale: 1 } },
  { name: 'not causal', heads: 2, kvHeads: 2, width: 64, spans: [[19, 19], [40, 40]], options: { causal: false } },
  { name: 'not causal, more keys', heads: 2, kvHeads: 1, width: 16, spans: [[5, 90]], options: { causal: false } },
  { name: 'decoding', heads: 4, kvHeads: 2, width: 64, spans: [[1, 130], [1, 7], [3, 65]] },
  { name: 'window, soft cap and a cache', heads: 4, kvHeads: 2, width: 64, spans: [[9, 150], [2, 40]], options: { window: 33, softCap: 20 } },
  { name: 'several blocks', heads: 2, kvHeads: 1, width: 80, spans: [[200, 200]] },
  { name: 'heads of 96', heads: 2, kvHeads: 1, width: 96, spans: [[20, 75]] },
  { name: 'heads of 128', heads: 4, kvHeads: 2, width: 128, spans: [[70, 70], [1, 35]] },
  { name: 'decoding, heads of 128', heads: 4, kvHeads: 1, width: 128, spans: [[1, 130], [2, 9]] },
  { name: 'wide heads', heads: 1, kvHeads: 1, width: 256, spans: [[20, 20]] },
  { name: 'decoding, wide heads', heads: 2, kvHeads: 1, width: 256, spans: [[1, 40]] },
  ...[
    { name: 'one token', heads: 1, kvHeads: 1, width: 8, spans: [[1, 1]], options: { dropout: 0.5 } },
    { name: 'two sequences', heads: 2, kvHeads: 2, width: 8, spans: [[3, 3], [0, 0], [5, 5]], options: { dropout: 0.1 } },
    { name: 'not causal', heads: 2, kvHeads: 2, width: 64, spans: [[19, 19], [40, 40]], options: { causal: false, dropout: 0.3 } },
    { name: 'grouped heads, window, soft cap and a cache', heads: 4, kvHeads: 2, width: 64, spans: [[9, 150], [2, 40]], options: { window: 33, softCap: 20, dropout: 0.9 } },
    { name: 'several blocks', heads: 2, kvHeads: 1, width: 80, spans: [[200, 200], [130, 260]], options: { dropout: 0.2 } },
    { name: '2 of 512, 12 heads', heads: 12, kvHeads: 12, width: 64, spans: [[512, 512], [512, 512]], options: { dropout: 0.1 }, benchOnly: true },
  ] satisfies AttentionShape[],
  { name: '2 of 512, 12 heads', heads: 12, kvHeads: 12, width: 64, spans: [[512, 512], [512, 512]], benchOnly: true },
  { name: '2 of 1024, 12 heads', heads: 12, kvHeads: 12, width: 64, spans: [[1024, 1024], [1024, 1024]], benchOnly: true },
  { name: '512, 14 heads on 2', heads: 14, kvHeads: 2, width: 64, spans: [[512, 512]], benchOnly: true },
  { name: '2048, 14 heads on 2', heads: 14, kvHeads: 2, width: 64, spans: [[2048, 2048]], benchOnly: true },
  { name: 'decoding at 2048, 14 heads on 2', heads: 14, kvHeads: 2, width: 64, spans: [[1, 2048]], benchOnly: true },
]

/** The spans of sequences laid one after the other. */
export function spansOf(lengths: readonly (readonly [queries: number, keys: number])[]): Span[] {
  let [queryBegin, keyBegin] = [0, 0]
  return lengths.map(([queryLength, keyLength]) => {
    const span = { queryBegin, queryLength, keyBegin, keyLength }
    queryBegin += queryLength
    keyBegin += keyLength
    return span
  })
}

const attentionCases = attentionShapes.map(({ name, heads, kvHeads, width, spans, options = {}, benchOnly = false }): OpCase => {
  const [queries, keys] = [0, 1].map((i) => spans.reduce((total, span) => total + span[i]!, 0)) as [number, number]
  const pairs = spans.reduce((total, [q, k]) => total + (options.causal === false ? q * k : q * (k - q) + q * q / 2), 0)
  const forward = { flops: 4 * pairs * heads * width }
  const size = { low: -2, high: 2 }
  return {
    op: options.dropout ? 'attentionDropout' : 'attention', name, inputs: [float([queries, heads, width], size), float([keys, kvHeads, width], size), float([keys, kvHeads, width])],
    ...sharing(() => new Spans(spansOf(spans)), (shared, q, k, v) => {
      if (options.dropout) manualSeed(7)
      return attention(q, k, v, shared, options)
    }), forward, backward: { flops: 2.5 * forward.flops }, benchOnly,
    peer: { formula: 'attention', sequences: spans.length, causal: options.causal !== false && spans[0]![0] > 1, ...options.dropout ? { p: options.dropout } : {} },
  }
})

export const productCases: readonly OpCase[] = [...linearCases, ...fusedLinearCases, batchedLinear, ...mixedLinearCases, ...logitCases, ...headCases, frozenHead, ...attentionCases]
