import { ConfigError, DataError } from '../errors.ts'
import { didYouMean } from '../suggest.ts'
import { describeValue, parsedIfJson, readContent, readMessages, readTemplateKwargs, readTools } from './messages.ts'
import { placeOf, type SourceRow, type TextPiece } from './readers/types.ts'
import type { ChatMessage, Content } from './types.ts'

/** What a conversation may carry besides its messages. */
interface Conversational {
  tools?: unknown[]
  chatTemplateKwargs?: Record<string, unknown>
}

/** A row in the one form the rest of anneal knows. The kinds are TRL's dataset types. */
export type DataRow =
  | { kind: 'text', text: string, piece?: TextPiece }
  | { kind: 'messages', messages: ChatMessage[] } & Conversational
  | { kind: 'promptCompletion', prompt: Content, completion: Content } & Conversational
  | { kind: 'prompt', prompt: Content } & Conversational
  | { kind: 'preference', prompt: Content | undefined, chosen: Content, rejected: Content } & Conversational
  | { kind: 'unpairedPreference', prompt: Content, completion: Content, label: boolean } & Conversational

export type RowKind = DataRow['kind']

/** The shapes of rows that are recognised by their columns. */
export type DataFormat = 'text' | 'messages' | 'sharegpt' | 'alpaca' | 'promptCompletion' | 'prompt' | 'preference' | 'unpairedPreference'

/** The columns of each shape, in the order in which shapes are tried: the more telling first. */
const shapes: Record<DataFormat, { needs: string[], may: string[] }> = {
  preference: { needs: ['chosen', 'rejected'], may: ['prompt', 'reference', 'tools'] },
  unpairedPreference: { needs: ['prompt', 'completion', 'label'], may: ['tools'] },
  promptCompletion: { needs: ['prompt', 'completion'], may: ['tools', 'chat_template_kwargs'] },
  messages: { needs: ['messages'], may: ['tools', 'chat_template_kwargs'] },
  sharegpt: { needs: ['conversations'], may: ['system', 'tools'] },
  alpaca: { needs: ['instruction', 'output'], may: ['input', 'system', 'history'] },
  text: { needs: ['text'], may: [] },
  prompt: { needs: ['prompt'], may: ['tools', 'chat_template_kwargs'] },
}

const formats = Object.keys(shapes) as DataFormat[]
const knownColumns = [...new Set(formats.flatMap((format) => [...shapes[format].needs, ...shapes[format].may]))]

export interface FormatOptions {
  /** The shape of the rows; default: recognised from the columns of each row. */
  format?: DataFormat
  /** Where a known column stands under another name: `{ text: 'content', completion: 'answer' }`. */
  columns?: Record<string, string>
  /** How an Alpaca row is told: as a conversation (default), or as the plain text of Stanford's template. */
  alpacaStyle?: 'conversation' | 'stanford'
}

/** Checks the options once, before any row is read. */
export function checkFormatOptions(options: FormatOptions): void {
  if (options.format !== undefined && !Object.hasOwn(shapes, options.format)) {
    throw new ConfigError(`format: unknown format ${JSON.stringify(options.format)}${didYouMean(options.format, formats)}; known are ${formats.join(', ')}`)
  }
  for (const name of Object.keys(options.columns ?? {})) {
    if (!knownColumns.includes(name)) throw new ConfigError(`columns.${name}: not a column anneal knows${didYouMean(name, knownColumns)}; known are ${knownColumns.join(', ')}. Write { known: 'yours' }`)
  }
}

const list = (names: string[]): string => names.length === 0 ? 'none' : names.map((name) => JSON.stringify(name)).join(', ')
const describeShapes = (): string => formats.map((format) => `${format} (${shapes[format].needs.join(', ')})`).join('; ')

/** Reads one column of a row, under the name that `columns` gives it. Own properties only. */
function column(row: Record<string, unknown>, name: string, options: FormatOptions): unknown {
  const own = options.columns && Object.hasOwn(options.columns, name) ? options.columns[name]! : name
  return Object.hasOwn(row, own) ? row[own] : undefined
}

/** Recognises the shape of a row by its columns; throws DataError listing them when it has none that is known. */
export function recogniseFormat(source: SourceRow, options: FormatOptions = {}): DataFormat {
  const { row } = source
  const present = (name: string): boolean => column(row, name, options) != null
  for (const format of formats) {
    if (shapes[format].needs.every(present)) return format
  }
  for (const [name, own] of Object.entries(options.columns ?? {})) {
    if (!Object.hasOwn(row, own)) throw new DataError(`${placeOf(source)}: columns.${name} names the column ${JSON.stringify(own)}, which the row does not have${didYouMean(own, Object.keys(row))}; it has ${list(Object.keys(row))}`)
  }
  const found = Object.keys(row)
  const near = knownColumns.filter((name) => !found.includes(name)).flatMap((name) => {
    const hint = didYouMean(name, found)
    return hint ? [{ name, own: /"(.*)"/.exec(hint)![1]! }] : []
  }).find(({ own }) => !knownColumns.includes(own))
  const hint = near ? `; did you mean ${JSON.stringify(near.name)} by ${JSON.stringify(near.own)}? Pass columns: { ${near.name}: ${JSON.stringify(near.own)} }` : `; map your columns with columns: { text: 'yours' }`
  throw new DataError(`${placeOf(source)}: the columns ${list(found)} are none of the known shapes: ${describeShapes()}${hint}`)
}

/** Turns a row of the given shape into a DataRow; throws DataError naming the file, the line and the column that is wrong. */
export function normaliseRow(source: SourceRow, format: DataFormat, options: FormatOptions = {}): DataRow {
  const { row } = source
  const place = placeOf(source)
  const get = (name: string): unknown => column(row, name, options)
  for (const name of shapes[format].needs) {
    if (get(name) == null) throw new DataError(`${place}: expected the column ${JSON.stringify(options.columns?.[name] ?? name)} of the format ${format}; the row has ${list(Object.keys(row))}`)
  }
  const content = (name: string): Content => readContent(get(name), `${place}: ${name}`)
  const extras = (): Conversational => {
    const tools = readTools(get('tools'), `${place}: tools`)
    const chatTemplateKwargs = readTemplateKwargs(get('chat_template_kwargs'), `${place}: chat_template_kwargs`)
    return { ...tools && { tools }, ...chatTemplateKwargs && { chatTemplateKwargs } }
  }
  switch (format) {
    case 'text': {
      const text = string(get('text'), `${place}: text`)
      return source.piece ? { kind: 'text', text, piece: source.piece } : { kind: 'text', text }
    }
    case 'messages': return { kind: 'messages', messages: readMessages(parsedIfJson(get('messages')), `${place}: messages`), ...extras() }
    case 'sharegpt': {
      const messages = readMessages(parsedIfJson(get('conversations')), `${place}: conversations`)
      const system = optionalString(get('system'), `${place}: system`)
      return { kind: 'messages', messages: system ? [{ role: 'system', content: system }, ...messages] : messages, ...extras() }
    }
    case 'alpaca': return alpaca(get, place, options.alpacaStyle ?? 'conversation')
    case 'promptCompletion': return { kind: 'promptCompletion', ...sameForm({ prompt: content('prompt'), completion: content('completion') }, place), ...extras() }
    case 'prompt': return { kind: 'prompt', prompt: content('prompt'), ...extras() }
    case 'preference': {
      const pair = { chosen: content('chosen'), rejected: content('rejected') }
      if (get('prompt') == null) return { kind: 'preference', prompt: undefined, ...sameForm(pair, place), ...extras() }
      return { kind: 'preference', ...sameForm({ prompt: content('prompt'), ...pair }, place), ...extras() }
    }
    case 'unpairedPreference':
      return { kind: 'unpairedPreference', ...sameForm({ prompt: content('prompt'), completion: content('completion') }, place), label: label(get('label'), `${place}: label`), ...extras() }
  }
}

function string(value: unknown, place: string): string {
  if (typeof value !== 'string') throw new DataError(`${place}: expected a string, got ${describeValue(value)}`)
  return value
}

function optionalString(value: unknown, place: string): string | undefined {
  return value === undefined || value === null || value === '' ? undefined : string(value, place)
}

function label(value: unknown, place: string): boolean {
  if (typeof value === 'boolean') return value
  if (value === 1 || value === '1' || value === 'true' || value === 'True') return true
  if (value === 0 || value === '0' || value === 'false' || value === 'False') return false
  throw new DataError(`${place}: expected true or false, got ${describeValue(value)}`)
}

/** Prompt and completions must all be strings or all be messages. */
function sameForm<T extends Record<string, Content>>(parts: T, place: string): T {
  const kinds = Object.entries(parts).map(([name, value]) => `${name} is ${typeof value === 'string' ? 'a string' : 'an array of messages'}`)
  if (new Set(Object.values(parts).map((value) => typeof value)).size > 1) throw new DataError(`${place}: ${kinds.join(', ')}; expected all to be of one form`)
  return parts
}

/** Stanford's Alpaca template (github.com/tatsu-lab/stanford_alpaca). */
function stanfordPrompt(instruction: string, input: string | undefined): string {
  const opening = 'Below is an instruction that describes a task'
  return input === undefined
    ? `${opening}. Write a response that appropriately completes the request.\n\n### Instruction:\n${instruction}\n\n### Response:\n`
    : `${opening}, paired with an input that provides further context. Write a response that appropriately completes the request.\n\n### Instruction:\n${instruction}\n\n### Input:\n${input}\n\n### Response:\n`
}

/** As a conversation the input follows the instruction after a line break, and `history` holds earlier [question, answer] pairs (LLaMA-Factory). */
function alpaca(get: (name: string) => unknown, place: string, style: 'conversation' | 'stanford'): DataRow {
  const instruction = string(get('instruction'), `${place}: instruction`)
  const input = optionalString(get('input'), `${place}: input`)
  const output = string(get('output'), `${place}: output`)
  if (style === 'stanford') return { kind: 'promptCompletion', prompt: stanfordPrompt(instruction, input), completion: output }
  const system = optionalString(get('system'), `${place}: system`)
  const history = get('history') ?? []
  if (!Array.isArray(history)) throw new DataError(`${place}: history: expected an array of [question, answer], got ${describeValue(history)}`)
  const turns = history.flatMap((pair: unknown, i): ChatMessage[] => {
    if (!Array.isArray(pair) || pair.length !== 2) throw new DataError(`${place}: history[${i}]: expected [question, answer], got ${describeValue(pair)}`)
    return [{ role: 'user', content: string(pair[0], `${place}: history[${i}][0]`) }, { role: 'assistant', content: string(pair[1], `${place}: history[${i}][1]`) }]
  })
  const question = input === undefined ? instruction : instruction === '' ? input : `${instruction}\n${input}`
  const prompt: ChatMessage[] = [...(system === undefined ? [] : [{ role: 'system', content: system }]), ...turns, { role: 'user', content: question }]
  return { kind: 'promptCompletion', prompt, completion: [{ role: 'assistant', content: output }] }
}

/** Recognises, if `format` is not given, and normalises a row. */
export function readRow(source: SourceRow, options: FormatOptions = {}): DataRow {
  return normaliseRow(source, options.format ?? recogniseFormat(source, options), options)
}
