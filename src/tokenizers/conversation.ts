import { TokenizerError } from '../errors.ts'
import { hasGenerationTags, renderChat, renderChatSpans, type ChatMessage, type RenderOptions, type TextSpan } from './chatTemplate.ts'
import type { Tokenizer } from './tokenizer.ts'

/** A conversation as tokens, with a mark on those that the assistant wrote. */
export interface TokenizedConversation {
  inputIds: number[]
  /** 1 for each token with a character that the assistant wrote; with `{% generation %}` tags, that stood between them. */
  assistantMask: number[]
}

/** What `tokenizeConversation` takes beside the messages. */
export interface TokenizeConversationOptions extends RenderOptions {
  /** A template's name, or Jinja text. */
  chatTemplate?: string
  /**
   * Whether special tokens spelled in the messages become control tokens, as in transformers. Default false: a user who writes
   * `<|im_end|>` gets its letters. The control tokens of the template itself are read as such in any case.
   */
  allowSpecial?: boolean
  /** Work out `assistantMask`; otherwise it is all zeros. Default true. */
  assistantMask?: boolean
}

/** Stands inside a special token that a message spells, so that it can be told from one of the template. */
const plainMark = '\ue0f2\uf8f2'

/**
 * Renders a conversation once and tokenises the whole rendering, so that the ids are those that the model meets when it is used.
 * The mask comes from the template's `{% generation %}` tags or, where it has none, from rendering the conversation up to each
 * answer; a template whose renderings are not beginnings of one another is refused.
 */
export function tokenizeConversation(
  tokenizer: Tokenizer,
  messages: readonly ChatMessage[],
  options: TokenizeConversationOptions = {},
): TokenizedConversation {
  const { text, spans, plainAt } = render(tokenizer, messages, options)
  const inputIds = plainAt ? tokenizer.encodeWithPlain(text, plainAt) : tokenizer.encode(text, { addSpecialTokens: false })
  return { inputIds, assistantMask: maskOf(tokenizer, text, inputIds, spans, plainAt) }
}

/** The text of a conversation, and where special tokens begin in it that a message spells and that are to be read as letters. */
export function renderConversation(
  tokenizer: Tokenizer,
  messages: readonly ChatMessage[],
  options: Omit<TokenizeConversationOptions, 'assistantMask'> = {},
): { text: string, plainAt: ReadonlySet<number> } {
  const { text, plainAt } = render(tokenizer, messages, { ...options, assistantMask: false })
  return { text, plainAt: plainAt ?? new Set() }
}

function render(
  tokenizer: Tokenizer,
  messages: readonly ChatMessage[],
  options: TokenizeConversationOptions,
): { text: string, spans: TextSpan[], plainAt: Set<number> | undefined } {
  const template = tokenizer.chatTemplateFor(options)
  const variables = tokenizer.templateVariables()
  const allowSpecial = options.allowSpecial === true
  refuseMarks(messages)
  const shown = allowSpecial ? messages : messages.map((message) => withMarks(message, tokenizer) as ChatMessage)
  const rendered = options.assistantMask === false
    ? { text: renderChat(template, shown, variables, options), spans: [] }
    : hasGenerationTags(template)
      ? renderChatSpans(template, shown, variables, options)
      : renderByPrefix(template, shown, variables, options)
  return allowSpecial ? { ...rendered, plainAt: undefined } : withoutMarks(rendered.text, rendered.spans)
}

function renderByPrefix(
  template: string,
  messages: readonly ChatMessage[],
  variables: Readonly<Record<string, unknown>>,
  options: RenderOptions,
): { text: string, spans: TextSpan[] } {
  const text = renderChat(template, messages, variables, options)
  const spans: TextSpan[] = []
  messages.forEach((message, index) => {
    if (message.role !== 'assistant') return
    const before = renderChat(template, messages.slice(0, index), variables, { ...options, addGenerationPrompt: true })
    const after = renderChat(template, messages.slice(0, index + 1), variables, { ...options, addGenerationPrompt: false })
    if (!text.startsWith(before) || !text.startsWith(after) || after.length < before.length) {
      throw new TokenizerError(`the chat template writes the conversation up to message ${index + 1} differently than the whole, ` +
        'so what the assistant wrote cannot be told; put {% generation %} and {% endgeneration %} around it in the template')
    }
    if (after.length > before.length) spans.push({ start: before.length, end: after.length })
  })
  return { text, spans }
}

function refuseMarks(value: unknown): void {
  if (typeof value === 'string') {
    if (/\ue0f0\uf8f0|\ue0f1\uf8f1|\ue0f2\uf8f2/.test(value)) {
      throw new TokenizerError('a message contains a pair of private-use characters (U+E0F0 to U+E0F2 before U+F8F0 to U+F8F2) that anneal needs as marks; remove it')
    }
  } else if (typeof value === 'object' && value !== null) {
    for (const inner of Object.values(value)) refuseMarks(inner)
  }
}

/** A copy in which every special token that a string spells is broken by a mark after its first code unit. */
function withMarks(value: unknown, tokenizer: Tokenizer): unknown {
  if (typeof value === 'string') {
    const starts = tokenizer.specialStarts(value)
    let out = ''
    let done = 0
    for (const start of starts) {
      out += value.slice(done, start + 1) + plainMark
      done = start + 1
    }
    return out + value.slice(done)
  }
  if (Array.isArray(value)) return value.map((inner) => withMarks(inner, tokenizer))
  if (typeof value === 'object' && value !== null) {
    return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, key === 'role' ? inner : withMarks(inner, tokenizer)]))
  }
  return value
}

/** Takes the marks out again and says where the special tokens they stood in begin. */
function withoutMarks(text: string, spans: readonly TextSpan[]): { text: string, spans: TextSpan[], plainAt: Set<number> } {
  const parts = text.split(plainMark)
  const plainAt = new Set<number>()
  /** Index of each mark in the marked text. */
  const marks: number[] = []
  let clean = 0
  parts.forEach((part, index) => {
    clean += part.length
    if (index === parts.length - 1) return
    plainAt.add(clean - 1)
    marks.push(clean + index * plainMark.length)
  })
  const moved = (at: number) => at - plainMark.length * marks.filter((mark) => mark < at).length
  return { text: parts.join(''), spans: spans.map(({ start, end }) => ({ start: moved(start), end: moved(end) })), plainAt }
}

function maskOf(
  tokenizer: Tokenizer,
  text: string,
  ids: readonly number[],
  spans: readonly TextSpan[],
  plainAt: ReadonlySet<number> | undefined,
): number[] {
  const mask = ids.map(() => 0)
  if (spans.length === 0) return mask
  const ends = tokenizer.tokenEnds(text, ids)
  for (const { start, end } of spans) {
    const [first, last] = ends ? tokensBetween(ends, start, end) : tokensByPrefix(tokenizer, text, ids, start, end, plainAt)
    mask.fill(1, first, last)
  }
  return mask
}

/** The tokens with a character from `start` on and before `end`. `ends` are increasing indices into the text. */
function tokensBetween(ends: ArrayLike<number>, start: number, end: number): [number, number] {
  let first = 0
  while (first < ends.length && ends[first]! <= start) first++
  let last = first
  for (; last < ends.length; last++) {
    const begin = last === 0 ? 0 : ends[last - 1]!
    // A token of the second half of a character ends where the one before it does.
    if (begin >= end && ends[last] !== begin) break
  }
  return [first, last]
}

/** The same where tokens do not tell their length: by comparing with the ids of the text up to a place. */
function tokensByPrefix(
  tokenizer: Tokenizer,
  text: string,
  ids: readonly number[],
  start: number,
  end: number,
  plainAt: ReadonlySet<number> | undefined,
): [number, number] {
  const common = (at: number): { shared: number, exact: boolean } => {
    const prefix = plainAt
      ? tokenizer.encodeWithPlain(text.slice(0, at), plainAt)
      : tokenizer.encode(text.slice(0, at), { addSpecialTokens: false })
    let shared = 0
    while (shared < prefix.length && prefix[shared] === ids[shared]) shared++
    return { shared, exact: shared === prefix.length }
  }
  const from = common(start)
  const to = common(end)
  return [from.shared, to.exact ? to.shared : Math.min(ids.length, to.shared + 1)]
}
