import { closeSync, existsSync, ftruncateSync, mkdirSync, openSync, readFileSync, readSync, fstatSync, writeSync } from 'node:fs'
import { dirname } from 'node:path'
import { FileFormatError } from '../../errors.ts'
import { readError, writeError } from '../../files/filesystem.ts'
import { findJsonProblem } from '../../files/json.ts'
import type { TrainerEvent, TrainerLogger } from '../events.ts'

/** What a log holds: every event but the single steps. */
export type LoggedEvent = Exclude<TrainerEvent, { type: 'step' }>

/** JSON has no NaN and no infinity; the log keeps them as strings, for a hidden NaN is worse than none. */
const names = new Map<string, number>([['NaN', NaN], ['Infinity', Infinity], ['-Infinity', -Infinity]])

/** One event as one line, newline included. */
export function formatEvent(event: LoggedEvent): string {
  return JSON.stringify(event, (_, value: unknown) => (typeof value === 'number' && !Number.isFinite(value) ? String(value) : value)) + '\n'
}

const restoreNumbers = (record: Record<string, unknown>): Record<string, unknown> =>
  Object.fromEntries(Object.entries(record).map(([key, value]) => [key, typeof value === 'string' ? names.get(value) ?? value : value]))

const eventTypes: readonly string[] = ['start', 'log', 'evaluate', 'save', 'sample', 'warning', 'end'] satisfies LoggedEvent['type'][]

/** The event of a line; `where` is `file:line` for messages. */
export function parseEvent(line: string, where: string): LoggedEvent {
  let value: unknown
  try {
    value = JSON.parse(line)
  } catch (error) {
    const problem = findJsonProblem(line)
    throw new FileFormatError(`${where}:${problem?.column ?? 1}: ${problem?.message ?? 'not JSON'}; remove the line`, { cause: error })
  }
  if (typeof value !== 'object' || value === null || !('type' in value) || typeof value.type !== 'string' || !eventTypes.includes(value.type)) {
    throw new FileFormatError(`${where}: expected a training event, an object whose type is one of ${eventTypes.join(', ')}`)
  }
  if ('metrics' in value && typeof value.metrics === 'object' && value.metrics !== null) value.metrics = restoreNumbers({ ...value.metrics })
  return value.type === 'log' ? restoreNumbers({ ...value }) as unknown as LoggedEvent : value as LoggedEvent
}

/** The events of a log; a last line cut short by a crash is left out, any other broken line is an error. */
export function readEvents(path: string): LoggedEvent[] {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (error) {
    throw readError(error, path)
  }
  return text.slice(0, text.lastIndexOf('\n') + 1).split('\n').flatMap((line, i) => (line.trim() === '' ? [] : [parseEvent(line, `${path}:${i + 1}`)]))
}

/** What `JsonlLogger` takes. */
export interface JsonlLoggerOptions {
  /** Resuming from this step: what an interrupted run logged after it is dropped, so the log reads as one run. */
  resumeStep?: number
}

/** Appends every event as one line of JSON. A line is written whole, in one call; one torn by a crash is cut off on reopening. */
export class JsonlLogger implements TrainerLogger {
  readonly path: string
  #file: number | undefined

  constructor(path: string, options: JsonlLoggerOptions = {}) {
    this.path = path
    try {
      mkdirSync(dirname(path), { recursive: true })
      if (existsSync(path)) repair(path, options.resumeStep)
      this.#file = openSync(path, 'a', 0o644)
    } catch (error) {
      throw writeError(error, path)
    }
  }

  handle(event: TrainerEvent): void {
    if (this.#file === undefined || event.type === 'step') return
    const line = Buffer.from(formatEvent(event))
    try {
      for (let done = 0; done < line.length;) done += writeSync(this.#file, line, done)
    } catch (error) {
      throw writeError(error, this.path, line.length)
    }
  }

  close(): void {
    if (this.#file !== undefined) closeSync(this.#file)
    this.#file = undefined
  }
}

/** Cuts a torn last line off, and from the first event past `resumeStep` on, everything. */
function repair(path: string, resumeStep: number | undefined): void {
  const file = openSync(path, 'r+')
  try {
    const { size } = fstatSync(file)
    const keep = resumeStep === undefined ? endOfLastLine(file, size) : endOfStep(path, resumeStep)
    if (keep < size) ftruncateSync(file, keep)
  } finally {
    closeSync(file)
  }
}

function endOfLastLine(file: number, size: number): number {
  const piece = Buffer.alloc(64 * 1024)
  for (let end = size; end > 0;) {
    const start = Math.max(0, end - piece.length)
    const got = readSync(file, piece, 0, end - start, start)
    const newline = piece.subarray(0, got).lastIndexOf(10)
    if (newline >= 0) return start + newline + 1
    end = start
  }
  return 0
}

function endOfStep(path: string, resumeStep: number): number {
  const bytes = readFileSync(path)
  let start = 0
  for (let line = 1; start < bytes.length; line++) {
    const end = bytes.indexOf(10, start)
    if (end < 0) break
    const text = bytes.toString('utf8', start, end)
    if (text.trim() !== '') {
      const event = parseEvent(text, `${path}:${line}`)
      if (event.type === 'end' || (event.step ?? 0) > resumeStep) return start
    }
    start = end + 1
  }
  return start
}
