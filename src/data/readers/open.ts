import { stat } from 'node:fs/promises'
import { resolve } from 'node:path'
import { DataError } from '../../errors.ts'
import { readError } from '../../files/filesystem.ts'
import { csvReader } from './csv.ts'
import { jsonReader } from './json.ts'
import { jsonlReader } from './jsonl.ts'
import { parquetReader } from './parquet.ts'
import { textReader, type SampleBy } from './text.ts'
import type { Reader } from './types.ts'

export type FileType = 'text' | 'jsonl' | 'json' | 'csv' | 'parquet'

const extensions: Record<string, FileType> = {
  txt: 'text', text: 'text', md: 'text', markdown: 'text', rst: 'text',
  jsonl: 'jsonl', ndjson: 'jsonl', json: 'json', csv: 'csv', tsv: 'csv', parquet: 'parquet',
}

/** What kind of file a name promises; `.gz` at the end does not count. Undefined for an unknown ending. */
export function fileTypeOf(file: string): FileType | undefined {
  const name = file.replace(/\.gz$/i, '')
  return extensions[name.slice(name.lastIndexOf('.') + 1).toLowerCase()]
}

const dataFiles = `**/*.{${Object.keys(extensions).join(',')},${Object.keys(extensions).map((e) => `${e}.gz`).join(',')}}`

/**
 * The files that paths, folders and globs name, each once, in a fixed order: patterns as given, the files of each sorted.
 * A folder stands for the data files in it. A pattern that names nothing is an error.
 */
export async function expandFiles(patterns: string | string[], options: { cwd?: string } = {}): Promise<string[]> {
  const cwd = options.cwd ?? process.cwd()
  const found = new Set<string>()
  const list = typeof patterns === 'string' ? [patterns] : patterns
  if (list.length === 0) throw new DataError('files: expected at least one file, folder or glob, got an empty list')
  for (const pattern of list) {
    const path = resolve(cwd, pattern)
    const info = await stat(path).catch(() => undefined)
    if (info?.isFile()) { found.add(path); continue }
    const base = info?.isDirectory() ? path : cwd
    const { default: glob } = await import('fast-glob')
    const matches = await glob(info?.isDirectory() ? dataFiles : pattern, { cwd: base, absolute: true, caseSensitiveMatch: false })
    if (matches.length === 0) {
      const what = info?.isDirectory() ? 'the folder holds no data files' : glob.isDynamicPattern(pattern) ? 'no file matches the pattern' : 'no such file'
      throw new DataError(`${pattern}: ${what}; known endings are .${Object.keys(extensions).join(', .')} (each also with .gz)`)
    }
    for (const match of matches.sort((a, b) => a < b ? -1 : a > b ? 1 : 0)) found.add(match)
  }
  return [...found]
}

export interface OpenOptions {
  /** What the files are, where their names do not tell. */
  fileType?: FileType
  sampleBy?: SampleBy
}

/** Compressed files that are not read, by their ending, and what unpacks them. */
const packed: Record<string, string> = { zst: 'zstd -d', xz: 'xz -d', bz2: 'bzip2 -d', lz4: 'lz4 -d', zip: 'unzip', tgz: 'tar -xzf', tar: 'tar -xf', '7z': '7z x' }

/** What to do with a file of an unknown ending. */
function unknownEnding(file: string): DataError {
  const unpack = packed[file.slice(file.lastIndexOf('.') + 1).toLowerCase()]
  if (unpack !== undefined) return new DataError(`${file}: expected plain or gzipped data, got another compression; unpack it first, for example with ${unpack}`)
  return new DataError(`${file}: unknown ending; expected .${Object.keys(extensions).join(', .')}, or say what it is with fileType`)
}

/** The reader for a file, by its ending or by `fileType`. */
export function openReader(file: string, options: OpenOptions = {}): Reader {
  const type = options.fileType ?? fileTypeOf(file)
  if (type === undefined) throw unknownEnding(file)
  if (type === 'parquet' && /\.gz$/i.test(file)) throw new DataError(`${file}: a gzipped Parquet file cannot be read; unpack it (Parquet compresses by itself)`)
  switch (type) {
    case 'text': return textReader(file, options.sampleBy)
    case 'jsonl': return jsonlReader(file)
    case 'json': return jsonReader(file)
    case 'csv': return csvReader(file)
    case 'parquet': return parquetReader(file)
  }
}

/** Size and modification time, by which a cache knows that a file is still the same. */
export async function fileStamp(file: string): Promise<{ file: string, size: number, mtimeMs: number }> {
  const { size, mtimeMs } = await stat(file).catch((error: unknown) => { throw readError(error, file) })
  return { file, size, mtimeMs }
}
