// What the cases of kernels that are not fused operations share.
import { Tensor } from '../../../src/tensor/index.ts'
import type { DType, Shape } from '../../../src/tensor/index.ts'
import { float } from '../case.ts'
import type { FloatInput, OpCase } from '../case.ts'

export const numbers = 1 << 24
export const square = [4096, 4096]

/** Without a gradient, in the case's dtype. */
export const constant = (shape: Shape, options: { low?: number; high?: number } = {}): FloatInput => float(shape, { ...options, gradient: false })
/** Without a gradient, in float32 whatever the case's dtype is. */
export const single = (shape: Shape, low = 0, high = 1): FloatInput => float(shape, { low, high, gradient: false, fixed: 'float32' })

/** An empty tensor beside another. */
export const beside = (x: Tensor, shape: Shape, dtype: DType = x.dtype): Tensor => Tensor.empty(shape, { dtype, device: x.device })

/** `passes` numbers of the case's dtype moved for each element. */
export const moving = (elements: number, passes: number): OpCase['forward'] => ({ bytes: (size) => elements * passes * size })

/** A case that is only timed. */
export const timed = (op: string, name: string, inputs: OpCase['inputs'], forward: OpCase['forward'], run: OpCase['run'] | Pick<OpCase, 'run' | 'prepare'>, more: Partial<OpCase> = {}): OpCase =>
  ({ op, name, inputs, forward, ...(typeof run === 'function' ? { run } : run), benchOnly: true, ...more })
