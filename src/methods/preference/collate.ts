import { ignoreIndex, type CompletionExample } from '../../data/index.ts'
import type { CompletionSpans } from './completionRows.ts'

/** Prompts with completions one after another, without padding. */
export interface CompletionBatch extends CompletionSpans {
  inputIds: Int32Array
  /** Not shifted; the completions' tokens, -100 elsewhere. */
  labels: Int32Array
  cuSeqlens: Int32Array
}

/** The prediction of a completion begins with its first token, or its second where there is no prompt to predict the first from. */
const firstPredicted = ({ promptLength }: CompletionExample): number => Math.max(promptLength, 1)

/** Puts prompts and completions one after another. */
export function collateCompletions(examples: readonly CompletionExample[]): CompletionBatch {
  const total = examples.reduce((sum, { inputIds }) => sum + inputIds.length, 0)
  const inputIds = new Int32Array(total)
  const labels = new Int32Array(total).fill(ignoreIndex)
  const cuSeqlens = new Int32Array(examples.length + 1)
  const [begins, lengths]: [number[], number[]] = [[], []]
  examples.forEach((example, i) => {
    const begin = cuSeqlens[i]!
    const first = firstPredicted(example)
    inputIds.set(example.inputIds, begin)
    labels.set(example.inputIds.subarray(first), begin + first)
    cuSeqlens[i + 1] = begin + example.inputIds.length
    begins.push(begin + first - 1)
    lengths.push(example.inputIds.length - first)
  })
  return { inputIds, labels, cuSeqlens, begins, lengths }
}

/** The batch with every token predicted, the prompts' too. */
export function withPrompts(batch: CompletionBatch): CompletionBatch & { whole: CompletionSpans } {
  const begins = Array.from(batch.cuSeqlens.subarray(0, -1))
  return { ...batch, labels: batch.inputIds, whole: { begins, lengths: begins.map((begin, i) => batch.cuSeqlens[i + 1]! - begin - 1) } }
}

export const sumOf = (numbers: readonly number[]): number => numbers.reduce((a, b) => a + b, 0)
