import { ConfigError } from '../errors.ts'
import type { CausalLanguageModel } from '../models/index.ts'
import { tokenizeConversation, type ChatMessage, type Tokenizer } from '../tokenizers/index.ts'

/** A text, the messages of a conversation that the model is to answer, or token ids. */
export type Prompt = string | readonly ChatMessage[] | readonly number[] | Int32Array

/** How messages become a prompt. */
export interface PromptOptions {
  /** Functions that the assistant may call, for the chat template. */
  tools?: readonly unknown[] | undefined
  /** A template's name, or Jinja text. Default: the tokenizer's. */
  chatTemplate?: string | undefined
  /** Further variables for the chat template, such as `enable_thinking`. */
  chatTemplateKwargs?: Readonly<Record<string, unknown>> | undefined
  /** Read the names of special tokens in a text or message as special tokens. Default: in texts, as transformers does; not in messages. */
  allowSpecial?: boolean | undefined
}

const isMessage = (value: unknown): boolean => typeof value === 'object' && value !== null && 'role' in value
/** Whether a prompt is a conversation. */
export const isMessages = (prompt: Prompt): prompt is readonly ChatMessage[] => Array.isArray(prompt) && isMessage(prompt[0])

/** One prompt or a list of them, as a list. */
export function promptsOf(prompts: Prompt | readonly Prompt[]): readonly Prompt[] {
  const isOne = typeof prompts === 'string' || prompts instanceof Int32Array || typeof prompts[0] === 'number' || isMessage(prompts[0])
  return isOne ? [prompts as Prompt] : prompts as readonly Prompt[]
}

function encode(prompt: Prompt, tokenizer: Tokenizer | null | undefined, { tools, chatTemplate, chatTemplateKwargs, allowSpecial }: PromptOptions): ArrayLike<number> {
  if (typeof prompt !== 'string' && !isMessages(prompt)) return prompt
  if (!tokenizer) throw new ConfigError(`a tokenizer is needed for a prompt of ${typeof prompt === 'string' ? 'text' : 'messages'}; pass one, or give token ids`)
  if (typeof prompt === 'string') return tokenizer.encode(prompt, { allowSpecial: allowSpecial ?? true })
  return tokenizeConversation(tokenizer, prompt, {
    addGenerationPrompt: true, assistantMask: false, allowSpecial: allowSpecial ?? false,
    ...(tools ? { tools } : {}), ...(chatTemplate === undefined ? {} : { chatTemplate }), ...(chatTemplateKwargs ? { chatTemplateKwargs } : {}),
  }).inputIds
}

/** The tokens of a prompt; the beginning-of-sequence token for an empty one. */
export function promptIdsOf(prompt: Prompt, model: CausalLanguageModel, tokenizer: Tokenizer | null | undefined, options: PromptOptions): Int32Array {
  const ids = encode(prompt, tokenizer, options)
  const bos = tokenizer?.bosTokenId ?? model.config.bosTokenId
  return Int32Array.from(ids.length === 0 && bos !== undefined ? [bos] : ids)
}

/** The tokens that end an answer where neither options nor generation_config.json name any. */
export function defaultEosTokenIds(model: CausalLanguageModel, tokenizer: Tokenizer | null | undefined): readonly number[] {
  const { eosTokenIds } = model.config
  if (eosTokenIds.length) return eosTokenIds
  return tokenizer?.eosTokenId === undefined ? [] : [tokenizer.eosTokenId]
}
