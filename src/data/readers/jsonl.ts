import { DataError } from '../../errors.ts'
import { findJsonProblem } from '../../files/json.ts'
import { decodeStrict, maxRecordBytes, readLines } from './bytes.ts'
import type { BadRow, Reader, ReadOptions, SourceRow } from './types.ts'

const blank = /^[ \t\r]*$/

/** What parsing a row gives: the row, or what is wrong and where (offset from 0, in UTF-16 units). */
export type ParsedRow = { row: Record<string, unknown> } | { row?: undefined, problem: string, offset: number }

/** A key `__proto__`, plain or with an escaped underscore. */
const proto = /__proto__|\\u005[fF]/

/** Parses one JSON object. A key `__proto__` is left out at any depth. */
export function parseRow(text: string): ParsedRow {
  let value: unknown
  try {
    value = proto.test(text)
      ? JSON.parse(text, (key, inner: unknown) => key === '__proto__' ? undefined : inner)
      : JSON.parse(text)
  } catch (error) {
    const found = findJsonProblem(text)
    return { problem: found?.message.replace('the end of the file', 'the end of the line') ?? (error as Error).message, offset: found?.offset ?? 0 }
  }
  if (value === null || typeof value !== 'object' || Array.isArray(value)) {
    const got = value === null ? 'null' : Array.isArray(value) ? 'an array' : `a ${typeof value}`
    return { problem: `expected a JSON object, got ${got}`, offset: text.length - text.trimStart().length }
  }
  return { row: value as Record<string, unknown> }
}

/** Reports a bad row as the options ask. */
export function refuse(bad: BadRow, options: ReadOptions): void {
  if (options.onBadRow !== 'skip') throw new DataError(`${bad.problem}; fix the line or pass onBadRow: 'skip'`)
  options.onSkipped?.(bad)
}

/** One JSON object a line. Blank lines are passed over; LF and CRLF end a line, U+2028 does not. */
export function jsonlReader(file: string): Reader {
  async function* rows(options: ReadOptions = {}): AsyncGenerator<SourceRow> {
    const skip = options.skip ?? 0
    let record = -1
    for await (const { bytes, line, tooLong } of readLines(file)) {
      if (!tooLong && bytes.length < 64 && blank.test(bytes.toString('latin1'))) continue
      record++
      if (record < skip) continue
      if (tooLong) { refuse({ file, line, record, problem: `${file}:${line}:1: the line is longer than ${maxRecordBytes >> 20} MiB` }, options); continue }
      const text = decodeStrict(bytes)
      if (text === undefined) { refuse({ file, line, record, problem: `${file}:${line}:1: the line is not UTF-8` }, options); continue }
      const parsed = parseRow(text)
      if (parsed.row) yield { row: parsed.row, file, line, record }
      else refuse({ file, line, record, problem: `${file}:${line}:${parsed.offset + 1}: ${parsed.problem}` }, options)
    }
  }
  return { file, rows }
}
