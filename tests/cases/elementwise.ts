// Cases of the operations that work number by number or row by row: activations, norms, softmax, rotary embedding, dropout, embedding.
import { activation, addLayerNorm, addRmsNorm, dropout, embedding, gatedActivation, layerNorm, rmsNorm, rope, ropePair, softmax } from '../../src/ops/index.ts'
import { activations } from '../../src/ops/operations.ts'
import type { Activation } from '../../src/ops/operations.ts'
import { manualSeed, sizeOf } from '../../src/tensor/index.ts'
import type { Shape } from '../../src/tensor/index.ts'
import { float, integers, labels } from './case.ts'
import type { OpCase, Work } from './case.ts'

const text = (shape: Shape): string => `[${shape.join(', ')}]`
const kinds = (Object.keys(activations) as Activation[]).filter((kind) => kind !== 'none')

/** `passes` numbers moved for each element. */
const moved = (elements: number, passes: number): Work => ({ bytes: (bytesPerNumber) => elements * passes * bytesPerNumber })

const activationCases = kinds.flatMap((kind): OpCase[] => [[0], [1], [7], [3, 5], [33, 65], [1024, 3072]].map((shape) => ({
  op: 'activation', name: `${kind} ${text(shape)}`, inputs: [float(shape, { low: -6, high: 6 })], run: (x) => activation(x, kind),
  forward: moved(sizeOf(shape), 2), backward: moved(sizeOf(shape), 3), benchOnly: sizeOf(shape) > 1e5, peer: { formula: 'activation', kind },
})))

const gatedCases = kinds.flatMap((kind): OpCase[] => [[0, 4], [1], [3, 7], [33, 65], [512, 4864]].map((shape) => ({
  op: 'gatedActivation', name: `${kind} ${text(shape)}`, inputs: [float(shape, { low: -4, high: 4 }), float(shape)], run: (gate, up) => gatedActivation(gate, up, kind),
  forward: moved(sizeOf(shape), 3), backward: moved(sizeOf(shape), 5), benchOnly: sizeOf(shape) > 1e5, peer: { formula: 'gated_activation', kind },
})))

const softmaxCases = [[0, 5], [1, 1], [3, 7], [2, 3, 33], [5, 257], [3, 1500], [2, 9001], [2048, 2048]].map((shape): OpCase => ({
  op: 'softmax', name: text(shape), inputs: [float(shape, { low: -8, high: 8 })], run: (x) => softmax(x),
  forward: moved(sizeOf(shape), 2), backward: moved(sizeOf(shape), 3), benchOnly: sizeOf(shape) > 1e5, peer: { formula: 'softmax' },
}))

const normShapes = [[0, 8], [1, 1], [1, 8], [3, 7], [2, 5, 33], [131, 96], [2100, 8], [37, 600], [5, 1100], [3, 2100], [2, 9001], [512, 768], [2048, 896]]
const normCases = normShapes.flatMap((shape): OpCase[] => {
  const width = shape.at(-1)!
  const common = { forward: moved(sizeOf(shape), 2), backward: moved(sizeOf(shape), 3), benchOnly: sizeOf(shape) > 1e5 }
  const added = { ...common, forward: moved(sizeOf(shape), 4), backward: moved(sizeOf(shape), 4) }
  const [x, residual, weight, bias] = [float(shape, { low: -2, high: 3 }), float(shape), float([width], { low: 0.5, high: 1.5 }), float([width])]
  return [
    { op: 'rmsNorm', name: text(shape), inputs: [x, weight], run: (x, weight) => rmsNorm(x, weight), ...common, peer: { formula: 'rms_norm', eps: 1e-6 } },
    { op: 'rmsNorm', name: `${text(shape)} offset 1`, inputs: [x, float([width])], run: (x, weight) => rmsNorm(x, weight, { eps: 1e-5, offset: 1 }), ...common },
    { op: 'addRmsNorm', name: text(shape), inputs: [x, residual, weight], run: (x, residual, weight) => addRmsNorm(x, residual, weight), ...added, peer: { formula: 'add_rms_norm', eps: 1e-6 } },
    { op: 'layerNorm', name: text(shape), inputs: [x, weight, bias], run: (x, weight, bias) => layerNorm(x, weight, bias, { eps: 1e-3 }), ...common, peer: { formula: 'layer_norm', eps: 1e-3 } },
    { op: 'layerNorm', name: `${text(shape)} without bias`, inputs: [x, weight], run: (x, weight) => layerNorm(x, weight, null, { eps: 1e-3 }), ...common },
    { op: 'addLayerNorm', name: text(shape), inputs: [x, residual, weight, bias], run: (x, residual, weight, bias) => addLayerNorm(x, residual, weight, bias, { eps: 1e-3 }), ...added, peer: { formula: 'add_layer_norm', eps: 1e-3 } },
  ]
})

const ropeCases = ([[0, 2, 8, 8], [1, 1, 2, 2], [5, 3, 10, 10], [7, 2, 16, 8], [33, 4, 64, 64], [2, 1, 602, 600], [2, 1, 4112, 4112], [2048, 14, 64, 64]] as const).flatMap(([tokens, heads, width, rotated]) => [false, true].map((interleaved): OpCase => ({
  op: 'rope', name: `${text([tokens, heads, width])} ${rotated} turned${interleaved ? ' interleaved' : ''}`,
  inputs: [
    float([tokens, heads, width]), float([64, rotated / 2], { gradient: false, fixed: 'float32' }), float([64, rotated / 2], { gradient: false, fixed: 'float32' }),
    labels(tokens, 64),
  ],
  run: (x, cos, sin, position) => rope(x, cos, sin, position, { interleaved }),
  forward: moved(tokens * heads * width, 2), backward: moved(tokens * heads * width, 2), benchOnly: tokens > 1000, ...(interleaved ? {} : { peer: { formula: 'rope' } }),
})))

const ropePairCases = ([[0, 2, 1, 8, 8], [1, 1, 3, 2, 2], [7, 4, 2, 16, 8], [33, 4, 1, 64, 64], [1024, 32, 8, 128, 128]] as const).flatMap(([tokens, heads, otherHeads, width, rotated]) => [false, true].map((interleaved): OpCase => ({
  op: 'ropePair', name: `${text([tokens, heads, width])} and ${otherHeads} heads, ${rotated} turned${interleaved ? ' interleaved' : ''}`,
  inputs: [
    float([tokens, heads, width]), float([tokens, otherHeads, width]), float([64, rotated / 2], { gradient: false, fixed: 'float32' }),
    float([64, rotated / 2], { gradient: false, fixed: 'float32' }), labels(tokens, 64),
  ],
  run: (x, other, cos, sin, position) => ropePair(x, other, cos, sin, position, { interleaved }),
  forward: moved(tokens * (heads + otherHeads) * width, 2), backward: moved(tokens * (heads + otherHeads) * width, 2), benchOnly: tokens > 1000,
})))

const dropoutCases = [[0], [1], [5], [7, 33], [1024, 3072]].flatMap((shape) => [0.1, 0.75].map((p): OpCase => ({
  op: 'dropout', name: `${text(shape)} p ${p}`, inputs: [float(shape)],
  run(x) {
    manualSeed(7)
    return dropout(x, p)
  },
  forward: moved(sizeOf(shape), 2), backward: moved(sizeOf(shape), 2), benchOnly: sizeOf(shape) > 1e5, peer: { formula: 'dropout', p },
})))

const embeddingCases: OpCase[] = [
  { op: 'embedding', name: '[1, 1] one token', inputs: [float([1, 1]), integers([0])], run: (weight, id) => embedding(weight, id), forward: {} },
  { op: 'embedding', name: '[5, 3] no token', inputs: [float([5, 3]), integers([])], run: (weight, id) => embedding(weight, id), forward: {} },
  { op: 'embedding', name: '[5, 7] repeated tokens', inputs: [float([5, 7]), integers([4, 0, 4, 4, 2, 0])], run: (weight, id) => embedding(weight, id), forward: {} },
  { op: 'embedding', name: '[97, 33] tokens [2, 65]', inputs: [float([97, 33]), { ...labels(130, 97), shape: [2, 65] }], run: (weight, id) => embedding(weight, id), forward: {} },
  { op: 'embedding', name: '[2, 16] 75 tokens', inputs: [float([2, 16]), labels(75, 2)], run: (weight, id) => embedding(weight, id), forward: {} },
  { op: 'embedding', name: '[3, 4200] five tokens', inputs: [float([3, 4200]), integers([2, 0, 2, 1, 2])], run: (weight, id) => embedding(weight, id), forward: {} },
  {
    op: 'embedding', name: '[50257, 768] 1024 tokens', inputs: [float([50257, 768]), labels(1024, 50257)], run: (weight, id) => embedding(weight, id),
    forward: moved(1024 * 768, 2), backward: { bytes: () => 50257 * 768 * 4 }, benchOnly: true, peer: { formula: 'embedding' },
  },
]

export const elementwiseCases: readonly OpCase[] = [...activationCases, ...gatedCases, ...softmaxCases, ...normCases, ...ropeCases, ...ropePairCases, ...dropoutCases, ...embeddingCases]
