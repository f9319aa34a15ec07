import { ConfigError } from '../errors.ts'
import { ignoreIndex } from '../ops/index.ts'
import type { LabelledSequences } from './scorer.ts'

/**
 * Windows over a long sequence, as transformers' guide to perplexity has them: each begins `stride` tokens after the last and predicts what that
 * one did not reach. Every token but the first is predicted once, where stride < maxLength.
 */
export function* slidingWindows(inputIds: Int32Array, maxLength: number, stride: number): Generator<LabelledSequences> {
  let reached = 0
  for (let begin = 0; reached < inputIds.length; begin += stride) {
    const end = Math.min(begin + maxLength, inputIds.length)
    const labels = inputIds.slice(begin, end)
    labels.fill(ignoreIndex, 0, reached - begin)
    yield { inputIds: inputIds.subarray(begin, end), labels }
    reached = end
  }
}

/** Throws ConfigError unless these lengths make sense for the model. */
export function checkWindows(maxLength: number, stride: number, contextLength: number): void {
  if (!Number.isInteger(maxLength) || maxLength < 2 || maxLength > contextLength) throw new ConfigError(`maxLength: expected a whole number from 2 to ${contextLength}, the model's context, got ${maxLength}`)
  if (!Number.isInteger(stride) || stride < 1 || stride >= maxLength) throw new ConfigError(`stride: expected a whole number from 1 to ${maxLength - 1}, below maxLength, so that each token has one before it, got ${stride}`)
}
