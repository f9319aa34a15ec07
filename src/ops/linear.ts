import { resultsOnly } from '../tensor/scope.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { sizeOf } from '../tensor/tensor.ts'
import { activationDefinition, activationGradient } from './activation.ts'
import { usesDecoding, usesHalf } from './compute.ts'
import { emptyLike, expect, expectShape, fusedOp, shapeText } from './op.ts'
import { activations } from './operations.ts'
import type { Activation } from './operations.ts'
import { add, matmul, reshape } from './primitives.ts'

/** What `linear` takes beside input, weight and bias. */
export interface LinearOptions {
  /** Applied to the product in the same pass. */
  activation?: Activation
  /** Whether the weight is stored [in, out], as GPT-2's Conv1D has it, rather than [out, in]. */
  transposedWeight?: boolean
}

interface Attributes { activation: Activation; transposedWeight: boolean; half: boolean }

/** y = activation(x weightᵀ + bias) of flat x into y; `pre` receives the value before the activation. */
export function linearForward(y: Tensor, pre: Tensor | null, x: Tensor, weight: Tensor, bias: Tensor | null, { activation, transposedWeight, half }: Attributes): void {
  const { kernels } = x.device
  if (!pre && !transposedWeight && weight.dtype === 'bfloat16' && usesDecoding(x)) kernels.decode_matmul(y.handle, x.handle, weight.handle, bias?.handle ?? 0, activations[activation])
  else kernels.gemm(y.handle, pre?.handle ?? 0, x.handle, weight.handle, bias?.handle ?? 0, false, !transposedWeight, false, activations[activation], half)
}

const op = fusedOp<readonly [Tensor, Tensor, Tensor | null], Attributes, Tensor>({
  name: 'gemm',
  definition([x, weight, bias], { activation, transposedWeight }) {
    const product = matmul(x, weight, { transposeB: !transposedWeight })
    return activationDefinition(bias ? add(product, bias) : product, activation)
  },
  forward([x, weight, bias], attributes, save, wanted) {
    const y = emptyLike(x, [x.dim(0), weight.dim(attributes.transposedWeight ? 1 : 0)])
    const keepsPre = attributes.activation !== 'none' && [0, 1, 2].some(wanted)
    const pre = keepsPre ? emptyLike(y) : null
    linearForward(y, pre, x, weight, bias, attributes)
    save(x, weight, ...(pre ? [pre] : []))
    return y
  },
  backward([gradient], context, { activation, transposedWeight, half }) {
    const [x, weight, pre] = context.saved as [Tensor, Tensor, Tensor | undefined]
    const dy = pre ? activationGradient(gradient!, pre, activation) : gradient!
    const { kernels } = dy.device
    if (context.needs(0)) {
      // Several products of one input, such as q, k and v, sum their gradients in one place.
      const { tensor, accumulate } = context.target(0, x.dtype)
      kernels.gemm(tensor.handle, 0, dy.handle, weight.handle, 0, false, transposedWeight, accumulate, 0, half)
    }
    if (context.needs(1)) {
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

/**
 * y = activation(x weightᵀ + bias). x [..., in], weight [out, in] (or [in, out] where transposedWeight), bias [out]; y [..., out] in x's dtype.
 * x and weight may differ in dtype (float32, bfloat16). Equals torch.nn.functional.linear.
 */
export function linear(x: Tensor, weight: Tensor, bias: Tensor | null = null, { activation = 'none', transposedWeight = false }: LinearOptions = {}): Tensor {
  expect(weight.rank === 2, 'linear', () => `weight must have two axes, but has shape ${shapeText(weight.shape)}`)
  const [input, output] = transposedWeight ? [weight.shape[0]!, weight.shape[1]!] : [weight.shape[1]!, weight.shape[0]!]
  expect(x.rank >= 1 && x.dim(-1) === input, 'linear', () => `the last axis of x must be ${input}, as the weight ${shapeText(weight.shape)} takes, but x has shape ${shapeText(x.shape)}`)
  if (bias) expectShape('linear', 'bias', bias, [output], 'the outputs of the weight')
  return resultsOnly(() => {
    const rows = sizeOf(x.shape.slice(0, -1))
    const flat = x.rank === 2 ? x : reshape(x, [rows, input])
    const y = op([flat, weight, bias], { activation, transposedWeight, half: usesHalf(x.dtype, weight.dtype) })
    return x.rank === 2 ? y : reshape(y, [...x.shape.slice(0, -1), output])
  })
}
