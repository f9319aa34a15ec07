import type { DType } from '../tensor/dtype.ts'
import { resultsOnly } from '../tensor/scope.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { sizeOf } from '../tensor/tensor.ts'
import { usesDecoding, usesHalf } from './compute.ts'
import { emptyLike, expect, expectShape, fusedOp, shapeText } from './op.ts'
import { quantizedFormats } from './operations.ts'
import { add, matmul, reshape, toDtype } from './primitives.ts'
import { dequantize } from './quantization.ts'
import type { QuantizedTensor } from './quantization.ts'

interface Attributes { weight: QuantizedTensor; half: boolean }

/** y = x Wᵀ + bias of flat x, in x's dtype where no other is given. */
export function quantizedForward(x: Tensor, weight: QuantizedTensor, bias: Tensor | null, half: boolean, dtype: DType = x.dtype): Tensor {
  const y = emptyLike(x, [x.dim(0), weight.shape[0]!], dtype)
  const { kernels } = x.device
  const ordered = weight.order ? weight.order.toWeight(x) : x
  const [zeros, added, format] = [weight.zeros?.handle ?? 0, bias?.handle ?? 0, quantizedFormats[weight.format]]
  if (usesDecoding(x)) kernels.decode_quantized_matmul(y.handle, ordered.handle, weight.codes.handle, weight.scales.handle, zeros, added, format)
  else kernels.quantized_matmul(y.handle, ordered.handle, weight.codes.handle, weight.scales.handle, zeros, added, format, half)
  return y
}
/** dx = dy W. */
export function quantizedBackward(dy: Tensor, weight: QuantizedTensor, half: boolean): Tensor {
  const dx = emptyLike(dy, [dy.dim(0), weight.shape[1]!])
  dy.device.kernels.quantized_matmul_backward(dx.handle, dy.handle, weight.codes.handle, weight.scales.handle, weight.zeros?.handle ?? 0, quantizedFormats[weight.format], half)
  return weight.order ? weight.order.toInputs(dx) : dx
}
export function quantizedDefinition(x: Tensor, weight: QuantizedTensor, bias: Tensor | null): Tensor {
  const product = matmul(x, toDtype(dequantize(weight), x.dtype), { transposeB: true })
  return bias ? add(product, bias) : product
}

const op = fusedOp<readonly [Tensor, Tensor | null], Attributes, Tensor>({
  name: 'quantized_matmul',
  definition: ([x, bias], { weight }) => quantizedDefinition(x, weight, bias),
  forward: ([x, bias], { weight, half }) => quantizedForward(x, weight, bias, half),
  backward([dy], context, { weight, half }) {
    if (context.needs(0)) context.give(0, quantizedBackward(dy!, weight, half))
    if (context.needs(1)) {
      const { tensor, accumulate } = context.target(1)
      dy!.device.kernels.sum_rows(tensor.handle, dy!.handle, accumulate)
    }
  },
})

export function checkQuantized(operation: string, x: Tensor, weight: QuantizedTensor, bias: Tensor | null): void {
  expect(weight.multiplies, operation, () => `weight must be nf4, fp4, int8 or int4 of two axes with blocks that divide its rows, but is ${weight.format} ${shapeText(weight.shape)} in blocks of ${weight.block}; dequantize it`)
  const [output, input] = weight.shape as [number, number]
  expect(x.rank >= 1 && x.dim(-1) === input, operation, () => `the last axis of x must be ${input}, as the weight ${shapeText(weight.shape)} takes, but x has shape ${shapeText(x.shape)}`)
  if (bias) expectShape(operation, 'bias', bias, [output], 'the outputs of the weight')
}

/**
 * y = x Wᵀ + bias with a frozen, quantised W [out, in]; x [..., in] float32 or bfloat16, y [..., out] in x's dtype. The weight is read as it lies: a
 * row costs its packed bytes. Gradients go to x and bias.
 */
export function quantizedMatmul(x: Tensor, weight: QuantizedTensor, bias: Tensor | null = null): Tensor {
  checkQuantized('quantizedMatmul', x, weight, bias)
  return resultsOnly(() => {
    const rows = sizeOf(x.shape.slice(0, -1))
    const flat = x.rank === 2 ? x : reshape(x, [rows, weight.shape[1]!])
    const y = op([flat, bias], { weight, half: usesHalf(x.dtype) })
    return x.rank === 2 ? y : reshape(y, [...x.shape.slice(0, -1), weight.shape[0]!])
  })
}
