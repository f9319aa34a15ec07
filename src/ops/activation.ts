import type { Tensor } from '../tensor/tensor.ts'
import { emptyLike, expectShape, fusedOp } from './op.ts'
import { activations } from './operations.ts'
import type { Activation } from './operations.ts'
import { add, erf, maximum, mul, sigmoid, tanh } from './primitives.ts'

/** @internal What each activation means. */
export function activationDefinition(x: Tensor, kind: Activation): Tensor {
  switch (kind) {
    case 'none': return x
    case 'gelu': return mul(mul(x, 0.5), add(erf(mul(x, Math.SQRT1_2)), 1))
    case 'gelu_tanh': return mul(mul(x, 0.5), add(tanh(mul(add(x, mul(mul(mul(x, x), x), 0.044715)), Math.sqrt(2 / Math.PI))), 1))
    case 'silu': return mul(x, sigmoid(x))
    case 'relu': return maximum(x, 0)
    case 'tanh': return tanh(x)
    case 'quick_gelu': return mul(x, sigmoid(mul(x, 1.702)))
  }
}

/** @internal dy times the derivative of the activation at x. */
export function activationGradient(dy: Tensor, x: Tensor, kind: Activation): Tensor {
  const dx = emptyLike(x)
  dx.device.kernels.activation_backward(dx.handle, dy.handle, x.handle, activations[kind])
  return dx
}

const activationOp = fusedOp<readonly [Tensor], { kind: Activation }, Tensor>({
  name: 'activation',
  definition: ([x], { kind }) => activationDefinition(x, kind),
  forward([x], { kind }, save) {
    const y = emptyLike(x)
    x.device.kernels.activation(y.handle, x.handle, activations[kind])
    save(x)
    return y
  },
  backward([dy], context, { kind }) { context.give(0, activationGradient(dy!, context.saved[0]!, kind)) },
})

/** An activation by name: gelu (exact), gelu_tanh (GPT-2's gelu_new), silu, relu, tanh, quick_gelu. */
export const activation = (x: Tensor, kind: Activation): Tensor => activationOp([x], { kind })
/** x Φ(x), with the exact error function (Hendrycks and Gimpel, 2016). Floating-point, any shape; differentiable. */
export const gelu = (x: Tensor): Tensor => activation(x, 'gelu')
/** GELU by its tanh approximation, as GPT-2 has it (gelu_new, gelu_pytorch_tanh). Floating-point, any shape; differentiable. */
export const geluTanh = (x: Tensor): Tensor => activation(x, 'gelu_tanh')
/** x sigmoid(x), also called swish. Floating-point, any shape; differentiable. */
export const silu = (x: Tensor): Tensor => activation(x, 'silu')
/** max(x, 0). Floating-point, any shape; differentiable. */
export const relu = (x: Tensor): Tensor => activation(x, 'relu')

const gatedOp = fusedOp<readonly [Tensor, Tensor], { kind: Activation }, Tensor>({
  name: 'gated_activation',
  definition: ([gate, up], { kind }) => mul(activationDefinition(gate, kind), up),
  forward([gate, up], { kind }, save) {
    const y = emptyLike(gate)
    y.device.kernels.gated_activation(y.handle, gate.handle, up.handle, activations[kind])
    save(gate, up)
    return y
  },
  backward([dy], context, { kind }) {
    const [gate, up] = context.saved as [Tensor, Tensor]
    const [dgate, dup] = [emptyLike(gate), emptyLike(up)]
    dy!.device.kernels.gated_activation_backward(dgate.handle, dup.handle, dy!.handle, gate.handle, up.handle, activations[kind])
    context.give(0, dgate)
    context.give(1, dup)
  },
})

/** activation(gate) * up, elementwise: SwiGLU for silu, GeGLU for gelu (Shazeer 2020). */
export function gatedActivation(gate: Tensor, up: Tensor, kind: Activation = 'silu'): Tensor {
  expectShape('gatedActivation', 'up', up, gate.shape, 'that of gate')
  return gatedOp([gate, up], { kind })
}

/** silu(gate) × up, of two tensors of one shape (Shazeer, 2020). Differentiable in both. */
export const swiglu = (gate: Tensor, up: Tensor): Tensor => gatedActivation(gate, up, 'silu')
