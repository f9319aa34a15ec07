import { ConfigError } from '../../../errors.ts'
import type { ChatMessage } from '../../../tokenizers/index.ts'
import type { Environment, EnvironmentFactory } from './environment.ts'
import { parseToolCalls, type ToolCall, type ToolCallFormat } from './toolCalls.ts'

/** A function that the model may call. */
export interface Tool {
  name: string
  description: string
  /** JSON schema of the arguments, an object. */
  parameters: Readonly<Record<string, unknown>>
  /** What it gives is shown to the model, as JSON unless it is a text. What it throws is shown as an error. */
  run(args: Record<string, unknown>, context: { signal?: AbortSignal | undefined }): unknown
}

/** What `toolEnvironment` takes. */
export interface ToolEnvironmentOptions<Row> {
  tools: readonly Tool[]
  /** The messages that begin a conversation about a row. Default: its `prompt`, as messages or as the text of a user's message. */
  prompt?: (row: Row) => readonly ChatMessage[]
  /**
   * Reward of a conversation once the model answers without a call, or is cut off before that, having used up its turns or tokens: then the answer is ''.
   * None by default, where reward functions judge.
   */
  reward?: (row: Row, conversation: { answer: string; messages: readonly ChatMessage[]; calls: number; failures: number }) => number | Promise<number>
  /** How calls are written. */
  toolCallFormat?: ToolCallFormat
  /** Most milliseconds of one call. Default 10 000. */
  toolTimeout?: number
  /** Most characters of a result that the model sees. Default 4 000. */
  maxResultLength?: number
}

/** The schema as chat templates take it. */
const schemaOf = ({ name, description, parameters }: Tool): unknown => ({ type: 'function', function: { name, description, parameters } })

const isMessages = (value: unknown): value is readonly ChatMessage[] => Array.isArray(value) && value.every((one) => typeof one === 'object' && one !== null && 'role' in one)

function promptOf(row: unknown): readonly ChatMessage[] {
  const prompt = typeof row === 'object' && row !== null && 'prompt' in row ? row.prompt : undefined
  if (typeof prompt === 'string') return [{ role: 'user', content: prompt }]
  if (isMessages(prompt)) return prompt
  throw new ConfigError('toolEnvironment: the row has no "prompt" of text or messages; name its column, or pass prompt: (row) => messages')
}

/** Missing and unknown arguments, and those of a wrong type, in words for the model; the model's mistakes must not reach the function. */
function problemWith(args: Record<string, unknown>, schema: Readonly<Record<string, unknown>>): string | undefined {
  const properties = (schema['properties'] ?? {}) as Record<string, { type?: string | string[] }>
  for (const name of (schema['required'] ?? []) as string[]) if (!(name in args)) return `missing argument "${name}"`
  for (const [name, value] of Object.entries(args)) {
    const property = Object.hasOwn(properties, name) ? properties[name] : undefined
    if (!property) {
      if (schema['additionalProperties'] === false) return `unknown argument "${name}"`
      continue
    }
    const types = property.type === undefined ? [] : Array.isArray(property.type) ? property.type : [property.type]
    if (types.length > 0 && !types.some((type) => isOfType(value, type))) return `argument "${name}" must be ${types.join(' or ')}, but is ${JSON.stringify(value)}`
  }
  return undefined
}

function isOfType(value: unknown, type: string): boolean {
  switch (type) {
    case 'integer': return Number.isInteger(value)
    case 'array': return Array.isArray(value)
    case 'null': return value === null
    case 'object': return typeof value === 'object' && value !== null && !Array.isArray(value)
    default: return typeof value === type
  }
}

/** Runs a call; its result or error as the text that the model reads. */
async function call(tools: ReadonlyMap<string, Tool>, { name, arguments: args }: ToolCall, timeout: number, outer: AbortSignal | undefined): Promise<{ text: string; failed: boolean }> {
  const failure = (reason: string): { text: string; failed: boolean } => ({ text: JSON.stringify({ error: reason }), failed: true })
  const tool = tools.get(name)
  if (!tool) return failure(`no function "${name}"; there are ${[...tools.keys()].join(', ')}`)
  const problem = problemWith(args, tool.parameters)
  if (problem !== undefined) return failure(problem)
  const controller = new AbortController()
  const signal = outer ? AbortSignal.any([outer, controller.signal]) : controller.signal
  let timer: NodeJS.Timeout | undefined
  try {
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => { controller.abort(); reject(new Error(`${name} took longer than ${timeout} ms`)) }, timeout)
    })
    const result = await Promise.race([Promise.resolve().then(() => tool.run(args, { signal })), late])
    return { text: typeof result === 'string' ? result : result === undefined ? 'null' : JSON.stringify(result), failed: false }
  } catch (error) {
    return failure(error instanceof Error ? error.message : String(error))
  } finally {
    clearTimeout(timer)
  }
}

/**
 * An environment in which the model may call functions: plain, maybe asynchronous TypeScript. Calls of one answer run at the same time; their results
 * are `tool` messages. The conversation ends with the first answer without a call. A call that cannot be read or run is answered with its error.
 */
export function toolEnvironment<Row = Record<string, unknown>>(options: ToolEnvironmentOptions<Row>): EnvironmentFactory<Row> {
  const { prompt = promptOf, reward, toolCallFormat = 'hermes', toolTimeout = 10_000, maxResultLength = 4000 } = options
  const tools = new Map(options.tools.map((tool) => [tool.name, tool]))
  if (tools.size !== options.tools.length) throw new ConfigError('toolEnvironment: two tools have the same name; rename one')
  const schemas = options.tools.map(schemaOf)
  const shortened = (text: string): string => (text.length > maxResultLength ? `${text.slice(0, maxResultLength)}… (${text.length - maxResultLength} characters more)` : text)
  return (): Environment<Row> => {
    let row: Row
    let [calls, failures] = [0, 0]
    return {
      tools: schemas,
      reset(given) {
        row = given
        return prompt(given)
      },
      async step(text, { rawText, messages, signal }) {
        const parsed = parseToolCalls(rawText, toolCallFormat)
        if (parsed.calls.length === 0 && parsed.malformed.length === 0) {
          return { done: true, ...(reward ? { reward: await reward(row, { answer: text, messages, calls, failures }) } : {}) }
        }
        const results = await Promise.all(parsed.calls.map((one) => call(tools, one, toolTimeout, signal)))
        calls += parsed.calls.length + parsed.malformed.length
        failures += parsed.malformed.length + results.filter(({ failed }) => failed).length
        const observation = [
          ...results.map(({ text: content }, i): ChatMessage => ({ role: 'tool', name: parsed.calls[i]!.name, content: shortened(content) })),
          ...parsed.malformed.map(({ reason }): ChatMessage => ({ role: 'tool', content: JSON.stringify({ error: `the call could not be read: ${reason}` }) })),
        ]
        return { observation, done: false }
      },
      ...(reward ? { cutOff: (_, { messages }) => reward(row, { answer: '', messages, calls, failures }) } : {}),
    }
  }
}
