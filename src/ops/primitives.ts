import { record } from '../tensor/autograd.ts'
import type { DType } from '../tensor/dtype.ts'
import { isFloat } from '../tensor/dtype.ts'
import { resultsOnly } from '../tensor/scope.ts'
import { sizeOf, Tensor } from '../tensor/tensor.ts'
import type { Shape } from '../tensor/tensor.ts'
import { emptyLike, expect, expectDtype, shapeText } from './op.ts'
import { binaryOperations, reduceOperations, unaryOperations } from './operations.ts'
import type { BinaryOperation, UnaryOperation } from './operations.ts'

// The primitives: every other operation is defined in these. Each gradient stands beside its operation and is itself made of primitives.

// --- Movement ---

/** The same numbers in another shape; one axis may be -1. Shares the memory. */
export function reshape(x: Tensor, shape: Shape): Tensor {
  const known = shape.reduce((product, length) => length === -1 ? product : product * length, 1)
  const wanted = shape.map((length) => length === -1 ? x.size / known : length)
  expect(sizeOf(wanted) === x.size && wanted.every(Number.isInteger), 'reshape', () => `${shapeText(x.shape)} cannot become ${shapeText(shape)}`)
  const y = x.viewAs(wanted)
  record('reshape', [x], [y], [], ([dy], context) => { context.give(0, dy!.viewAs(x.shape)) })
  return y
}

/** Reorders the axes: axis k of the result is axis order[k] of x. */
export function permute(x: Tensor, order: readonly number[]): Tensor {
  expect(order.length === x.rank && new Set(order).size === x.rank, 'permute', () => `order ${shapeText(order)} must name each axis of ${shapeText(x.shape)} once`)
  const y = emptyLike(x, order.map((axis) => x.dim(axis)))
  x.device.kernels.permute(y.handle, x.handle, order)
  const inverse = order.map((_, axis) => order.indexOf(axis))
  record('permute', [x], [y], [], ([dy], context) => { context.give(0, permute(dy!, inverse)) })
  return y
}

/** Exchanges two axes, the last two by default. */
export function transpose(x: Tensor, a = -2, b = -1): Tensor {
  const order = x.shape.map((_, axis) => axis)
  const [i, j] = [a < 0 ? x.rank + a : a, b < 0 ? x.rank + b : b]
  ;[order[i], order[j]] = [order[j]!, order[i]!]
  return permute(x, order)
}

/** x[start : start + length] along each axis. */
export function slice(x: Tensor, start: readonly number[], length: Shape): Tensor {
  expect(start.length === x.rank && length.length === x.rank, 'slice', () => `start and length need ${x.rank} axes for a tensor of shape ${shapeText(x.shape)}`)
  expect(start.every((s, i) => s >= 0 && s + length[i]! <= x.shape[i]!), 'slice', () => `start ${shapeText(start)} and length ${shapeText(length)} leave ${shapeText(x.shape)}`)
  const y = emptyLike(x, length)
  x.device.kernels.slice(y.handle, x.handle, start)
  const shape = x.shape
  record('slice', [x], [y], [], ([dy], context) => {
    const dx = Tensor.zeros(shape, { dtype: dy!.dtype, device: dy!.device })
    dx.device.kernels.slice_into(dx.handle, dy!.handle, start, false)
    context.give(0, dx)
  })
  return y
}

/** Joins tensors along an axis. */
export function concat(tensors: readonly Tensor[], axis = 0): Tensor {
  const first = tensors[0]
  expect(first !== undefined, 'concat', () => 'at least one tensor is needed')
  const along = axis < 0 ? first.rank + axis : axis
  for (const tensor of tensors) {
    expect(tensor.rank === first.rank && tensor.shape.every((length, i) => i === along || length === first.shape[i]), 'concat',
      () => `all axes but ${along} must agree, but ${shapeText(first.shape)} meets ${shapeText(tensor.shape)}`)
    expectDtype('concat', 'every tensor', tensor, first.dtype)
  }
  const shape = first.shape.map((length, i) => i === along ? tensors.reduce((sum, tensor) => sum + tensor.shape[along]!, 0) : length)
  const y = emptyLike(first, shape)
  const starts: number[][] = []
  let offset = 0
  for (const tensor of tensors) {
    const start = shape.map((_, i) => i === along ? offset : 0)
    starts.push(start)
    y.device.kernels.slice_into(y.handle, tensor.handle, start, false)
    offset += tensor.shape[along]!
  }
  const shapes = tensors.map((tensor) => tensor.shape)
  record('concat', tensors, [y], [], ([dy], context) => {
    shapes.forEach((length, i) => { if (context.needs(i)) context.give(i, slice(dy!, starts[i]!, length)) })
  })
  return y
}

/** Splits along an axis into pieces of the given lengths. */
export function split(x: Tensor, lengths: readonly number[], axis = -1): Tensor[] {
  const along = axis < 0 ? x.rank + axis : axis
  expect(lengths.every((length) => length >= 0) && lengths.reduce((a, b) => a + b, 0) === x.shape[along], 'split',
    () => `lengths ${shapeText(lengths)} must be 0 or more and sum to axis ${along} of ${shapeText(x.shape)}`)
  let offset = 0
  const starts = lengths.map((length) => x.shape.map((_, i) => i === along ? (offset += length) - length : 0))
  const pieces = lengths.map((length, piece) => {
    const y = emptyLike(x, x.shape.map((full, i) => i === along ? length : full))
    y.device.kernels.slice(y.handle, x.handle, starts[piece]!)
    return y
  })
  const { shape, dtype, device } = x
  record('split', [x], pieces, [], (gradients, context) => {
    const dx = gradients.includes(null) ? Tensor.zeros(shape, { dtype, device }) : Tensor.empty(shape, { dtype, device })
    gradients.forEach((dy, piece) => { if (dy) device.kernels.slice_into(dx.handle, dy.handle, starts[piece]!, false) })
    context.give(0, dx)
  })
  return pieces
}

/** The same numbers in another dtype, rounded to nearest even. */
export function toDtype(x: Tensor, dtype: DType): Tensor {
  if (x.dtype === dtype) return x
  const y = emptyLike(x, x.shape, dtype)
  x.device.kernels.convert(y.handle, x.handle)
  const from = x.dtype
  if (isFloat(dtype) && isFloat(from)) record('convert', [x], [y], [], ([dy], context) => { context.give(0, toDtype(dy!, from)) })
  return y
}

/** y[…, j] = x[…, index[…, j]] along the last axis; index is int32. */
export function gather(x: Tensor, index: Tensor): Tensor {
  expectDtype('gather', 'index', index, 'int32')
  const y = emptyLike(x, index.shape)
  x.device.kernels.gather_last(y.handle, x.handle, index.handle)
  const shape = x.shape
  record('gather', [x], [y], [index], ([dy], context) => {
    const dx = Tensor.zeros(shape, { dtype: dy!.dtype, device: dy!.device })
    dx.device.kernels.scatter_add_last(dx.handle, dy!.handle, context.saved[0]!.handle)
    context.give(0, dx)
  })
  return y
}

// --- Elementwise ---

function broadcastShape(operation: string, a: Tensor, b: Tensor): number[] {
  return Array.from({ length: Math.max(a.rank, b.rank) }, (_, i, rank = Math.max(a.rank, b.rank)) => {
    const [m, n] = [a.shape[i - rank + a.rank] ?? 1, b.shape[i - rank + b.rank] ?? 1]
    expect(m === n || m === 1 || n === 1, operation, () => `shapes ${shapeText(a.shape)} and ${shapeText(b.shape)} do not broadcast`)
    return m === 1 ? n : m
  })
}

/** Sums a gradient over the axes along which its operand was repeated. */
function unbroadcast(gradient: Tensor, shape: Shape): Tensor {
  if (gradient.rank === shape.length && gradient.shape.every((length, i) => length === shape[i])) return gradient
  const extra = gradient.rank - shape.length
  const axes = gradient.shape.flatMap((length, i) => i < extra || (shape[i - extra] === 1 && length !== 1) ? [i] : [])
  return reshape(sum(gradient, axes, true), shape)
}

type BinaryGradient = (dy: Tensor, a: Tensor, b: Tensor, y: Tensor) => Tensor

/** d(objective)/da and d(objective)/db; null where there is none. */
const binaryGradients: Record<BinaryOperation, readonly [BinaryGradient, BinaryGradient] | null> = {
  add: [(dy) => dy, (dy) => dy],
  subtract: [(dy) => dy, (dy) => neg(dy)],
  multiply: [(dy, _a, b) => mul(dy, b), (dy, a) => mul(dy, a)],
  divide: [(dy, _a, b) => div(dy, b), (dy, _a, b, y) => neg(div(mul(dy, y), b))],
  maximum: [(dy, a, b) => mul(dy, greater(a, b)), (dy, a, b) => mul(dy, sub(1, greater(a, b)))],
  minimum: [(dy, a, b) => mul(dy, greater(b, a)), (dy, a, b) => mul(dy, sub(1, greater(b, a)))],
  power: [(dy, a, b) => mul(dy, mul(b, pow(a, sub(b, 1)))), (dy, a, _b, y) => mul(dy, mul(y, log(a)))],
  greater: null,
  equal: null,
}

type Operand = Tensor | number

function scale(x: Tensor, factor: number): Tensor {
  const y = emptyLike(x)
  x.device.kernels.scale(y.handle, x.handle, factor)
  record('scale', [x], [y], [], ([dy], context) => { context.give(0, scale(dy!, factor)) })
  return y
}

function binary(operation: BinaryOperation, left: Operand, right: Operand): Tensor {
  const like = left instanceof Tensor ? left : right as Tensor
  return resultsOnly(() => {
    const a = left instanceof Tensor ? left : Tensor.full([], left, { dtype: like.dtype, device: like.device })
    const b = right instanceof Tensor ? right : Tensor.full([], right, { dtype: like.dtype, device: like.device })
    expect(a.dtype === b.dtype, operation, () => `both operands must have one dtype, but have ${a.dtype} and ${b.dtype}`)
    const y = emptyLike(a, broadcastShape(operation, a, b))
    y.device.kernels.binary(y.handle, a.handle, b.handle, binaryOperations[operation])
    const gradients = binaryGradients[operation]
    if (gradients) {
      const keep = operation !== 'add' && operation !== 'subtract'
      const [shapeA, shapeB] = [a.shape, b.shape]
      record(operation, [a, b], [y], keep ? [a, b, y] : [], ([dy], context) => {
        const [savedA, savedB, savedY] = context.saved as [Tensor, Tensor, Tensor]
        if (context.needs(0)) context.give(0, unbroadcast(gradients[0](dy!, savedA, savedB, savedY), shapeA))
        if (context.needs(1)) context.give(1, unbroadcast(gradients[1](dy!, savedA, savedB, savedY), shapeB))
      })
    }
    return y
  })
}

/** a + b, elementwise with broadcasting as in NumPy; one of them may be a number. */
export const add = (a: Operand, b: Operand): Tensor => binary('add', a, b)
/** a - b, elementwise with broadcasting; one of them may be a number. */
export const sub = (a: Operand, b: Operand): Tensor => binary('subtract', a, b)
/** a × b, elementwise with broadcasting; one of them may be a number. */
export const mul = (a: Operand, b: Operand): Tensor =>
  typeof b === 'number' && a instanceof Tensor ? scale(a, b) : typeof a === 'number' && b instanceof Tensor ? scale(b, a) : binary('multiply', a, b)
/** a / b, elementwise with broadcasting; one of them may be a number. */
export const div = (a: Operand, b: Operand): Tensor => binary('divide', a, b)
/** The larger of a and b, elementwise with broadcasting; where they are equal the gradient is b's. */
export const maximum = (a: Operand, b: Operand): Tensor => binary('maximum', a, b)
/** The smaller of a and b, elementwise with broadcasting; where they are equal the gradient is b's. */
export const minimum = (a: Operand, b: Operand): Tensor => binary('minimum', a, b)
/** a to the power of b, elementwise with broadcasting; one of them may be a number. */
export const pow = (a: Operand, b: Operand): Tensor => binary('power', a, b)
/** 1 where a > b, else 0. */
export const greater = (a: Operand, b: Operand): Tensor => binary('greater', a, b)
/** 1 where a equals b, else 0. */
export const equal = (a: Operand, b: Operand): Tensor => binary('equal', a, b)

/** d(objective)/dx from dy, x and y. */
const unaryGradients: Record<UnaryOperation, (dy: Tensor, x: Tensor, y: Tensor) => Tensor> = {
  negate: (dy) => neg(dy),
  exp: (dy, _x, y) => mul(dy, y),
  log: (dy, x) => div(dy, x),
  sqrt: (dy, _x, y) => div(dy, mul(y, 2)),
  rsqrt: (dy, x, y) => mul(dy, mul(div(y, x), -0.5)),
  tanh: (dy, _x, y) => mul(dy, sub(1, square(y))),
  erf: (dy, x) => mul(dy, mul(exp(neg(square(x))), 2 / Math.sqrt(Math.PI))),
  sin: (dy, x) => mul(dy, cos(x)),
  cos: (dy, x) => neg(mul(dy, sin(x))),
  abs: (dy, x) => mul(dy, sub(greater(x, 0), greater(0, x))),
  sigmoid: (dy, _x, y) => mul(dy, mul(y, sub(1, y))),
  reciprocal: (dy, _x, y) => neg(mul(dy, square(y))),
  square: (dy, x) => mul(dy, mul(x, 2)),
}

function unary(operation: UnaryOperation, x: Tensor): Tensor {
  const y = emptyLike(x)
  x.device.kernels.unary(y.handle, x.handle, unaryOperations[operation])
  record(operation, [x], [y], [x, y], ([dy], context) => {
    const [savedX, savedY] = context.saved as [Tensor, Tensor]
    context.give(0, unaryGradients[operation](dy!, savedX, savedY))
  })
  return y
}

/** -x, elementwise. */
export const neg = (x: Tensor): Tensor => unary('negate', x)
/** e^x, elementwise. */
export const exp = (x: Tensor): Tensor => unary('exp', x)
/** The natural logarithm, elementwise; -Infinity at 0, NaN below. */
export const log = (x: Tensor): Tensor => unary('log', x)
/** √x, elementwise; NaN below 0. */
export const sqrt = (x: Tensor): Tensor => unary('sqrt', x)
/** 1 / √x, elementwise. */
export const rsqrt = (x: Tensor): Tensor => unary('rsqrt', x)
/** tanh(x), elementwise. */
export const tanh = (x: Tensor): Tensor => unary('tanh', x)
/** The error function, elementwise. */
export const erf = (x: Tensor): Tensor => unary('erf', x)
/** sin(x), elementwise, x in radians. */
export const sin = (x: Tensor): Tensor => unary('sin', x)
/** cos(x), elementwise, x in radians. */
export const cos = (x: Tensor): Tensor => unary('cos', x)
/** |x|, elementwise. The gradient at 0 is 0. */
export const abs = (x: Tensor): Tensor => unary('abs', x)
/** 1 / (1 + e^-x), elementwise. */
export const sigmoid = (x: Tensor): Tensor => unary('sigmoid', x)
/** 1 / x, elementwise. */
export const reciprocal = (x: Tensor): Tensor => unary('reciprocal', x)
/** x², elementwise. */
export const square = (x: Tensor): Tensor => unary('square', x)

/** a where condition is not 0, else b; all of one shape. */
export function where(condition: Tensor, a: Tensor, b: Tensor): Tensor {
  const y = emptyLike(a)
  y.device.kernels.where(y.handle, condition.handle, a.handle, b.handle)
  record('where', [null, a, b], [y], [condition], ([dy], context) => {
    const mask = context.saved[0]!
    const zero = Tensor.zeros(dy!.shape, { dtype: dy!.dtype, device: dy!.device })
    if (context.needs(1)) context.give(1, where(mask, dy!, zero))
    if (context.needs(2)) context.give(2, where(mask, zero, dy!))
  })
  return y
}

// --- Reductions ---

function reduced(x: Tensor, axes: readonly number[] | undefined): number[] {
  const wanted = new Set((axes ?? x.shape.map((_, i) => i)).map((axis) => axis < 0 ? x.rank + axis : axis))
  return x.shape.map((length, i) => wanted.has(i) ? 1 : length)
}

const dropOnes = (shape: Shape, x: Tensor, axes: readonly number[] | undefined): number[] => {
  const wanted = new Set((axes ?? x.shape.map((_, i) => i)).map((axis) => axis < 0 ? x.rank + axis : axis))
  return shape.filter((_, i) => !wanted.has(i))
}

/** Repeats along axes of length 1 until the shape is reached. */
export function broadcastTo(x: Tensor, shape: Shape): Tensor {
  return resultsOnly(() => add(x, Tensor.zeros(shape, { dtype: x.dtype, device: x.device })))
}

/** Sum over the axes, all by default. */
export function sum(x: Tensor, axes?: readonly number[], keepDims = false): Tensor {
  return resultsOnly(() => {
    const y = emptyLike(x, reduced(x, axes))
    x.device.kernels.reduce(y.handle, x.handle, reduceOperations.sum)
    const [full, kept] = [x.shape, y.shape]
    record('sum', [x], [y], [], ([dy], context) => { context.give(0, broadcastTo(dy!.viewAs(kept), full)) })
    return keepDims ? y : reshape(y, dropOnes(y.shape, x, axes))
  })
}

/** Mean over the axes, all by default. */
export function mean(x: Tensor, axes?: readonly number[], keepDims = false): Tensor {
  return resultsOnly(() => {
    const total = sum(x, axes, keepDims)
    return mul(total, total.size / x.size)
  })
}

/** Largest number over the axes, all by default. The gradient goes to each of the largest in equal parts. */
export function max(x: Tensor, axes?: readonly number[], keepDims = false): Tensor {
  return resultsOnly(() => {
    const y = emptyLike(x, reduced(x, axes))
    x.device.kernels.reduce(y.handle, x.handle, reduceOperations.max)
    const kept = y.shape
    record('max', [x], [y], [x, y], ([dy], context) => {
      const [savedX, savedY] = context.saved as [Tensor, Tensor]
      const hit = equal(savedX, savedY)
      const share = div(hit, sumTo(hit, kept))
      context.give(0, mul(share, dy!.viewAs(kept)))
    })
    return keepDims ? y : reshape(y, dropOnes(y.shape, x, axes))
  })
}

const sumTo = (x: Tensor, shape: Shape): Tensor => sum(x, shape.flatMap((length, i) => length === 1 ? [i] : []), true)

// --- Products ---

export interface MatmulOptions { transposeA?: boolean; transposeB?: boolean }

/** op(a) op(b) of matrices, or of batches of them (rank 3; a batch of 1 repeats). */
export function matmul(a: Tensor, b: Tensor, { transposeA = false, transposeB = false }: MatmulOptions = {}): Tensor {
  expect((a.rank === 2 || a.rank === 3) && a.rank === b.rank, 'matmul', () => `both operands must have rank 2 or 3, but have shapes ${shapeText(a.shape)} and ${shapeText(b.shape)}`)
  const [m, k] = transposeA ? [a.dim(-1), a.dim(-2)] : [a.dim(-2), a.dim(-1)]
  const [k2, n] = transposeB ? [b.dim(-1), b.dim(-2)] : [b.dim(-2), b.dim(-1)]
  expect(k === k2, 'matmul', () => `the inner lengths differ: ${k} of ${shapeText(a.shape)} and ${k2} of ${shapeText(b.shape)}`)
  const batch = a.rank === 3 ? [a.shape[0] === 1 ? b.shape[0]! : a.shape[0]!] : []
  expect(a.rank === 2 || a.shape[0] === b.shape[0] || a.shape[0] === 1 || b.shape[0] === 1, 'matmul', () => `batches of ${a.shape[0]!} and ${b.shape[0]!} do not broadcast`)
  const c = emptyLike(a, [...batch, m, n])
  c.device.kernels.gemm(c.handle, 0, a.handle, b.handle, 0, transposeA, transposeB, false, 0, false)
  const [shapeA, shapeB] = [a.shape, b.shape]
  record('matmul', [a, b], [c], [a, b], ([dc], context) => {
    const [savedA, savedB] = context.saved as [Tensor, Tensor]
    if (context.needs(0)) {
      const da = transposeA ? matmul(savedB, dc!, { transposeA: transposeB, transposeB: true }) : matmul(dc!, savedB, { transposeB: !transposeB })
      context.give(0, unbroadcast(da, shapeA))
    }
    if (context.needs(1)) {
      const db = transposeB ? matmul(dc!, savedA, { transposeA: true, transposeB: transposeA }) : matmul(savedA, dc!, { transposeA: !transposeA })
      context.give(1, unbroadcast(db, shapeB))
    }
  })
  return c
}
