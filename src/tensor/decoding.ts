let current = false

/**
 * Runs `body`, a forward pass over new tokens, one of each sequence. On the CPU its products with weights of 16, 8 or 4 bits take kernels made for reading
 * the weights once, whose sums are in another order than those of prompts and of training. Which kernels run never depends on the number of rows, so that
 * an answer does not depend on the others. `body` must be synchronous.
 */
export function decoding<T>(body: () => T): T {
  const before = current
  current = true
  try {
    return body()
  } finally {
    current = before
  }
}

/** Whether a pass over new tokens is running. */
export const isDecoding = (): boolean => current
