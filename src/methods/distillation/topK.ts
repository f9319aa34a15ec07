import { add, mul, reshape, selectiveLogSoftmax, slice, sub, toDtype, topK } from '../../ops/index.ts'
import type { Tensor } from '../../tensor/index.ts'

/**
 * The k most probable tokens of each row of logits, the most probable first, equal ones by id; and log softmax(logits / temperature) of them. All of it is
 * found where the logits are: what is read back is [rows, k].
 */
export async function readMostProbable(logits: Tensor, k: number, temperature: number): Promise<{ ids: Int32Array, logprobs: Float32Array }> {
  const rows = logits.dim(0)
  const { value, index } = topK(logits, k)
  const largest = slice(value, [0, 0], [rows, 1])
  const { logprob } = selectiveLogSoftmax(logits, reshape(slice(index, [0, 0], [rows, 1]), [rows]), { temperature })
  const logprobs = add(mul(toDtype(sub(value, largest), 'float32'), 1 / temperature), reshape(logprob, [rows, 1]))
  const [ids, logs] = await Promise.all([index.data(), logprobs.data()])
  return { ids: ids as Int32Array, logprobs: logs as Float32Array }
}
