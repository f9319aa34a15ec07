/** One turn of a conversation, as OpenAI and the chat templates have it. Extra keys (`tool_calls`, `name`, …) reach the template untouched. */
export interface ChatMessage {
  role: string
  content?: string | null | MessagePart[]
  [key: string]: unknown
}

/** A part of a message's content. Only text parts can be trained on. */
export interface MessagePart { type: string, text?: string, [key: string]: unknown }

/** A string, or the messages of a conversation. */
export type Content = string | ChatMessage[]

/** What the data pipeline needs of a tokenizer. `src/tokenizers` provides it; tests may fake it. */
export interface TextTokenizer {
  /** Names the tokenizer's content, so that a cache made with another one is not used. */
  readonly fingerprint?: string | undefined
  readonly bosTokenId: number | null | undefined
  readonly eosTokenId: number | null | undefined
  readonly padTokenId: number | null | undefined
  readonly vocabSize: number
  encode(text: string, options?: { addSpecialTokens?: boolean, allowSpecial?: boolean }): number[]
  decode?(ids: ArrayLike<number>): string
}

/** What a conversation is rendered with, besides its messages. */
export interface ConversationOptions {
  tools?: unknown[]
  addGenerationPrompt?: boolean
  chatTemplateKwargs?: Record<string, unknown>
  /** Read the names of special tokens inside messages as special tokens. Default false. */
  allowSpecial?: boolean
  /** Work out `assistantMask`; without, it may be all zeros. Default true. */
  assistantMask?: boolean
}

/** A rendered conversation: its token ids, and 1 where the assistant speaks. */
export interface TokenizedConversation { inputIds: ArrayLike<number>, assistantMask: ArrayLike<number> }

/** Renders messages with the tokenizer's chat template and tokenizes them. */
export type TokenizeConversation<T extends TextTokenizer> =
  (tokenizer: T, messages: ChatMessage[], options?: ConversationOptions) => TokenizedConversation

/**
 * One training example. `labels[i]` is `inputIds[i]` where the token is trained and -100 elsewhere; labels are not shifted.
 * `sequenceLengths` is present when several sequences are packed into one row; they add up to the row's length.
 */
export interface Example {
  inputIds: Int32Array
  labels: Int32Array
  sequenceLengths?: number[]
}

/** The label of a token that is not trained. */
export const ignoreIndex = -100

/** Examples by number. `get` is a pure function of the index; `lengthOf` is its number of tokens, known without reading it. */
export interface Dataset {
  readonly length: number
  get(index: number): Example
  lengthOf(index: number): number
}
