import { computeDtype } from '../tensor/autocast.ts'
import { isDecoding } from '../tensor/decoding.ts'
import type { DType } from '../tensor/dtype.ts'
import type { Tensor } from '../tensor/tensor.ts'

/** Whether a product of these dtypes runs in bfloat16: by autocast, or because all operands are stored so. */
export const usesHalf = (...dtypes: DType[]): boolean => computeDtype() === 'bfloat16' || dtypes.every((dtype) => dtype === 'bfloat16')

/** Whether products of x with weights of fewer than 32 bits take the kernels for new tokens. A GPU's kernels have a way of their own for few rows. */
export const usesDecoding = (x: Tensor): boolean => isDecoding() && x.device.name === 'cpu'
