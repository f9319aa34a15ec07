import { isDeepStrictEqual } from 'node:util'
import { DataError } from '../errors.ts'
import { readRow, type DataRow, type FormatOptions } from './formats.ts'
import { describeValue, parsedIfJson, readContent, readTools } from './messages.ts'
import { placeOf, type SourceRow } from './readers/types.ts'
import type { ChatMessage, Content } from './types.ts'

/** What a row may carry besides its texts. */
interface Extras { tools?: unknown[], chatTemplateKwargs?: Record<string, unknown> }

/** A prompt with a preferred and a rejected completion. */
export interface PreferenceRow extends Extras { prompt: Content, chosen: Content, rejected: Content, margin: number | undefined }
/** A pair with a gold completion to imitate (TPO). */
export interface TripleRow extends PreferenceRow { reference: Content }
/** A completion that is desirable or not. */
export interface UnpairedRow extends Extras { prompt: Content, completion: Content, label: boolean }
/** Several completions of one prompt with their scores (RRHF). */
export interface RankedRow extends Extras { prompt: Content, completions: Content[], scores: number[] }
/** A solution in steps, each right or wrong (TRL's stepwise supervision). */
export interface StepwiseRow { prompt: string, steps: string[], labels: boolean[] }

/**
 * The prompt that chosen and rejected have in common and what is left of each, as TRL's extract_prompt: the longest common beginning of the two
 * texts, the blank before a difference going to the completions, or of the two lists of messages.
 */
export function extractPrompt(chosen: Content, rejected: Content): { prompt: Content, chosen: Content, rejected: Content } {
  const common = commonLength(chosen, rejected)
  const at = typeof chosen === 'string' ? textBoundary(chosen, common) : common
  const cut = (content: Content, from: number, to?: number): Content => content.slice(from, to)
  return { prompt: cut(chosen, 0, at), chosen: cut(chosen, at), rejected: cut(rejected, at) }
}

/** Where the two first differ; where one begins with the other, its last place, so that no completion is empty. */
function commonLength(a: Content, b: Content): number {
  const shortest = Math.min(a.length, b.length)
  for (let i = 0; i < shortest; i++) if (!isDeepStrictEqual(a[i], b[i])) return i
  return Math.max(0, shortest - 1)
}

/** Not inside of a character of two code units, and before a blank. */
function textBoundary(text: string, at: number): number {
  const whole = /[\udc00-\udfff]/.test(text[at] ?? '') ? at - 1 : at
  return whole > 0 && text[whole - 1] === ' ' ? whole - 1 : whole
}

const numberOf = (value: unknown, place: string): number => {
  const number = typeof value === 'string' && value.trim() !== '' ? Number(value) : value
  if (typeof number !== 'number' || !Number.isFinite(number)) throw new DataError(`${place}: expected a finite number, got ${typeof value === 'number' ? value : describeValue(value)}`)
  return number
}

const isEmpty = (content: Content): boolean => (typeof content === 'string' ? content === '' : content.every((message) => message.tool_calls == null && emptyText(message)))
const emptyText = ({ content }: ChatMessage): boolean => (typeof content === 'string' ? content === '' : content == null || content.every(({ text }) => !text))

/** A completion without text would only train the end of sequence. */
function requireText(content: Content, place: string): void {
  if (isEmpty(content)) throw new DataError(`${place}: expected a completion, got an empty one; leave the row out, or pass it over with onBadRow: 'skip'`)
}

const refuseKind = (kind: DataRow['kind'], wanted: string, place: string): never => {
  throw new DataError(`${place}: expected ${wanted}, got a row of the kind ${kind}`)
}

const extrasOf = ({ tools, chatTemplateKwargs }: Extras): Extras => ({ ...tools && { tools }, ...chatTemplateKwargs && { chatTemplateKwargs } })

/** A row with chosen and rejected, its prompt given or extracted. Throws DataError where the two are equal or one is empty. */
export function readPreference(source: SourceRow, options: FormatOptions = {}): PreferenceRow {
  const place = placeOf(source)
  const row = readRow(source, options)
  if (row.kind !== 'preference') return refuseKind(row.kind, 'the columns "chosen" and "rejected"', place)
  if (isDeepStrictEqual(row.chosen, row.rejected)) throw new DataError(`${place}: chosen and rejected are equal, so there is nothing to prefer; leave the row out, or pass it over with onBadRow: 'skip'`)
  const parts = row.prompt === undefined ? extractPrompt(row.chosen, row.rejected) : { prompt: row.prompt, chosen: row.chosen, rejected: row.rejected }
  if (typeof parts.prompt !== 'string' && parts.prompt.length === 0) throw new DataError(`${place}: chosen and rejected have no first message in common; begin both with the same prompt`)
  requireText(parts.chosen, `${place}: chosen`)
  requireText(parts.rejected, `${place}: rejected`)
  const margin = source.row['margin']
  return { ...parts, ...extrasOf(row), margin: margin == null ? undefined : numberOf(margin, `${place}: margin`) }
}

/** A row with prompt, completion and label; a row with chosen and rejected gives two, as TRL's unpair_preference_dataset. */
export function readUnpaired(source: SourceRow, options: FormatOptions = {}): UnpairedRow[] {
  const place = placeOf(source)
  const row = readRow(source, options)
  if (row.kind === 'preference') {
    const { prompt, chosen, rejected, margin: _, ...extras } = readPreference(source, options)
    return [{ prompt, completion: chosen, label: true, ...extras }, { prompt, completion: rejected, label: false, ...extras }]
  }
  if (row.kind !== 'unpairedPreference') return refuseKind(row.kind, 'the columns "prompt", "completion" and "label"', place)
  requireText(row.completion, `${place}: completion`)
  return [{ prompt: row.prompt, completion: row.completion, label: row.label, ...extrasOf(row) }]
}

const listOf = (value: unknown, place: string): unknown[] => {
  const parsed = typeof value === 'string' && /^\s*\[/.test(value) ? safeJson(value) : value
  if (!Array.isArray(parsed)) throw new DataError(`${place}: expected an array, got ${describeValue(value)}`)
  return parsed
}

const safeJson = (text: string): unknown => {
  try { return JSON.parse(text) as unknown } catch { return text }
}

/** The column under its own name or the one that `columns` gives it. */
const columnOf = ({ row }: SourceRow, name: string, { columns }: FormatOptions): unknown => {
  const own = columns && Object.hasOwn(columns, name) ? columns[name]! : name
  return Object.hasOwn(row, own) ? row[own] : undefined
}

/** A row with chosen, rejected and reference. Where the prompt is not given, the reference begins with it too, as TRL's TPOTrainer has it. */
export function readTriple(source: SourceRow, options: FormatOptions = {}): TripleRow {
  const place = placeOf(source)
  const row = readPreference(source, options)
  const value = columnOf(source, 'reference', options)
  if (value == null) throw new DataError(`${place}: expected the columns "chosen", "rejected" and "reference", got no reference; add the gold completion`)
  const given = readContent(value, `${place}: reference`)
  if (typeof given !== typeof row.prompt) throw new DataError(`${place}: reference: expected the form of the prompt, ${typeof row.prompt === 'string' ? 'a string' : 'messages'}`)
  const isExplicit = columnOf(source, 'prompt', options) != null
  if (!isExplicit && !isDeepStrictEqual(given.slice(0, row.prompt.length), row.prompt)) {
    throw new DataError(`${place}: reference: expected the beginning that chosen and rejected have in common; begin all three with the prompt, or give it as the column "prompt"`)
  }
  const reference = isExplicit ? given : given.slice(row.prompt.length)
  requireText(reference, `${place}: reference`)
  return { ...row, reference }
}

/** A row with prompt, responses (or completions) and scores. */
export function readRanked(source: SourceRow, options: FormatOptions = {}): RankedRow {
  const place = placeOf(source)
  const get = (name: string): unknown => columnOf(source, name, options)
  const [name, responses] = get('responses') == null ? ['completions', get('completions')] as const : ['responses', get('responses')] as const
  if (get('prompt') == null || responses == null || get('scores') == null) {
    throw new DataError(`${place}: expected the columns "prompt", "responses" and "scores"; the row has ${Object.keys(source.row).map((key) => JSON.stringify(key)).join(', ')}`)
  }
  const prompt = readContent(get('prompt'), `${place}: prompt`)
  const completions = listOf(responses, `${place}: ${name}`).map((one, i) => readContent(one, `${place}: ${name}[${i}]`))
  const scores = listOf(get('scores'), `${place}: scores`).map((one, i) => numberOf(one, `${place}: scores[${i}]`))
  if (completions.length < 2) throw new DataError(`${place}: ${name}: expected at least two to rank, got ${completions.length}`)
  if (scores.length !== completions.length) throw new DataError(`${place}: scores: expected ${completions.length}, one for each of ${name}, got ${scores.length}`)
  completions.forEach((one, i) => {
    if (typeof one !== typeof prompt) throw new DataError(`${place}: ${name}[${i}]: expected the form of the prompt, ${typeof prompt === 'string' ? 'a string' : 'messages'}`)
    requireText(one, `${place}: ${name}[${i}]`)
  })
  const tools = readTools(get('tools'), `${place}: tools`)
  return { prompt, completions, scores, ...tools && { tools } }
}

/** A row with prompt, completions (the steps) and labels. */
export function readStepwise(source: SourceRow, options: FormatOptions = {}): StepwiseRow {
  const place = placeOf(source)
  const get = (name: string): unknown => parsedIfJson(columnOf(source, name, options))
  const prompt = get('prompt')
  if (typeof prompt !== 'string') throw new DataError(`${place}: prompt: expected a string, got ${describeValue(prompt)}`)
  const steps = listOf(get('completions'), `${place}: completions`).map((step, i) => {
    if (typeof step !== 'string' || step === '') throw new DataError(`${place}: completions[${i}]: expected the text of a step, got ${describeValue(step)}`)
    return step
  })
  const labels = listOf(get('labels'), `${place}: labels`).map((label, i) => {
    if (typeof label === 'boolean') return label
    if (label === 0 || label === 1) return label === 1
    throw new DataError(`${place}: labels[${i}]: expected true or false, got ${describeValue(label)}`)
  })
  if (steps.length === 0) throw new DataError(`${place}: completions: expected at least one step, got none`)
  if (labels.length !== steps.length) throw new DataError(`${place}: labels: expected ${steps.length}, one a step, got ${labels.length}`)
  return { prompt, steps, labels }
}
