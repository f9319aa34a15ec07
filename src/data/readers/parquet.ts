import { open } from 'node:fs/promises'
import type { AsyncBuffer, Compressors, FileMetaData, RowGroup, SchemaTree } from 'hyparquet'
import { DataError } from '../../errors.ts'
import { readError, readFully } from '../../files/filesystem.ts'
import { checkPages, levelsOf } from './parquetPages.ts'
import type { Reader, ReadOptions, SourceRow } from './types.ts'

/** Whole numbers that fit become numbers; the rest of a value is copied as it is, without `__proto__` keys. */
function plain(value: unknown): unknown {
  if (typeof value === 'bigint') return value >= Number.MIN_SAFE_INTEGER && value <= Number.MAX_SAFE_INTEGER ? Number(value) : value
  if (Array.isArray(value)) return value.map(plain)
  if (value !== null && typeof value === 'object' && Object.getPrototypeOf(value) === Object.prototype) {
    return Object.fromEntries(Object.entries(value).filter(([key]) => key !== '__proto__').map(([key, inner]) => [key, plain(inner)]))
  }
  return value
}

/** A Parquet file, one row group in memory at a time. */
export function parquetReader(file: string): Reader {
  async function* rows(options: ReadOptions = {}): AsyncGenerator<SourceRow> {
    const { parquetMetadataAsync, parquetReadObjects, parquetSchema } = await import('hyparquet')
    const { compressors } = await import('hyparquet-compressors')
    const handle = await open(file, 'r').catch((error: unknown) => { throw readError(error, file) })
    try {
      const { size } = await handle.stat()
      const buffer: AsyncBuffer = {
        byteLength: size,
        slice: async (start, end = size) => {
          const bytes = new Uint8Array(Math.max(0, Math.min(end, size) - start))
          const read = await readFully(handle, bytes, start)
          if (read < bytes.length) throw new DataError(`${file}: the file became shorter while it was read`)
          return bytes.buffer
        },
      }
      const metadata = await parquetMetadataAsync(buffer).catch((error: unknown) => { throw damaged(file, error) })
      const schema = checked(file, () => parquetSchema(metadata))
      const skip = options.skip ?? 0
      for (const [group, { start, end }] of rowGroups(metadata, file).entries()) {
        if (end <= skip) continue
        const first = Math.max(start, skip)
        await checkGroup(buffer, metadata.row_groups[group]!, schema, compressors).catch((error: unknown) => { throw damaged(file, error, group) })
        const objects = await parquetReadObjects({ file: buffer, metadata, compressors, rowStart: first, rowEnd: end })
          .catch((error: unknown) => { throw damaged(file, error, group) })
        for (const [i, row] of objects.entries()) yield { row: plain(row) as Record<string, unknown>, file, record: first + i }
      }
    } finally {
      await handle.close()
    }
  }
  return { file, rows }
}

function checked<T>(file: string, body: () => T): T {
  try { return body() } catch (error) { throw damaged(file, error) }
}

/** The decoder allocates and writes what pages claim, so they are checked before. */
async function checkGroup(buffer: AsyncBuffer, { columns, num_rows: rows }: RowGroup, schema: SchemaTree, compressors: Compressors): Promise<void> {
  for (const { meta_data: metadata } of columns) {
    if (!metadata) throw new Error('a column has no metadata')
    const start = Number(metadata.dictionary_page_offset || metadata.data_page_offset)
    const end = start + Number(metadata.total_compressed_size)
    if (!(start >= 0 && end >= start && end <= buffer.byteLength)) throw new Error(`column ${metadata.path_in_schema.join('.')} lies outside the file`)
    checkPages(new Uint8Array(await buffer.slice(start, end)), { metadata, levels: levelsOf(schema, metadata.path_in_schema), rows: Number(rows), compressors })
  }
}

function rowGroups(metadata: FileMetaData, file: string): { start: number, end: number }[] {
  let start = 0
  return metadata.row_groups.map((group) => {
    const count = Number(group.num_rows)
    if (!Number.isSafeInteger(count) || count < 0) throw new DataError(`${file}: a row group claims ${String(group.num_rows)} rows; fetch the file again`)
    const range = { start, end: start + count }
    start = range.end
    return range
  })
}

function damaged(file: string, error: unknown, group?: number): Error {
  if (error instanceof DataError) return error
  const where = group === undefined ? '' : `row group ${group}: `
  return new DataError(`${file}: ${where}cannot read Parquet: ${error instanceof Error ? error.message : String(error)}; fetch the file again`, { cause: error })
}
