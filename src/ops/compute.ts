import { computeDtype } from '../tensor/autocast.ts'
import type { DType } from '../tensor/dtype.ts'

/** Whether a product of these dtypes runs in bfloat16: by autocast, or because all operands are stored so. */
export const usesHalf = (...dtypes: DType[]): boolean => computeDtype() === 'bfloat16' || dtypes.every((dtype) => dtype === 'bfloat16')
