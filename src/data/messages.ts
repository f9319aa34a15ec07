import { DataError } from '../errors.ts'
import { didYouMean } from '../suggest.ts'
import type { ChatMessage, Content } from './types.ts'

const shareGptRoles: Record<string, string> = {
  human: 'user', user: 'user', gpt: 'assistant', assistant: 'assistant', chatgpt: 'assistant', bing: 'assistant', bard: 'assistant', model: 'assistant',
  system: 'system', developer: 'developer', tool: 'tool', observation: 'tool', function_response: 'tool', ipython: 'tool', function_call: 'assistant',
}

const isObject = (value: unknown): value is Record<string, unknown> => value !== null && typeof value === 'object' && !Array.isArray(value)

/** What a value is, for messages. */
export function describeValue(value: unknown): string {
  if (value === null || value === undefined) return String(value)
  if (Array.isArray(value)) return value.length === 0 ? 'an empty array' : `an array of ${value.length}`
  return typeof value === 'object' ? 'an object' : typeof value === 'string' && value === '' ? 'an empty string' : `a ${typeof value}`
}

/** Text columns hold arrays of messages as JSON where the format has no nesting (CSV, some Parquet files). */
export function parsedIfJson(value: unknown): unknown {
  if (typeof value !== 'string' || !/^\s*\[\s*\{/.test(value)) return value
  try { return JSON.parse(value) as unknown } catch { return value }
}

/** Checks messages in OpenAI's form (role, content) or ShareGPT's (from, value), and gives them in OpenAI's. `place` opens the error. */
export function readMessages(value: unknown, place: string): ChatMessage[] {
  if (!Array.isArray(value) || value.length === 0) throw new DataError(`${place}: expected an array of messages, got ${describeValue(value)}`)
  return value.map((message: unknown, i) => readMessage(message, `${place}[${i}]`))
}

function readMessage(message: unknown, place: string): ChatMessage {
  if (!isObject(message)) throw new DataError(`${place}: expected a message {role, content}, got ${describeValue(message)}`)
  if (typeof message.from === 'string' && message.role === undefined) return fromShareGpt(message, place)
  const { role, content } = message
  if (typeof role !== 'string' || role === '') throw new DataError(`${place}.role: expected a role such as "user" or "assistant", got ${describeValue(role)}; the message has ${Object.keys(message).map((key) => JSON.stringify(key)).join(', ')}`)
  const acts = message.tool_calls != null || message.reasoning_content != null
  const ok = typeof content === 'string' || (content == null && acts)
    || (Array.isArray(content) && content.every((part: unknown) => isObject(part) && typeof part.type === 'string'))
  if (!ok) throw new DataError(`${place}.content: expected a string, or parts [{type: "text", text}], got ${describeValue(content)}`)
  const other = Array.isArray(content) ? content.find((part: unknown) => isObject(part) && part.type !== 'text') as { type: string } | undefined : undefined
  if (other) throw new DataError(`${place}.content: a part of type ${JSON.stringify(other.type)} cannot be trained on; only text can`)
  return withoutNulls(message)
}

function fromShareGpt(message: Record<string, unknown>, place: string): ChatMessage {
  const from = message.from as string
  const role = Object.hasOwn(shareGptRoles, from) ? shareGptRoles[from]! : undefined
  if (role === undefined) throw new DataError(`${place}.from: unknown speaker ${JSON.stringify(from)}${didYouMean(from, Object.keys(shareGptRoles)) || `; known are ${Object.keys(shareGptRoles).join(', ')}`}`)
  if (from === 'function_call') return { role, content: '', tool_calls: toolCalls(message.value, place) }
  if (typeof message.value !== 'string') throw new DataError(`${place}.value: expected a string, got ${describeValue(message.value)}`)
  return { role, content: message.value }
}

/** A ShareGPT function call is the JSON of one call or of several. */
function toolCalls(value: unknown, place: string): unknown[] {
  let calls: unknown
  try { calls = typeof value === 'string' ? JSON.parse(value) as unknown : value } catch (error) {
    throw new DataError(`${place}.value: expected the JSON of a function call: ${(error as Error).message}`, { cause: error })
  }
  return (Array.isArray(calls) ? calls : [calls]).map((call: unknown) => {
    if (!isObject(call) || typeof call.name !== 'string') throw new DataError(`${place}.value: expected a function call {name, arguments}, got ${describeValue(call)}`)
    return { type: 'function', function: { name: call.name, arguments: call.arguments ?? {} } }
  })
}

/** Parquet gives every message every key; a key that is null means the message has none, except content. */
function withoutNulls(message: Record<string, unknown>): ChatMessage {
  return Object.fromEntries(Object.entries(message).filter(([key, value]) => key === 'content' || (value !== null && value !== undefined))) as ChatMessage
}

/** A string or messages, as a prompt or a completion may be. One message may stand without its array. */
export function readContent(value: unknown, place: string): Content {
  const parsed = parsedIfJson(value)
  if (typeof parsed === 'string') return parsed
  if (Array.isArray(parsed)) return readMessages(parsed, place)
  if (isObject(parsed)) return readMessages([parsed], place)
  throw new DataError(`${place}: expected a string or an array of messages, got ${describeValue(value)}`)
}

/** The `tools` column: an array of JSON schemas, or its JSON. Undefined when there are none. */
export function readTools(value: unknown, place: string): unknown[] | undefined {
  if (value === null || value === undefined || value === '') return undefined
  let tools: unknown = value
  if (typeof tools === 'string') {
    try { tools = JSON.parse(tools) as unknown } catch (error) {
      throw new DataError(`${place}: expected an array of tools or its JSON: ${(error as Error).message}`, { cause: error })
    }
  }
  if (!Array.isArray(tools)) throw new DataError(`${place}: expected an array of tools, got ${describeValue(tools)}`)
  return tools.length === 0 ? undefined : tools
}

/** The `chat_template_kwargs` column, such as {enable_thinking: false}. */
export function readTemplateKwargs(value: unknown, place: string): Record<string, unknown> | undefined {
  if (value === null || value === undefined) return undefined
  if (!isObject(value)) throw new DataError(`${place}: expected an object, got ${describeValue(value)}`)
  return value
}
