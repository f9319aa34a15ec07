import { nextStream } from '../tensor/random.ts'
import { Tensor } from '../tensor/tensor.ts'
import { emptyLike, expect, fusedOp } from './op.ts'
import { mul, toDtype } from './primitives.ts'

interface Attributes { p: number; seed: number; stream: number }

/** @internal x with the elements dropped that (seed, stream) says; nothing is recorded. */
export function dropoutApplied(x: Tensor, { p, seed, stream }: Attributes): Tensor {
  const y = emptyLike(x)
  x.device.kernels.dropout(y.handle, x.handle, p, seed, stream)
  return y
}

const op = fusedOp<readonly [Tensor], Attributes, Tensor>({
  name: 'dropout',
  // The mask is the kernel's own: it is a function of seed, stream and index, not of x.
  definition: ([x], attributes) => mul(x, toDtype(dropoutApplied(Tensor.ones(x.shape, { device: x.device }), attributes), x.dtype)),
  forward: ([x], attributes) => dropoutApplied(x, attributes),
  // Multiplying by the same mask is its own transpose.
  backward([dy], context, attributes) { context.give(0, dropoutApplied(dy!, attributes)) },
})

/** Sets each number to 0 with probability p and divides the rest by 1 - p. Draws from the next stream of manualSeed(). */
export function dropout(x: Tensor, p: number): Tensor {
  expect(p >= 0 && p < 1, 'dropout', () => `p must be at least 0 and below 1, but is ${p}`)
  return p === 0 ? x : op([x], { p, ...nextStream() })
}
