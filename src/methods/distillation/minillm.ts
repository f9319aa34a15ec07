import { gae, gather, mul, reshape, sub } from '../../ops/index.ts'
import { Tensor } from '../../tensor/index.ts'

export interface MiniLlmOptions { gamma: number; lengthNormalization: boolean }

/** Where completions lie among packed tokens: the sequences' bounds, and which places count. */
export interface CompletionPlaces { cuSeqlens: ArrayLike<number>; counts: (token: number) => boolean }

/**
 * MiniLLM's advantage of each token (arXiv 2306.08543; TRL's MiniLLMTrainer): R = log p of the teacher - log p of the student; with gamma > 0
 * sum over i >= t of gamma^i R_i, i counted from the completion's first token, over the sum of gamma^i where lengthNormalization. [tokens], 0 at
 * places that do not count. Unlike TRL's, padding has no part in it, and it is a constant of the student.
 */
export function miniLlmAdvantages(student: Tensor, teacher: Tensor, places: CompletionPlaces, { gamma, lengthNormalization }: MiniLlmOptions): Tensor {
  const rewards = sub(teacher.detach(), student.detach())
  const { device, dtype, size } = rewards
  const completions = Array.from({ length: places.cuSeqlens.length - 1 }, (_, i) => {
    const all = Array.from({ length: places.cuSeqlens[i + 1]! - places.cuSeqlens[i]! }, (__, t) => places.cuSeqlens[i]! + t)
    return all.filter((token) => places.counts(token))
  })
  const factors = new Float64Array(size)
  if (gamma === 0) {
    for (const token of completions.flat()) factors[token] = 1
    return mul(rewards, Tensor.from(factors, [size], { dtype, device }))
  }
  // The sums to come are a scan over rectangles, where a completion's tokens stand at the left.
  const steps = Math.max(1, ...completions.map(({ length }) => length))
  const [from, back, mask] = [new Int32Array(completions.length * steps), new Int32Array(size), new Float64Array(completions.length * steps)]
  completions.forEach((tokens, row) => {
    let length = 0
    for (let step = tokens.length - 1; step >= 0; step--) {
      const token = tokens[step]!
      length = 1 + gamma * length
      from[row * steps + step] = token
      mask[row * steps + step] = 1
      back[token] = row * steps + step
      factors[token] = lengthNormalization ? 1 / length : gamma ** step
    }
  })
  const shape = [completions.length, steps]
  const index = (values: Int32Array): Tensor => Tensor.from(values, [1, values.length], { device })
  const rectangle = mul(reshape(gather(reshape(rewards, [1, size]), index(from)), shape), Tensor.from(mask, shape, { dtype, device }))
  const { advantages } = gae(rectangle, Tensor.zeros(shape, { dtype, device }), { gamma, lambda: 1 })
  return mul(reshape(gather(reshape(advantages, [1, shape[0]! * steps]), index(back)), [size]), Tensor.from(factors, [size], { dtype, device }))
}
