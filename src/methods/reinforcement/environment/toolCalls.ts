import { ConfigError } from '../../../errors.ts'

/** How a model writes the calls of functions: Hermes and Qwen between `<tool_call>` tags; Llama 3 as one JSON object, after `<|python_tag|>` or alone. */
export type ToolCallFormat = 'hermes' | 'llama3'

/** A call of a tool as the model wrote it. */
export interface ToolCall { name: string; arguments: Record<string, unknown> }

export interface ParsedAnswer {
  /** What stands outside of the calls. */
  content: string
  calls: ToolCall[]
  /** What was meant as a call and is none, with the reason. */
  malformed: { text: string; reason: string }[]
}

/** The format that a chat template asks the model for. */
export function toolCallFormatOf(template: string): ToolCallFormat {
  if (template.includes('<tool_call>')) return 'hermes'
  if (template.includes('<|python_tag|>') || /"parameters"\s*:/.test(template)) return 'llama3'
  throw new ConfigError('toolCallFormat: the chat template mentions neither <tool_call> nor <|python_tag|>, so how the model calls tools is unknown; give toolCallFormat or use a template with tools')
}

const isObject = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null && !Array.isArray(value)

/** A call from its JSON: name, and arguments (Hermes) or parameters (Llama), which may be a string of JSON once more. */
function readCall(text: string): ToolCall | string {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (error) {
    return `not valid JSON: ${(error as Error).message}`
  }
  if (!isObject(value)) return 'expected a JSON object with name and arguments'
  const { name } = value
  if (typeof name !== 'string' || name === '') return 'expected "name": the name of a function'
  let given: unknown = value['arguments'] ?? value['parameters'] ?? {}
  if (typeof given === 'string') {
    try {
      given = JSON.parse(given) as unknown
    } catch {
      return 'expected "arguments": a JSON object'
    }
  }
  return isObject(given) ? { name, arguments: given } : 'expected "arguments": a JSON object'
}

/** The calls in what the model wrote. Never throws: what cannot be read is listed with its reason, so that the model can be told. */
export function parseToolCalls(text: string, format: ToolCallFormat): ParsedAnswer {
  return format === 'hermes' ? parseHermes(text) : parseLlama(text)
}

function collect(pieces: readonly string[], content: string): ParsedAnswer {
  const result: ParsedAnswer = { content: content.trim(), calls: [], malformed: [] }
  for (const piece of pieces) {
    const call = readCall(piece)
    if (typeof call === 'string') result.malformed.push({ text: piece, reason: call })
    else result.calls.push(call)
  }
  return result
}

function parseHermes(text: string): ParsedAnswer {
  const pieces: string[] = []
  // A call that is not closed, as where the answer was cut, counts too.
  const content = text.replace(/<tool_call>([\s\S]*?)(?:<\/tool_call>|$)/g, (_, piece: string) => {
    pieces.push(piece.trim())
    return ''
  })
  return collect(pieces, content)
}

const pythonTag = '<|python_tag|>'

function parseLlama(text: string): ParsedAnswer {
  const at = text.indexOf(pythonTag)
  const content = at < 0 ? '' : text.slice(0, at)
  const body = (at < 0 ? text : text.slice(at + pythonTag.length)).trim()
  if (body.startsWith('{')) return collect(splitObjects(body), content)
  if (at < 0) return { content: text.trim(), calls: [], malformed: [] }
  const builtIn = readBuiltIn(body)
  return builtIn ? { content: content.trim(), calls: [builtIn], malformed: [] } : { content: content.trim(), calls: [{ name: 'code_interpreter', arguments: { code: body } }], malformed: [] }
}

/** `brave_search.call(query="…")`, as Llama 3.1 calls its built-in tools. */
function readBuiltIn(text: string): ToolCall | undefined {
  const match = /^([A-Za-z_]\w*)\.call\(\s*([A-Za-z_]\w*)\s*=\s*("(?:[^"\\]|\\.)*")\s*\)$/s.exec(text)
  if (!match) return undefined
  try {
    return { name: match[1]!, arguments: { [match[2]!]: JSON.parse(match[3]!) as unknown } }
  } catch {
    return undefined
  }
}

/** The JSON objects of `{…}; {…}`, cut where braces outside of strings close. */
function splitObjects(text: string): string[] {
  const pieces: string[] = []
  let [depth, begin, inString] = [0, 0, false]
  for (let i = 0; i < text.length; i++) {
    const letter = text[i]!
    if (inString) {
      if (letter === '\\') i++
      else if (letter === '"') inString = false
    } else if (letter === '"') inString = depth > 0
    else if (letter === '{') { if (depth++ === 0) begin = i }
    else if (letter === '}' && depth > 0 && --depth === 0) pieces.push(text.slice(begin, i + 1))
  }
  return depth > 0 ? [...pieces, text.slice(begin)] : pieces
}
