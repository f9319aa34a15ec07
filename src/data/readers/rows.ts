import { ConfigError, DataError } from '../../errors.ts'
import type { Reader, ReadOptions, SourceRow } from './types.ts'

/** Rows that a program has: an array, a generator, a stream of a database. */
export type Rows<Row extends object = object> = Iterable<Row> | AsyncIterable<Row>

/** All rows of a list, generator or stream. */
export async function listOfRows<Row extends object>(rows: Rows<Row>, name = 'rows'): Promise<readonly Row[]> {
  if (Array.isArray(rows)) return rows as readonly Row[]
  if (typeof rows !== 'object' || !(Symbol.iterator in rows || Symbol.asyncIterator in rows)) {
    const got = typeof rows === 'function' ? 'a function; call it' : typeof rows === 'string' ? 'a text; name files with files' : `a value of type ${typeof rows}`
    throw new ConfigError(`${name}: expected an array, an iterable or an async iterable of rows, got ${got}`)
  }
  const list: Row[] = []
  for await (const row of rows) list.push(row)
  return list
}

/** Rows that are in memory already. `name` stands for the file in messages. */
export function rowsReader(list: readonly object[], name = 'rows'): Reader {
  // eslint-disable-next-line @typescript-eslint/require-await -- readers are asynchronous
  async function* rows(options: ReadOptions = {}): AsyncGenerator<SourceRow> {
    for (let record = options.skip ?? 0; record < list.length; record++) {
      const row = list[record] as unknown
      if (row === null || typeof row !== 'object' || Array.isArray(row)) throw new DataError(`${name}: row ${record + 1}: expected an object, got ${row === null ? 'null' : Array.isArray(row) ? 'an array' : `a ${typeof row}`}`)
      yield { row: row as Record<string, unknown>, file: name, record }
    }
  }
  return { file: name, rows }
}
