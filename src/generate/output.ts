/**
 * Why an answer ended: an end-of-sequence token, the most tokens allowed (or the end of the model's context), a stop string, or an AbortSignal.
 */
export type FinishReason = 'stop' | 'length' | 'stopString' | 'aborted'

/** One answer. */
export interface GenerationOutput {
  /** The generated tokens, the end-of-sequence token or the tokens of a stop string included. */
  tokenIds: number[]
  /** Their text without special tokens, up to a stop string; '' without a tokenizer. */
  text: string
  /** log p of each token under the model, before temperature, filters and penalties: what `model.logprobs` gives for the same tokens. */
  logprobs: number[]
  finishReason: FinishReason
  /** The length of the prompt. */
  promptTokens: number
}

/** One token of an answer as it comes. */
export interface GeneratedToken {
  tokenId: number
  logprob: number
  /** The text that became certain with this token: '' while it may be part of a character or of a stop string. */
  text: string
}
