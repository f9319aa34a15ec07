/** The precision of matrix products: float32, or bfloat16 operands with float32 sums. */
export type ComputeDtype = 'float32' | 'bfloat16'

let current: ComputeDtype = 'float32'

/**
 * Runs `body` with its matrix products and attention in `dtype`, as torch.autocast does: weights and activations stay as they are and are rounded
 * on the way into the product. Where the machine has no bfloat16 arithmetic, float32 is used instead.
 */
export function autocast<T>(dtype: ComputeDtype, body: () => T): T {
  const before = current
  current = dtype
  try {
    return body()
  } finally {
    current = before
  }
}

/** @internal Whether a product of these dtypes runs in bfloat16: by autocast, or because an operand is stored so. */
export const usesHalf = (...dtypes: string[]): boolean => current === 'bfloat16' || dtypes.every((dtype) => dtype === 'bfloat16')
