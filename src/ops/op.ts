import { ShapeError } from '../errors.ts'
import { isRecording, record } from '../tensor/autograd.ts'
import type { BackwardContext } from '../tensor/autograd.ts'
import type { DType } from '../tensor/dtype.ts'
import { resultsOnly } from '../tensor/scope.ts'
import { Tensor } from '../tensor/tensor.ts'
import type { Shape } from '../tensor/tensor.ts'

export type Inputs = readonly (Tensor | null)[]
type Outputs = Tensor | readonly Tensor[]

/**
 * A fused operation: what it means, in terms of other operations, and a pair of kernels that compute the same faster. The definition is the
 * truth: tests differentiate it in float64 and compare, and it runs wherever the kernels do not (float64).
 */
export interface FusedOp<In extends Inputs, Attributes extends object, Out extends Outputs> {
  /** The forward kernel's name, the same in kernels.def. */
  readonly name: string
  definition(inputs: In, attributes: Attributes): Out
  /** Calls the kernel and returns the result; `save` keeps tensors for backward. `wanted(i)`: backward will be asked for input i's gradient. */
  forward(inputs: In, attributes: Attributes, save: (...tensors: Tensor[]) => void, wanted: (i: number) => boolean): Out
  /** How many of the outputs, from the first on, have gradients. All by default. */
  readonly differentiable?: number
  backward(gradients: readonly (Tensor | null)[], context: BackwardContext, attributes: Attributes): void
}

/** Declares a fused operation and returns the function that applies it. */
export function fusedOp<In extends Inputs, Attributes extends object, Out extends Outputs>(op: FusedOp<In, Attributes, Out>) {
  const apply = (inputs: In, attributes: Attributes): Out => resultsOnly(() => {
    if (inputs.some((input) => input?.dtype === 'float64')) return op.definition(inputs, attributes)
    const saved: Tensor[] = []
    const result = op.forward(inputs, attributes, (...tensors) => { saved.push(...tensors) }, (i) => isRecording() && (inputs[i]?.requiresGrad ?? false))
    const outputs: readonly Tensor[] = result instanceof Tensor ? [result] : result
    record(op.name, inputs, outputs.slice(0, op.differentiable), saved, (gradients, context) => { op.backward(gradients, context, attributes) })
    return result
  })
  return Object.assign(apply, { op })
}

/** A result like `x`, of another shape or dtype where given. */
export const emptyLike = (x: Tensor, shape: Shape = x.shape, dtype: DType = x.dtype): Tensor => Tensor.empty(shape, { dtype, device: x.device })

export const shapeText = (shape: Shape): string => `[${shape.join(', ')}]`

/** Throws a ShapeError that starts with the operation's name unless the condition holds. */
export function expect(condition: boolean, operation: string, message: () => string): asserts condition {
  if (!condition) throw new ShapeError(`${operation}: ${message()}`)
}

export function expectShape(operation: string, what: string, tensor: Tensor, shape: Shape, why = ''): void {
  expect(tensor.rank === shape.length && tensor.shape.every((length, i) => length === shape[i]), operation,
    () => `${what} must have shape ${shapeText(shape)}${why && `, ${why},`} but has ${shapeText(tensor.shape)}`)
}

export function expectDtype(operation: string, what: string, tensor: Tensor, ...dtypes: DType[]): void {
  expect(dtypes.includes(tensor.dtype), operation, () => `${what} must be ${dtypes.join(' or ')}, but is ${tensor.dtype}`)
}

/** The gradient of output i, or zeros where nothing depended on it. */
export function gradientOr(gradient: Tensor | null | undefined, shape: Shape, like: Tensor, dtype: DType = like.dtype): Tensor {
  return gradient ?? Tensor.zeros(shape, { dtype, device: like.device })
}
