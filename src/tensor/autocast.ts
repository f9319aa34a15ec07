/** The precision of matrix products: float32, or bfloat16 operands with float32 sums. */
export type ComputeDtype = 'float32' | 'bfloat16'

let current: ComputeDtype = 'float32'

/**
 * Runs `body` with its matrix products and attention in `dtype`, as torch.autocast does: weights and activations stay as they are and are rounded
 * on the way into the product. Where the machine has no bfloat16 arithmetic, float32 is used instead. `body` must be synchronous.
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

/** The precision in force. */
export const computeDtype = (): ComputeDtype => current
