import { ignoreIndex, type Example, type TextTokenizer } from './types.ts'

/** Consecutive tokens of one sequence that are all trained or all not. */
export interface ExampleSegment {
  trained: boolean
  /** The packed sequence the tokens belong to, from 0. */
  sequence: number
  ids: number[]
  /** The tokens' text, special tokens included. */
  text: string
}

export interface ExampleDescription {
  segments: ExampleSegment[]
  tokens: number
  trainedTokens: number
  /** trainedTokens / tokens. */
  trainedShare: number
  sequences: number
}

/** An example as a person can read it: which text is trained. A sequence's first token counts as not trained, since nothing predicts it. */
export function describeExample(example: Example, tokenizer: Pick<TextTokenizer, 'decode'>): ExampleDescription {
  const lengths = example.sequenceLengths ?? [example.inputIds.length]
  const segments: ExampleSegment[] = []
  let at = 0
  let trainedTokens = 0
  for (const [sequence, length] of lengths.entries()) {
    let current: ExampleSegment | undefined
    for (let i = 0; i < length; i++, at++) {
      const trained = i > 0 && example.labels[at] !== ignoreIndex
      if (trained) trainedTokens++
      if (current?.trained !== trained) segments.push(current = { trained, sequence, ids: [], text: '' })
      current.ids.push(example.inputIds[at]!)
    }
  }
  for (const segment of segments) segment.text = tokenizer.decode?.(segment.ids) ?? segment.ids.join(' ')
  return { segments, tokens: at, trainedTokens, trainedShare: at === 0 ? 0 : trainedTokens / at, sequences: lengths.length }
}
