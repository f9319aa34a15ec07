import type { BackwardContext } from '../tensor/autograd.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { sizeOf } from '../tensor/tensor.ts'
import { emptyLike, expectShape, fusedOp, gradientOr } from './op.ts'
import { add, mean, mul, rsqrt, square, sub } from './primitives.ts'

const rowsOf = (x: Tensor): number => sizeOf(x.shape.slice(0, -1))

/** The place a parameter's gradient goes to; handle 0 where none is wanted. */
function targetOr(context: BackwardContext, i: number): { handle: number; accumulate: boolean } {
  if (!context.needs(i)) return { handle: 0, accumulate: false }
  const { tensor, accumulate } = context.target(i)
  return { handle: tensor.handle, accumulate }
}

interface RmsNormOptions {
  eps?: number
  /** Added to the weight: 1 in Gemma, else 0. */
  offset?: number
}
type RmsAttributes = Required<RmsNormOptions>

function rmsDefinition(x: Tensor, weight: Tensor, { eps, offset }: RmsAttributes): Tensor {
  const scaled = mul(x, rsqrt(add(mean(square(x), [-1], true), eps)))
  return mul(scaled, offset ? add(weight, offset) : weight)
}

function rmsBackward(dy: Tensor, dsum: Tensor | null, context: BackwardContext, offset: number, weightIndex: number): Tensor {
  const [x, weight, rstd] = context.saved as [Tensor, Tensor, Tensor]
  const dx = emptyLike(x)
  const dweight = targetOr(context, weightIndex)
  dx.device.kernels.rms_norm_backward(dx.handle, dweight.handle, dy.handle, dsum?.handle ?? 0, x.handle, weight.handle, rstd.handle, offset, dweight.accumulate)
  return dx
}

const rmsOp = fusedOp<readonly [Tensor, Tensor], RmsAttributes, Tensor>({
  name: 'rms_norm',
  definition: ([x, weight], attributes) => rmsDefinition(x, weight, attributes),
  forward([x, weight], { eps, offset }, save) {
    const [y, rstd] = [emptyLike(x), emptyLike(x, [rowsOf(x)], 'float32')]
    x.device.kernels.rms_norm(y.handle, rstd.handle, 0, x.handle, 0, weight.handle, eps, offset)
    save(x, weight, rstd)
    return y
  },
  backward([dy], context, { offset }) { context.give(0, rmsBackward(dy!, null, context, offset, 1)) },
})

/** x / sqrt(mean(x²) + eps) * (weight + offset) over the last axis; x [..., n], weight [n] (Zhang & Sennrich 2019). */
export function rmsNorm(x: Tensor, weight: Tensor, { eps = 1e-6, offset = 0 }: RmsNormOptions = {}): Tensor {
  expectShape('rmsNorm', 'weight', weight, [x.dim(-1)], 'the last axis of x')
  return rmsOp([x, weight], { eps, offset })
}

const addRmsOp = fusedOp<readonly [Tensor, Tensor, Tensor], RmsAttributes, readonly [Tensor, Tensor]>({
  name: 'rms_norm',
  definition([x, residual, weight], attributes) {
    const total = add(x, residual)
    return [rmsDefinition(total, weight, attributes), total]
  },
  forward([x, residual, weight], { eps, offset }, save) {
    const [y, total, rstd] = [emptyLike(x), emptyLike(x), emptyLike(x, [rowsOf(x)], 'float32')]
    x.device.kernels.rms_norm(y.handle, rstd.handle, total.handle, x.handle, residual.handle, weight.handle, eps, offset)
    save(total, weight, rstd)
    return [y, total]
  },
  backward([dy, dtotal], context, { offset }) {
    const total = context.saved[0]!
    const dx = rmsBackward(gradientOr(dy, total.shape, total), dtotal ?? null, context, offset, 2)
    context.give(0, dx)
    context.give(1, dx)
  },
})

/** The residual sum x + residual and its RMSNorm in one pass: [normalised, sum]. */
export function addRmsNorm(x: Tensor, residual: Tensor, weight: Tensor, { eps = 1e-6, offset = 0 }: RmsNormOptions = {}): readonly [Tensor, Tensor] {
  expectShape('addRmsNorm', 'residual', residual, x.shape, 'that of x')
  expectShape('addRmsNorm', 'weight', weight, [x.dim(-1)], 'the last axis of x')
  return addRmsOp([x, residual, weight], { eps, offset })
}

interface LayerNormOptions { eps?: number }

function layerDefinition(x: Tensor, weight: Tensor, bias: Tensor | null, eps: number): Tensor {
  const centred = sub(x, mean(x, [-1], true))
  const scaled = mul(mul(centred, rsqrt(add(mean(square(centred), [-1], true), eps))), weight)
  return bias ? add(scaled, bias) : scaled
}

function layerBackward(dy: Tensor, dsum: Tensor | null, context: BackwardContext, weightIndex: number): Tensor {
  const [x, weight, mean_, rstd] = context.saved as [Tensor, Tensor, Tensor, Tensor]
  const dx = emptyLike(x)
  const dweight = targetOr(context, weightIndex)
  const dbias = targetOr(context, weightIndex + 1)
  const call = (weightHandle: number, biasHandle: number, accumulate: boolean): void => {
    dx.device.kernels.layer_norm_backward(dx.handle, weightHandle, biasHandle, dy.handle, dsum?.handle ?? 0, x.handle, weight.handle, mean_.handle, rstd.handle, accumulate)
  }
  if (dweight.handle === 0 || dbias.handle === 0 || dweight.accumulate === dbias.accumulate) call(dweight.handle, dbias.handle, dweight.accumulate || dbias.accumulate)
  else {
    call(dweight.handle, 0, dweight.accumulate)
    call(0, dbias.handle, dbias.accumulate)
  }
  return dx
}

const layerOp = fusedOp<readonly [Tensor, Tensor, Tensor | null], { eps: number }, Tensor>({
  name: 'layer_norm',
  definition: ([x, weight, bias], { eps }) => layerDefinition(x, weight, bias, eps),
  forward([x, weight, bias], { eps }, save) {
    const rows = rowsOf(x)
    const [y, mean_, rstd] = [emptyLike(x), emptyLike(x, [rows], 'float32'), emptyLike(x, [rows], 'float32')]
    x.device.kernels.layer_norm(y.handle, mean_.handle, rstd.handle, 0, x.handle, 0, weight.handle, bias?.handle ?? 0, eps)
    save(x, weight, mean_, rstd)
    return y
  },
  backward([dy], context) { context.give(0, layerBackward(dy!, null, context, 1)) },
})

/** (x - mean) / sqrt(variance + eps) * weight + bias over the last axis; weight and bias [n] (Ba et al. 2016). */
export function layerNorm(x: Tensor, weight: Tensor, bias: Tensor | null = null, { eps = 1e-5 }: LayerNormOptions = {}): Tensor {
  expectShape('layerNorm', 'weight', weight, [x.dim(-1)], 'the last axis of x')
  if (bias) expectShape('layerNorm', 'bias', bias, [x.dim(-1)], 'the last axis of x')
  return layerOp([x, weight, bias], { eps })
}

const addLayerOp = fusedOp<readonly [Tensor, Tensor, Tensor, Tensor | null], { eps: number }, readonly [Tensor, Tensor]>({
  name: 'layer_norm',
  definition([x, residual, weight, bias], { eps }) {
    const total = add(x, residual)
    return [layerDefinition(total, weight, bias, eps), total]
  },
  forward([x, residual, weight, bias], { eps }, save) {
    const rows = rowsOf(x)
    const [y, total, mean_, rstd] = [emptyLike(x), emptyLike(x), emptyLike(x, [rows], 'float32'), emptyLike(x, [rows], 'float32')]
    x.device.kernels.layer_norm(y.handle, mean_.handle, rstd.handle, total.handle, x.handle, residual.handle, weight.handle, bias?.handle ?? 0, eps)
    save(total, weight, mean_, rstd)
    return [y, total]
  },
  backward([dy, dtotal], context) {
    const total = context.saved[0]!
    const dx = layerBackward(gradientOr(dy, total.shape, total), dtotal ?? null, context, 2)
    context.give(0, dx)
    context.give(1, dx)
  },
})

/** The residual sum x + residual and its LayerNorm in one pass: [normalised, sum]. */
export function addLayerNorm(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor | null = null, { eps = 1e-5 }: LayerNormOptions = {}): readonly [Tensor, Tensor] {
  expectShape('addLayerNorm', 'residual', residual, x.shape, 'that of x')
  expectShape('addLayerNorm', 'weight', weight, [x.dim(-1)], 'the last axis of x')
  if (bias) expectShape('addLayerNorm', 'bias', bias, [x.dim(-1)], 'the last axis of x')
  return addLayerOp([x, residual, weight, bias], { eps })
}
