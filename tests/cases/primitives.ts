// Cases of the primitives: the operations that all others are defined in. Each stands beside the same computation on plain arrays.
import {
  abs, add, broadcastTo, concat, cos, div, equal, erf, exp, gather, greater, log, matmul, max, maximum, mean, minimum, mul, neg, permute, pow, reciprocal, reshape, rsqrt,
  sigmoid, sin, slice, split, sqrt, square, sub, sum, tanh, toDtype, transpose, where,
} from '../../src/ops/index.ts'
import type { MatmulOptions } from '../../src/ops/primitives.ts'
import { sizeOf } from '../../src/tensor/index.ts'
import type { Shape, Tensor } from '../../src/tensor/index.ts'
import { float, integers } from './case.ts'
import type { OpCase } from './case.ts'

/** Numbers and their shape, row-major. */
export interface Plain { readonly shape: Shape; readonly numbers: ArrayLike<number> }

export interface PrimitiveCase extends OpCase { readonly plain: (...inputs: Plain[]) => Plain }

const text = (...shapes: Shape[]): string => shapes.map((shape) => `[${shape.join(', ')}]`).join(' ')

/** Every index of a shape, in order. */
export function indices(shape: Shape): number[][] {
  const all: number[][] = []
  for (let flat = 0; flat < sizeOf(shape); flat++) {
    let rest = flat
    const index: number[] = []
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      index.unshift(rest % shape[axis]!)
      rest = Math.floor(rest / shape[axis]!)
    }
    all.push(index)
  }
  return all
}

/** The number at an index that may have too many axes at the front; axes of length 1 repeat. */
export function at({ shape, numbers }: Plain, index: readonly number[]): number {
  const extra = index.length - shape.length
  return numbers[shape.reduce((flat, length, axis) => flat * length + (length === 1 ? 0 : index[axis + extra]!), 0)]!
}

const make = (shape: Shape, value: (index: readonly number[]) => number): Plain => ({ shape, numbers: Float64Array.from(indices(shape), value) })

const broadcast = (a: Shape, b: Shape): Shape => Array.from({ length: Math.max(a.length, b.length) }, (_, i, rank = Math.max(a.length, b.length)) => {
  const [m, n] = [a[i - rank + a.length] ?? 1, b[i - rank + b.length] ?? 1]
  return m === 1 ? n : m
})

/** The error function, by its series and its continued fraction. */
export function erfPlain(x: number): number {
  const z = Math.abs(x)
  if (z < 3) {
    let [term, total] = [z, z]
    for (let n = 1; n < 80; n++) {
      term *= -z * z / n
      total += term / (2 * n + 1)
    }
    return Math.sign(x) * total * 2 / Math.sqrt(Math.PI)
  }
  let fraction = z
  for (let n = 60; n > 0; n--) fraction = z + n / 2 / fraction
  return Math.sign(x) * (1 - Math.exp(-z * z) / fraction / Math.sqrt(Math.PI))
}

const unary = (op: string, run: (x: Tensor) => Tensor, plain: (x: number) => number, low = -2, high = 2): PrimitiveCase[] =>
  [[], [0], [1], [7], [3, 5], [2, 1, 33]].map((shape) => ({
    op, name: text(shape), inputs: [float(shape, { low, high })], run: (x) => run(x), plain: (x) => ({ shape: x.shape, numbers: Float64Array.from(x.numbers, plain) }), forward: {},
  }))

const unaryCases = [
  ...unary('neg', neg, (x) => -x), ...unary('exp', exp, Math.exp), ...unary('log', log, Math.log, 0.5, 4), ...unary('sqrt', sqrt, Math.sqrt, 0.5, 4),
  ...unary('rsqrt', rsqrt, (x) => 1 / Math.sqrt(x), 0.5, 4), ...unary('tanh', tanh, Math.tanh), ...unary('erf', erf, erfPlain, -4, 4), ...unary('sin', sin, Math.sin, -9, 9),
  ...unary('cos', cos, Math.cos, -9, 9), ...unary('abs', abs, Math.abs, 0.1, 2), ...unary('abs', abs, Math.abs, -2, -0.1),
  ...unary('sigmoid', sigmoid, (x) => 1 / (1 + Math.exp(-x)), -6, 6), ...unary('reciprocal', reciprocal, (x) => 1 / x, 0.5, 3), ...unary('square', square, (x) => x * x),
]

const binaryShapes: [Shape, Shape][] = [
  [[], []], [[0], [1]], [[1], [1]], [[7], [7]], [[3, 5], [5]], [[3, 5], [3, 1]], [[3, 1], [1, 5]], [[2, 3, 4], [3, 1]], [[5], [2, 1, 5]], [[4, 33], []], [[2, 1, 3, 1], [4, 1, 5]],
  [[0, 3], [1, 3]],
]
const binary = (op: string, run: (a: Tensor, b: Tensor) => Tensor, plain: (a: number, b: number) => number, low = -2, high = 2, gradient = true): PrimitiveCase[] =>
  binaryShapes.map(([a, b]) => ({
    op, name: text(a, b), inputs: [float(a, { low, high, gradient }), float(b, { low, high, gradient })], run: (a, b) => run(a, b),
    plain: (a, b) => make(broadcast(a.shape, b.shape), (index) => plain(at(a, index), at(b, index))), forward: {},
  }))

const binaryCases = [
  ...binary('add', add, (a, b) => a + b), ...binary('sub', sub, (a, b) => a - b), ...binary('mul', mul, (a, b) => a * b), ...binary('div', div, (a, b) => a / b, 0.5, 3),
  ...binary('maximum', maximum, Math.max), ...binary('minimum', minimum, Math.min), ...binary('pow', pow, Math.pow, 0.5, 2),
  ...binary('greater', greater, (a, b) => a > b ? 1 : 0, -2, 2, false), ...binary('equal', (a, b) => equal(a, mul(b, 1)), (a, b) => a === b ? 1 : 0, 0, 0, false),
]

const withNumber = (op: string, run: (x: Tensor) => Tensor, plain: (x: number) => number): PrimitiveCase => ({
  op: `${op} and a number`, name: text([3, 5]), inputs: [float([3, 5], { low: 0.5, high: 2 })], run: (x) => run(x),
  plain: (x) => ({ shape: x.shape, numbers: Float64Array.from(x.numbers, plain) }), forward: {},
})
const numberCases = [
  withNumber('add', (x) => add(x, 1.5), (x) => x + 1.5), withNumber('add', (x) => add(1.5, x), (x) => x + 1.5), withNumber('sub', (x) => sub(x, 1.5), (x) => x - 1.5),
  withNumber('sub', (x) => sub(1.5, x), (x) => 1.5 - x), withNumber('mul', (x) => mul(x, -1.5), (x) => -1.5 * x), withNumber('mul', (x) => mul(-1.5, x), (x) => -1.5 * x),
  withNumber('div', (x) => div(x, 4), (x) => x / 4), withNumber('div', (x) => div(4, x), (x) => 4 / x), withNumber('pow', (x) => pow(x, 3), (x) => x ** 3),
  withNumber('pow', (x) => pow(2, x), (x) => 2 ** x), withNumber('maximum', (x) => maximum(x, 1.23), (x) => Math.max(x, 1.23)),
  withNumber('minimum', (x) => minimum(1.23, x), (x) => Math.min(x, 1.23)),
]

/** One result from numbers and a reduction of each group along the axes. */
function reducePlain(x: Plain, axes: readonly number[] | undefined, keepDims: boolean, reduce: (numbers: number[]) => number): Plain {
  const reduced = new Set((axes ?? x.shape.map((_, i) => i)).map((axis) => axis < 0 ? x.shape.length + axis : axis))
  const kept = x.shape.map((length, axis) => reduced.has(axis) ? 1 : length)
  const groups = new Map<string, number[]>(indices(kept).map((index) => [index.join(), []]))
  for (const index of indices(x.shape)) groups.get(index.map((i, axis) => reduced.has(axis) ? 0 : i).join())!.push(at(x, index))
  return { shape: keepDims ? kept : kept.filter((_, axis) => !reduced.has(axis)), numbers: [...groups.values()].map(reduce) }
}
const total = (numbers: readonly number[]): number => numbers.reduce((a, b) => a + b, 0)
const reductions: { op: string; run: typeof sum; reduce: (numbers: number[]) => number }[] = [
  { op: 'sum', run: sum, reduce: total }, { op: 'mean', run: mean, reduce: (numbers) => total(numbers) / numbers.length }, { op: 'max', run: max, reduce: (numbers) => Math.max(...numbers) },
]
const reduceShapes: [Shape, number[] | undefined][] = [
  [[], undefined], [[1], undefined], [[7], [0]], [[3, 5], undefined], [[3, 5], [0]], [[3, 5], [-1]], [[2, 3, 4], [1]], [[2, 3, 4], [0, 2]], [[2, 3, 33], [-1]], [[5, 1, 3], [1]],
  [[2, 3, 2, 2], [1, 3]], [[0, 3], [1]],
]
const reduceCases = reductions.flatMap(({ op, run, reduce }) => reduceShapes.flatMap(([shape, axes]) => [false, true].map((keepDims): PrimitiveCase => ({
  op, name: `${text(shape)} over ${axes?.join() ?? 'all'}${keepDims ? ' kept' : ''}`, inputs: [float(shape)], run: (x) => run(x, axes, keepDims),
  plain: (x) => reducePlain(x, axes, keepDims, reduce), forward: {},
}))))
const emptySum: PrimitiveCase = { op: 'sum', name: '[3, 0] over 1', inputs: [float([3, 0])], run: (x) => sum(x, [1]), plain: () => ({ shape: [3], numbers: [0, 0, 0] }), forward: {} }

const movement = (op: string, name: string, shapes: readonly Shape[], run: (...x: Tensor[]) => Tensor, plain: (...x: Plain[]) => Plain): PrimitiveCase =>
  ({ op, name, inputs: shapes.map((shape) => float(shape)), run, plain, forward: {} })

const permuteCases = ([[[3], [0]], [[3, 5], [1, 0]], [[2, 3, 4], [2, 0, 1]], [[2, 3, 4], [0, 2, 1]], [[1, 5, 1], [2, 1, 0]], [[2, 3, 2, 5], [3, 1, 0, 2]], [[0, 3], [1, 0]], [[33, 65], [1, 0]]] as const)
  .map(([shape, order]) => movement('permute', `${text(shape)} to ${order.join()}`, [shape], (x) => permute(x, order),
    (x) => make(order.map((axis) => x.shape[axis]!), (index) => at(x, x.shape.map((_, axis) => index[order.indexOf(axis as never)]!)))))
const sliceCases = ([[[7], [2], [3]], [[3, 5], [1, 0], [2, 5]], [[3, 5], [0, 4], [3, 1]], [[2, 3, 4], [1, 1, 1], [1, 2, 3]], [[3, 5], [3, 0], [0, 5]]] as const)
  .map(([shape, start, length]) => movement('slice', `${text(shape)} from ${start.join()} of ${length.join()}`, [shape], (x) => slice(x, start, length),
    (x) => make(length, (index) => at({ ...x, shape: x.shape }, index.map((i, axis) => x.shape[axis] === 1 ? 0 : i + start[axis]!)))))
const concatCases = ([[[[3], [4]], 0], [[[2, 3], [2, 1], [2, 5]], -1], [[[1, 3], [0, 3], [2, 3]], 0], [[[2, 1, 3], [2, 4, 3]], 1]] as const)
  .map(([shapes, axis]) => movement('concat', `${text(...shapes)} along ${axis}`, shapes, (...x) => concat(x, axis), (...x) => {
    const along = axis < 0 ? x[0]!.shape.length + axis : axis
    const lengths = x.map(({ shape }) => shape[along]!)
    return make(x[0]!.shape.map((length, i) => i === along ? total(lengths) : length), (index) => {
      let piece = 0
      let offset = index[along]!
      while (offset >= lengths[piece]!) offset -= lengths[piece++]!
      return at(x[piece]!, index.map((i, k) => k === along ? x[piece]!.shape[k] === 1 ? 0 : offset : i))
    })
  }))
const otherMovement: PrimitiveCase[] = [
  movement('reshape', '[2, 6] to [3, 4]', [[2, 6]], (x) => mul(reshape(x, [3, -1]), 2), (x) => ({ shape: [3, 4], numbers: Array.from(x.numbers, (n) => 2 * n) })),
  movement('reshape', '[] to [1, 1]', [[]], (x) => mul(reshape(x, [1, 1]), 2), (x) => ({ shape: [1, 1], numbers: Array.from(x.numbers, (n) => 2 * n) })),
  movement('transpose', '[2, 3, 4]', [[2, 3, 4]], (x) => transpose(x), (x) => make([2, 4, 3], ([a, b, c]) => at(x, [a!, c!, b!]))),
  movement('transpose', '[2, 3, 4] axes 0 and -1', [[2, 3, 4]], (x) => transpose(x, 0, -1), (x) => make([4, 3, 2], ([a, b, c]) => at(x, [c!, b!, a!]))),
  movement('split', '[2, 7] into 3, 0 and 4', [[2, 7]], (x) => concat(split(x, [3, 0, 4]).reverse(), 1), (x) => make([2, 7], ([a, b]) => at(x, [a!, b! < 4 ? b! + 3 : b! - 4]))),
  movement('split', '[2, 7] into 3, 2 and 2, the middle one unused', [[2, 7]], (x) => concat([0, 2].map((piece) => split(x, [3, 2, 2])[piece]!), 1), (x) => make([2, 5], ([a, b]) => at(x, [a!, b! < 3 ? b! : b! + 2]))),
  movement('broadcastTo', '[3, 1] to [2, 3, 4]', [[3, 1]], (x) => broadcastTo(x, [2, 3, 4]), (x) => make([2, 3, 4], ([, b]) => at(x, [b!, 0]))),
  movement('toDtype', 'through float32', [[3, 5]], (x) => toDtype(toDtype(x, 'float32'), x.dtype), (x) => x),
]

const selectCases: PrimitiveCase[] = [
  ...([[[3, 5], [3, 2], [4, 0, 1, 1, 2, 4]], [[2, 2, 3], [2, 2, 1], [0, 2, 1, 1]], [[4], [6], [0, 0, 3, 3, 1, 0]], [[2, 3], [2, 0], []]] as const).map(([shape, indexShape, values]): PrimitiveCase => ({
    op: 'gather', name: text(shape, indexShape), inputs: [float(shape), integers(values, indexShape)], run: (x, index) => gather(x, index),
    plain: (x, index) => make(index.shape, (i) => at(x, [...i.slice(0, -1), at(index, i)])), forward: {},
  })),
  ...[[7], [3, 5], [0]].map((shape): PrimitiveCase => ({
    op: 'where', name: text(shape), inputs: [float(shape, { gradient: false }), float(shape), float(shape)], run: (c, a, b) => where(greater(c, 0), a, b),
    plain: (c, a, b) => make(shape, (i) => at(c, i) > 0 ? at(a, i) : at(b, i)), forward: {},
  })),
]

const matmulShapes: [Shape, Shape, MatmulOptions?][] = [
  [[1, 1], [1, 1]], [[3, 5], [5, 2]], [[3, 5], [2, 5], { transposeB: true }], [[5, 3], [5, 2], { transposeA: true }], [[5, 3], [2, 5], { transposeA: true, transposeB: true }],
  [[4, 3, 5], [4, 5, 2]], [[1, 3, 5], [4, 5, 2]], [[4, 3, 5], [1, 5, 2]], [[4, 3, 5], [4, 2, 5], { transposeB: true }], [[2, 5, 3], [1, 5, 2], { transposeA: true }],
  [[3, 0], [0, 2]], [[0, 3], [3, 2]], [[3, 2], [2, 0]], [[0, 3, 5], [1, 5, 2]], [[17, 33], [33, 19]],
]
const matmulCases = matmulShapes.map(([a, b, options = {}]): PrimitiveCase => ({
  op: 'matmul', name: `${text(a, b)}${options.transposeA ? ' first transposed' : ''}${options.transposeB ? ' second transposed' : ''}`,
  inputs: [float(a), float(b)], run: (a, b) => matmul(a, b, options), forward: {},
  plain(a, b) {
    const rank = a.shape.length
    const [m, k] = options.transposeA ? [a.shape[rank - 1]!, a.shape[rank - 2]!] : [a.shape[rank - 2]!, a.shape[rank - 1]!]
    const n = b.shape[rank - (options.transposeB ? 2 : 1)]!
    const lead = rank === 3 ? broadcast([a.shape[0]!], [b.shape[0]!]) : []
    return make([...lead, m, n], (index) => {
      const [i, j] = index.slice(-2) as [number, number]
      const batch = index.slice(0, -2)
      const first = (l: number): number => element(a, batch, options.transposeA ? [l, i] : [i, l])
      const second = (l: number): number => element(b, batch, options.transposeB ? [j, l] : [l, j])
      return total(Array.from({ length: k }, (_, l) => first(l) * second(l)))
    })
  },
}))

const element = (x: Plain, batch: readonly number[], [row, column]: readonly [number, number]): number => {
  const [rows, columns] = x.shape.slice(-2) as [number, number]
  const first = batch.length > 0 && x.shape[0] !== 1 ? batch[0]! : 0
  return x.numbers[(first * rows + row) * columns + column]!
}

export const primitiveCases: readonly PrimitiveCase[] = [
  ...unaryCases, ...binaryCases, ...numberCases, ...reduceCases, emptySum, ...permuteCases, ...sliceCases, ...concatCases, ...otherMovement, ...selectCases, ...matmulCases,
]

