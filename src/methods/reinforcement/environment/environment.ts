import { TokenizerError } from '../../../errors.ts'
import type { ChatMessage, Tokenizer } from '../../../tokenizers/index.ts'
import { renderConversation } from '../../../tokenizers/index.ts'

/** What an environment says to an answer. */
export interface EnvironmentStep {
  /** What the environment answers: the messages to go on with, or the text of a user's message. Left out where done. */
  observation?: string | readonly ChatMessage[]
  /** Reward of this turn. */
  reward?: number
  /** Whether the conversation is over. */
  done: boolean
}

/** What a model wrote in a turn, beside its text. */
export interface TurnContext {
  /** The text with the special tokens in it, without the one that ends the turn. */
  rawText: string
  /** From 0. */
  turn: number
  /** The conversation so far, this turn included. */
  messages: readonly ChatMessage[]
  /** Set when the run is stopped. */
  signal?: AbortSignal | undefined
}

/**
 * The other side of a conversation with the model. One is made for each conversation, so it may hold its state. Both calls may be asynchronous; many
 * conversations run at a time.
 */
export interface Environment<Row = Record<string, unknown>> {
  /** Begins a conversation about a row of the data: the messages that the model is to answer. */
  reset(row: Row): readonly ChatMessage[] | Promise<readonly ChatMessage[]>
  /** Takes what the model wrote and answers. */
  step(text: string, context: TurnContext): EnvironmentStep | Promise<EnvironmentStep>
  /**
   * The reward of a conversation that ends before the environment is done, as its answers or its tokens are used up. Without it, it has the rewards of
   * its turns only, and where none had one it has no reward: then nothing teaches the model to come to an end.
   */
  cutOff?(end: 'length' | 'maxTurns', context: { messages: readonly ChatMessage[] }): number | undefined | Promise<number | undefined>
  /** JSON schemas of functions, for the chat template. */
  readonly tools?: readonly unknown[]
  /** Called when the conversation is over, whatever ended it. */
  close?(): void | Promise<void>
}

/** Makes the environment of one conversation. */
export type EnvironmentFactory<Row = Record<string, unknown>> = () => Environment<Row>

export interface TemplateOptions {
  tools?: readonly unknown[] | undefined
  chatTemplate?: string | undefined
  chatTemplateKwargs?: Readonly<Record<string, unknown>> | undefined
}

const settings = ({ tools, chatTemplate, chatTemplateKwargs }: TemplateOptions): Parameters<typeof renderConversation>[2] => ({
  ...(tools?.length ? { tools } : {}), ...(chatTemplate === undefined ? {} : { chatTemplate }), ...(chatTemplateKwargs ? { chatTemplateKwargs } : {}),
})

const rewritten = 'the chat template writes earlier messages differently once later ones follow, so what the model read and wrote cannot be continued token by token; '
  + 'use a template that only appends (for Qwen3, one that keeps the thinking of earlier turns)'

/**
 * The tokens between an answer of the model and its next one: what closes its turn, the observation, and what opens the next turn. The model's own
 * tokens are never encoded again: only text that follows them in the rendered conversation is. `messages` end with the model's answer;
 * `endedByToken` tells whether the answer's last token was one of `turnEnds`. Special tokens that an observation spells are read as letters.
 * Throws TokenizerError where the template does not render the longer conversation as a continuation of the shorter.
 */
export function observationIds(
  tokenizer: Tokenizer, messages: readonly ChatMessage[], observation: readonly ChatMessage[],
  { endedByToken, turnEnds, ...template }: TemplateOptions & { endedByToken: boolean; turnEnds: readonly string[] },
): number[] {
  const options = settings(template)
  const opened = renderConversation(tokenizer, messages.slice(0, -1), { ...options, addGenerationPrompt: true })
  const answered = renderConversation(tokenizer, messages, options)
  const whole = renderConversation(tokenizer, [...messages, ...observation], { ...options, addGenerationPrompt: true })
  if (!answered.text.startsWith(opened.text) || !whole.text.startsWith(answered.text)) throw new TokenizerError(rewritten)
  const end = lastTurnEnd(answered, turnEnds)
  if (!end || end.start < opened.text.length) {
    throw new TokenizerError(`the chat template does not end the assistant's turn with ${turnEnds.map((token) => JSON.stringify(token)).join(' or ')}, the tokens that end answers; use the tokenizer that belongs to the template, or set its eosToken`)
  }
  const cut = endedByToken ? end.end : end.start
  const plainAt = new Set([...whole.plainAt].filter((place) => place >= cut).map((place) => place - cut))
  return tokenizer.encodeWithPlain(whole.text.slice(cut), plainAt)
}

/** Where the last token that ends a turn stands; one that a message spells is none. */
function lastTurnEnd({ text, plainAt }: ReturnType<typeof renderConversation>, turnEnds: readonly string[]): { start: number; end: number } | undefined {
  const found = turnEnds.map((token) => {
    let start = text.lastIndexOf(token)
    while (start > 0 && plainAt.has(start)) start = text.lastIndexOf(token, start - 1)
    return { start, end: start + token.length }
  })
  return found.filter(({ start }) => start >= 0 && !plainAt.has(start)).sort((a, b) => b.start - a.start)[0]
}

/** The tokens of the conversation's beginning, up to where the model is to write. */
export function openingIds(tokenizer: Tokenizer, messages: readonly ChatMessage[], template: TemplateOptions = {}): number[] {
  const { text, plainAt } = renderConversation(tokenizer, messages, { ...settings(template), addGenerationPrompt: true })
  return tokenizer.encodeWithPlain(text, plainAt)
}
