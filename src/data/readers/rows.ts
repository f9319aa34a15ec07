import { DataError } from '../../errors.ts'
import type { Reader, ReadOptions, SourceRow } from './types.ts'

/** Rows that are in memory already. `name` stands for the file in messages. */
export function rowsReader(list: readonly Record<string, unknown>[], name = 'rows'): Reader {
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
