import { Template } from '@huggingface/jinja'
import { TokenizerError } from '../errors.ts'
import { isTimeout, runWithTimeLimit } from './pattern.ts'

/** A message as the OpenAI format has it; a template may read any further field. */
export interface ChatMessage {
  role: string
  content?: string | readonly unknown[] | null
  [field: string]: unknown
}

/** What a chat template sees beside the messages. */
export interface RenderOptions {
  /** End with what opens the assistant's answer. Default false. */
  addGenerationPrompt?: boolean
  /** JSON schemas of functions the assistant may call. */
  tools?: readonly unknown[]
  /** Further variables for the template, such as `enable_thinking`. */
  chatTemplateKwargs?: Readonly<Record<string, unknown>>
}

/** Longest time one rendering may take; only templates that loop over more than their input are timed. */
const renderLimitMs = 5000
/** Longest rendering, in UTF-16 code units. */
const longestRendering = 8 << 20
const longestTemplate = 1 << 20
const templatesKept = 64

/** Private-use characters that mark where `{% generation %}` began and ended; they never reach a tokenizer. */
const generationStart = '\ue0f0\uf8f0'
const generationEnd = '\ue0f1\uf8f1'

interface CompiledTemplate {
  template: Template
  /** Loops depend on the input alone, so their number of steps is bounded by its size. */
  bounded: boolean
}

const compiled = new Map<string, CompiledTemplate>()

/** Whether a template marks what the assistant writes. */
export function hasGenerationTags(template: string): boolean {
  return /\{%-?\s*generation\s*-?%\}/.test(template)
}

/** Renders a conversation with Jinja as transformers does. */
export function renderChat(
  template: string,
  messages: readonly ChatMessage[],
  variables: Readonly<Record<string, unknown>>,
  options: RenderOptions,
): string {
  return render(compile(template, false), messages, variables, options)
}

/** Where something begins and ends in a text. */
export interface TextSpan {
  start: number
  end: number
}

/** Renders a template that has `{% generation %}` tags and tells what stood between them. */
export function renderChatSpans(
  template: string,
  messages: readonly ChatMessage[],
  variables: Readonly<Record<string, unknown>>,
  options: RenderOptions,
): { text: string, spans: TextSpan[] } {
  const marked = render(compile(template, true), messages, variables, options)
  const spans: TextSpan[] = []
  let text = ''
  let start: number | undefined
  for (const part of marked.split(/(\ue0f0\uf8f0|\ue0f1\uf8f1)/)) {
    if (part === generationStart) {
      start = text.length
    } else if (part === generationEnd) {
      if (start !== undefined && start < text.length) spans.push({ start, end: text.length })
      start = undefined
    } else {
      text += part
    }
  }
  return { text, spans }
}

function compile(source: string, marked: boolean): CompiledTemplate {
  const key = (marked ? 'm' : 'p') + source
  const known = compiled.get(key)
  if (known) return known
  if (source.length > longestTemplate) throw new TokenizerError(`the chat template has ${source.length} characters; at most ${longestTemplate} are accepted`)
  const text = source.replaceAll('\r\n', '\n')
  try {
    const template = new Template(marked ? markGeneration(text) : text)
    const result = { template, bounded: isBounded(text) }
    if (compiled.size >= templatesKept) compiled.delete(compiled.keys().next().value!)
    compiled.set(key, result)
    return result
  } catch (error) {
    throw new TokenizerError(`the chat template is not valid Jinja: ${messageOf(error)}`, { cause: error })
  }
}

/** Puts a mark where each tag stands; an `if` around it keeps the tag's effect on the white space before and after. */
function markGeneration(text: string): string {
  return text.replace(/\{%(-?)\s*(end)?generation\s*(-?)%\}/g, (_, before: string, end: string | undefined, after: string) =>
    `{%${before} if true %}{{ '${end === undefined ? generationStart : generationEnd}' }}{% endif ${after}%}`)
}

function isBounded(text: string): boolean {
  if (/\brange\s*\(/.test(text) || /\{%-?\s*macro\b/.test(text)) return false
  let depth = 0
  for (const [, tag] of text.matchAll(/\{%-?\s*(for|endfor)\b/g)) {
    depth += tag === 'for' ? 1 : -1
    if (depth > 3) return false
  }
  return true
}

function render(
  { template, bounded }: CompiledTemplate,
  messages: readonly ChatMessage[],
  variables: Readonly<Record<string, unknown>>,
  options: RenderOptions,
): string {
  const items = {
    ...variables,
    messages,
    tools: options.tools ?? null,
    documents: null,
    add_generation_prompt: options.addGenerationPrompt === true,
    ...options.chatTemplateKwargs,
  }
  let text: string
  try {
    text = bounded ? template.render(items) : runWithTimeLimit(() => template.render(items), renderLimitMs)
  } catch (error) {
    if (isTimeout(error)) throw new TokenizerError(`the chat template ran longer than ${renderLimitMs} ms and was stopped; it loops without end`)
    throw new TokenizerError(`the chat template failed: ${messageOf(error)}`, { cause: error })
  }
  if (text.length > longestRendering) {
    throw new TokenizerError(`the chat template wrote ${text.length} characters; at most ${longestRendering} are accepted`)
  }
  return text
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
