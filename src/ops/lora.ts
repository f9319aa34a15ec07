import { resultsOnly } from '../tensor/scope.ts'
import { Tensor } from '../tensor/tensor.ts'
import { sizeOf } from '../tensor/tensor.ts'
import { usesHalf } from './compute.ts'
import { linearForward } from './linear.ts'
import { emptyLike, expect, expectShape, fusedOp, shapeText } from './op.ts'
import { quantizedFormats } from './operations.ts'
import { add, matmul, mul, reshape } from './primitives.ts'
import { QuantizedTensor } from './quantization.ts'
import { checkQuantized, quantizedBackward, quantizedDefinition, quantizedForward } from './quantizedMatmul.ts'

/** What `loraLinear` takes beside input, weight and the adapter's two matrices. */
export interface LoraLinearOptions {
  bias?: Tensor | null
  /** alpha / rank, or what rsLoRA makes of it. */
  scale: number
  /** What the adapter sees instead of x: x after dropout, usually. */
  adapterInput?: Tensor | null
  /** Whether a weight that is not quantised is stored [in, out], as GPT-2's Conv1D has it. */
  transposedWeight?: boolean
}

interface Attributes { quantized: QuantizedTensor | null; scale: number; transposedWeight: boolean; half: boolean; adapterHalf: boolean }

// x, weight, bias, a, b, adapterInput. There is no kernel of its own: three products of which the last adds into y. Fusing them would save one reading and
// writing of y, some percent of the large product, and a second copy of every matrix product's kernel.
const op = fusedOp<readonly [Tensor, Tensor | null, Tensor | null, Tensor, Tensor, Tensor | null], Attributes, Tensor>({
  name: 'lora_linear',
  definition([x, weight, bias, a, b, adapterInput], { quantized, scale, transposedWeight }) {
    const product = quantized ? quantizedDefinition(x, quantized, null) : matmul(x, weight!, { transposeB: !transposedWeight })
    const update = mul(matmul(matmul(adapterInput ?? x, a, { transposeB: true }), b, { transposeB: true }), scale)
    return add(bias ? add(product, bias) : product, update)
  },
  forward([x, weight, bias, a, b, adapterInput], { quantized, scale, transposedWeight, half, adapterHalf }, save) {
    const { kernels } = x.device
    const input = adapterInput ?? x
    const y = quantized ? quantizedForward(x, quantized, bias, half) : emptyLike(x, [x.dim(0), weight!.dim(transposedWeight ? 1 : 0)])
    if (!quantized) linearForward(y, null, x, weight!, bias, { activation: 'none', transposedWeight, half })
    // In float32 whatever the dtype of x: what is small is kept exact.
    const inner = emptyLike(x, [x.dim(0), a.dim(0)], 'float32')
    kernels.gemm(inner.handle, 0, input.handle, a.handle, 0, false, true, false, 0, adapterHalf)
    const scaled = scale === 1 ? inner : mul(inner, scale)
    kernels.gemm(y.handle, 0, scaled.handle, b.handle, 0, false, true, true, 0, adapterHalf)
    save(x, a, b, scaled, ...(weight ? [weight] : []), ...(adapterInput ? [adapterInput] : []))
    return y
  },
  backward([gradient], context, { quantized, scale, transposedWeight, half, adapterHalf }) {
    const [x, a, b, scaled, ...rest] = context.saved as [Tensor, Tensor, Tensor, Tensor, ...Tensor[]]
    const weight = quantized ? null : rest.shift()!
    const adapterInput = rest[0]
    const dy = gradient!
    const { kernels } = dy.device
    const [wantsX, wantsInput] = [context.needs(0), adapterInput !== undefined && context.needs(5)]
    if (context.needs(4)) {
      const { tensor, accumulate } = context.target(4)
      kernels.gemm(tensor.handle, 0, dy.handle, scaled.handle, 0, true, false, accumulate, 0, adapterHalf)
    }
    const wantsInner = context.needs(3) || wantsInput || (wantsX && !adapterInput)
    const dinner = wantsInner ? emptyLike(dy, [dy.dim(0), b.dim(1)], 'float32') : null
    let scaledInner = dinner
    if (dinner) {
      kernels.gemm(dinner.handle, 0, dy.handle, b.handle, 0, false, false, false, 0, adapterHalf)
      if (scale !== 1) scaledInner = mul(dinner, scale)
    }
    if (context.needs(3)) {
      const { tensor, accumulate } = context.target(3)
      kernels.gemm(tensor.handle, 0, scaledInner!.handle, (adapterInput ?? x).handle, 0, true, false, accumulate, 0, adapterHalf)
    }
    if (wantsX) {
      const dx = quantized ? quantizedBackward(dy, quantized, half) : emptyLike(x)
      if (weight) kernels.gemm(dx.handle, 0, dy.handle, weight.handle, 0, false, transposedWeight, false, 0, half)
      if (!adapterInput) kernels.gemm(dx.handle, 0, scaledInner!.handle, a.handle, 0, false, false, true, 0, adapterHalf)
      context.give(0, dx)
    }
    if (adapterInput && wantsInput) {
      const dinput = emptyLike(adapterInput)
      kernels.gemm(dinput.handle, 0, scaledInner!.handle, a.handle, 0, false, false, false, 0, adapterHalf)
      context.give(5, dinput)
    }
    if (weight && context.needs(1)) {
      const { tensor, accumulate } = context.target(1)
      const [left, right] = transposedWeight ? [x, dy] : [dy, x]
      kernels.gemm(tensor.handle, 0, left.handle, right.handle, 0, true, false, accumulate, 0, half)
    }
    if (context.needs(2)) {
      const { tensor, accumulate } = context.target(2)
      kernels.sum_rows(tensor.handle, dy.handle, accumulate)
    }
  },
})

function checkFactors(operation: string, a: Tensor, b: Tensor, input: number, output: number): void {
  expect(a.rank === 2 && a.dim(1) === input, operation, () => `a must have shape [rank, ${input}], but has ${shapeText(a.shape)}`)
  expectShape(operation, 'b', b, [output, a.dim(0)], 'the outputs by the rank')
}

/**
 * LoRA (Hu et al., 2021): y = x Wᵀ + bias + scale (x Aᵀ) Bᵀ. x [..., in] float32 or bfloat16; W [out, in], a tensor or quantised; a [rank, in] and
 * b [out, rank], of x's dtype or float32. y [..., out] in x's dtype. Equals PEFT's lora.Linear.
 */
export function loraLinear(
  x: Tensor, weight: Tensor | QuantizedTensor, a: Tensor, b: Tensor, { bias = null, scale, adapterInput = null, transposedWeight = false }: LoraLinearOptions,
): Tensor {
  const quantized = weight instanceof QuantizedTensor ? weight : null
  if (quantized) checkQuantized('loraLinear', x, quantized, bias)
  expect(weight.shape.length === 2, 'loraLinear', () => `weight must have two axes, but has shape ${shapeText(weight.shape)}`)
  const [output, input] = (transposedWeight && !quantized ? [weight.shape[1]!, weight.shape[0]!] : weight.shape) as [number, number]
  expect(x.rank >= 1 && x.dim(-1) === input, 'loraLinear', () => `the last axis of x must be ${input}, as the weight ${shapeText(weight.shape)} takes, but x has shape ${shapeText(x.shape)}`)
  checkFactors('loraLinear', a, b, input, output)
  if (bias) expectShape('loraLinear', 'bias', bias, [output], 'the outputs of the weight')
  if (adapterInput) expectShape('loraLinear', 'adapterInput', adapterInput, x.shape, 'that of x')
  return resultsOnly(() => {
    const rows = sizeOf(x.shape.slice(0, -1))
    const flat = (tensor: Tensor): Tensor => tensor.rank === 2 ? tensor : reshape(tensor, [rows, input])
    const dense = quantized ? null : weight as Tensor
    const y = op([flat(x), dense, bias, a, b, adapterInput && flat(adapterInput)], {
      quantized, scale, transposedWeight, half: dense ? usesHalf(x.dtype, dense.dtype) : usesHalf(x.dtype), adapterHalf: usesHalf(x.dtype, a.dtype, b.dtype),
    })
    return x.rank === 2 ? y : reshape(y, [...x.shape.slice(0, -1), output])
  })
}

/**
 * weight += scale * b a in place: the sum in float32, rounded once. weight [out, in] (or [in, out] where transposed) float32 or bfloat16; a [rank, in],
 * b [out, rank]. A negative scale takes the update out again, up to rounding.
 */
export function mergeLora(weight: Tensor, a: Tensor, b: Tensor, scale: number, { transposedWeight = false }: { transposedWeight?: boolean } = {}): void {
  expect(weight.rank === 2, 'mergeLora', () => `weight must have two axes, but has shape ${shapeText(weight.shape)}`)
  checkFactors('mergeLora', a, b, weight.dim(transposedWeight ? 0 : 1), weight.dim(transposedWeight ? 1 : 0))
  weight.device.kernels.lora_merge(weight.handle, b.handle, a.handle, scale, transposedWeight)
}

/**
 * The same into a quantised weight: widened, added to and rounded again with new scales. Returns float64 [2]: the sum of squares of what rounding
 * changed, and of the exact merged weight; the root of their ratio is the relative error of requantising.
 */
export function mergeLoraQuantized(weight: QuantizedTensor, a: Tensor, b: Tensor, scale: number): Tensor {
  expect(weight.multiplies, 'mergeLoraQuantized', () => `weight must be nf4, fp4, int8 or int4 of two axes with blocks that divide its rows, but is ${weight.format} ${shapeText(weight.shape)} in blocks of ${weight.block}`)
  checkFactors('mergeLoraQuantized', a, b, weight.shape[1]!, weight.shape[0]!)
  const { codes, scales, zeros, format, order } = weight
  return resultsOnly(() => {
    const error = Tensor.empty([2], { dtype: 'float64', device: codes.device })
    const columns = order ? order.toWeight(a) : a
    codes.device.kernels.lora_merge_quantized(codes.handle, scales.handle, zeros?.handle ?? 0, error.handle, b.handle, columns.handle, scale, quantizedFormats[format])
    return error
  })
}
