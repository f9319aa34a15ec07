import type { Tensor } from '../../tensor/index.ts'

/** The k most probable tokens of each row of logits, the most probable first, equal ones by id; and log softmax(logits / temperature) of them. */
export async function readMostProbable(logits: Tensor, k: number, temperature: number): Promise<{ ids: Int32Array, logprobs: Float32Array }> {
  const [rows, vocabulary] = [logits.dim(0), logits.dim(1)]
  const values = await logits.data() as Float32Array
  const [ids, logprobs] = [new Int32Array(rows * k), new Float32Array(rows * k)]
  for (let row = 0; row < rows; row++) {
    const own = values.subarray(row * vocabulary, (row + 1) * vocabulary)
    const found = largest(own, k)
    const top = own[found[0]!]!
    let total = 0
    for (const x of own) total += Math.exp((x - top) / temperature)
    const lse = top / temperature + Math.log(total)
    ids.set(found, row * k)
    for (let i = 0; i < k; i++) logprobs[row * k + i] = own[found[i]!]! / temperature - lse
  }
  return { ids, logprobs }
}

/** The places of the k largest numbers, in order. */
function largest(values: Float32Array, k: number): Int32Array {
  // A heap whose root is the least of those kept so far.
  const heap = new Int32Array(k)
  const before = (a: number, b: number): boolean => values[a]! < values[b]! || (values[a] === values[b] && a > b)
  const sink = (at: number, size: number): void => {
    for (;;) {
      let least = at
      for (const child of [2 * at + 1, 2 * at + 2]) if (child < size && before(heap[child]!, heap[least]!)) least = child
      if (least === at) return
      ;[heap[at], heap[least]] = [heap[least]!, heap[at]!]
      at = least
    }
  }
  for (let i = 0; i < k; i++) heap[i] = i
  for (let i = Math.floor(k / 2) - 1; i >= 0; i--) sink(i, k)
  for (let i = k; i < values.length; i++) {
    if (!before(heap[0]!, i)) continue
    heap[0] = i
    sink(0, k)
  }
  for (let size = k - 1; size > 0; size--) {
    [heap[0], heap[size]] = [heap[size]!, heap[0]!]
    sink(0, size)
  }
  return heap
}
