// Cases of the divergences from a teacher.
import { linearDivergence, linearTopDivergence } from '../../src/ops/index.ts'
import type { DivergenceOptions, DivergenceResult, TopDivergenceOptions } from '../../src/ops/index.ts'
import { Tensor } from '../../src/tensor/index.ts'
import { float, integers, labels } from './case.ts'
import type { OpCase } from './case.ts'
import { randomNumbers } from './random.ts'

interface Shape { tokens: number; widths: readonly [student: number, teacher: number]; vocabularies: readonly [student: number, teacher: number]; options: DivergenceOptions; bias?: boolean; benchOnly?: boolean }

const shapes: Shape[] = [
  { tokens: 0, widths: [8, 3], vocabularies: [5, 5], options: {} },
  { tokens: 1, widths: [1, 1], vocabularies: [2, 2], options: { beta: 1 } },
  { tokens: 1, widths: [4, 2], vocabularies: [1, 1], options: { beta: 0.5, hardWeight: 0.3 } },
  { tokens: 3, widths: [5, 4], vocabularies: [7, 7], options: { beta: 0.1, temperature: 2 }, bias: true },
  { tokens: 17, widths: [24, 40], vocabularies: [131, 131], options: { temperature: 1.5, softWeight: 0.5, hardWeight: 0.25 }, bias: true },
  { tokens: 17, widths: [24, 24], vocabularies: [136, 131], options: { beta: 1, temperature: 0.7, hardWeight: 0.5 }, bias: true },
  { tokens: 70, widths: [16, 8], vocabularies: [300, 320], options: { beta: 0.7, softWeight: 0.1 } },
  { tokens: 512, widths: [768, 1024], vocabularies: [50257, 50257], options: { temperature: 2, hardWeight: 0.1 }, benchOnly: true },
]

const outputs = ({ loss, divergence, nll, correct }: DivergenceResult): Tensor[] => [loss, divergence, nll, correct]
const text = ({ beta = 0, temperature = 1, hardWeight = 0 }: DivergenceOptions): string => `beta ${beta} at ${temperature}${hardWeight ? ' with labels' : ''}`

const liveCases = shapes.map(({ tokens, widths, vocabularies, options, bias = false, benchOnly = false }): OpCase => {
  const [width, teacherWidth] = widths
  const [vocabulary, teacherVocabulary] = vocabularies
  const weight = (rows: number, columns: number, gradient: boolean) => float([rows, columns], { low: -9 / columns, high: 9 / columns, gradient })
  const flops = (of: number): number => 2 * tokens * Math.min(vocabulary, teacherVocabulary) * of
  return {
    op: 'linearDivergence', name: `${tokens}x${widths.join(':')}x${vocabularies.join(':')} ${text(options)}`, benchOnly,
    inputs: [
      float([tokens, width]), weight(vocabulary, width, true), float([tokens, teacherWidth], { gradient: false }), weight(teacherVocabulary, teacherWidth, false),
      labels(tokens, Math.min(vocabulary, teacherVocabulary), 0.2), ...bias ? [float([vocabulary]), float([teacherVocabulary], { gradient: false })] : [],
    ],
    run: (hidden, w, teacherHidden, teacherWeight, label, b, teacherBias) =>
      outputs(linearDivergence({ hidden, weight: w, bias: b }, { hidden: teacherHidden, weight: teacherWeight, bias: teacherBias }, label, options)),
    forward: { flops: flops(width) + flops(teacherWidth) }, backward: { flops: 2 * flops(width) },
    peer: { formula: 'linear_divergence', temperature: options.temperature ?? 1, hard: options.hardWeight ?? 0 },
  }
})

interface TopShape { tokens: number; width: number; vocabulary: number; k: number; options: TopDivergenceOptions; bias?: boolean; benchOnly?: boolean }

const topShapes: TopShape[] = [
  { tokens: 0, width: 8, vocabulary: 5, k: 2, options: {} },
  { tokens: 1, width: 1, vocabulary: 2, k: 1, options: { beta: 1 } },
  { tokens: 5, width: 6, vocabulary: 9, k: 9, options: { beta: 0.4, temperature: 2, hardWeight: 0.5 }, bias: true },
  { tokens: 17, width: 24, vocabulary: 131, k: 5, options: { temperature: 1.5, softWeight: 0.5, hardWeight: 0.25 }, bias: true },
  { tokens: 17, width: 24, vocabulary: 131, k: 33, options: { beta: 1, hardWeight: 0.2, vocabulary: 120 } },
  { tokens: 70, width: 16, vocabulary: 300, k: 40, options: { beta: 0.7, tail: 'renormalise' } },
  { tokens: 70, width: 16, vocabulary: 300, k: 3, options: { tail: 'renormalise', vocabulary: 297 }, bias: true },
  { tokens: 512, width: 768, vocabulary: 50257, k: 64, options: { hardWeight: 0.1 }, benchOnly: true },
]

/** In each row k different ids below `below`. */
function idsOf(tokens: number, k: number, below: number): number[] {
  const random = randomNumbers(`ids ${tokens} ${k} ${below}`)
  return Array.from({ length: tokens }, () => {
    const chosen = new Set<number>()
    while (chosen.size < k) chosen.add(Math.floor(random() * below))
    return [...chosen]
  }).flat()
}

const topCases = topShapes.map(({ tokens, width, vocabulary, k, options, bias = false, benchOnly = false }): OpCase => {
  const rows = options.vocabulary ?? vocabulary
  const flops = 2 * tokens * rows * width
  // The probabilities of a row sum to less than 1.
  const lowest = -Math.log(k)
  return {
    op: 'linearTopDivergence', name: `${tokens}x${width}x${vocabulary} top ${k} ${text(options)} ${options.tail ?? 'bucket'}`, benchOnly,
    inputs: [
      float([tokens, width]), float([vocabulary, width], { low: -9 / width, high: 9 / width }), integers(idsOf(tokens, k, rows), [tokens, k]),
      float([tokens, k], { low: lowest - 2, high: lowest - 0.25, gradient: false, fixed: 'float32' }), labels(tokens, rows, 0.2), ...bias ? [float([vocabulary])] : [],
    ],
    run: (hidden, weight, ids, logprobs, label, b) => outputs(linearTopDivergence({ hidden, weight, bias: b }, { ids, logprobs }, label, options)),
    forward: { flops }, backward: { flops: 2 * flops },
  }
})

export const divergenceCases: readonly OpCase[] = [...liveCases, ...topCases]
