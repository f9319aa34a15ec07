import { ConfigError } from '../errors.ts'
import type { FormatOptions } from './formats.ts'
import type { PackingStrategy } from './packing.ts'
import { expandFiles, type FileType } from './readers/open.ts'
import type { Rows } from './readers/rows.ts'
import type { SampleBy } from './readers/text.ts'
import type { TokenizeOptions } from './tokenizeChunk.ts'

/** Where rows come from and what they look like. */
export interface SourceOptions extends FormatOptions {
  /** Files, folders or globs: .txt .md .jsonl .json .csv .tsv .parquet, all but Parquet also with .gz. */
  files?: string | string[]
  /** Rows in memory, instead of files: an array, or an iterable, also an async one, that is read to its end. They are not cached. */
  rows?: Rows
  /** What the files are, where their names do not tell. */
  fileType?: FileType
  /** What one row of a text file is. Default 'document'. */
  sampleBy?: SampleBy
  /** The share of a mixture. */
  weight?: number
}

/** Copies the keys of `from` that are set. */
export function pick<T extends object, K extends keyof T>(from: T, keys: readonly K[]): Pick<T, K> {
  return Object.fromEntries(keys.filter((key) => from[key] !== undefined).map((key) => [key, from[key]])) as Pick<T, K>
}

/** What a source without options of its own takes from the options around it. */
export const formatOf = (options: SourceOptions): SourceOptions => pick(options, ['format', 'columns', 'alpacaStyle', 'fileType', 'sampleBy'])

/** The sources of a call: `datasets`, or the one that the options describe. */
export function sourcesOf(options: SourceOptions & { datasets?: SourceOptions[] }): SourceOptions[] {
  if (!options.datasets) return [{ ...formatOf(options), ...pick(options, ['files', 'rows']) }]
  if (options.files ?? options.rows) throw new ConfigError('datasets: give either datasets or files, not both')
  return options.datasets.map((source) => ({ ...formatOf(options), ...source }))
}

/** The files of a source that has no rows. */
export async function filesOf(source: SourceOptions, name: string): Promise<string[]> {
  if (!source.files) throw new ConfigError(`${name}: expected files or rows`)
  return expandFiles(source.files)
}

/** The packing strategy and the length, checked together. */
export function packingOf(options: { packing?: boolean | PackingStrategy, maxLength?: number | null }): { strategy: PackingStrategy | false, maxLength: number | null } {
  const strategy = options.packing === true ? 'bfd' : options.packing ?? false
  const maxLength = options.maxLength === undefined ? 1024 : options.maxLength
  if (strategy && maxLength === null) throw new ConfigError('maxLength: packing needs a length, got null')
  if (maxLength !== null && (!Number.isInteger(maxLength) || maxLength < 2)) throw new ConfigError(`maxLength: expected a whole number from 2, or null, got ${maxLength}`)
  return { strategy, maxLength }
}

/** How the rows of a source are tokenized. Packing that loses nothing does not truncate. */
export function tokenizeOptionsOf(source: SourceOptions, options: TokenizeOptions, strategy: PackingStrategy | false): TokenizeOptions {
  return {
    ...pick(source, ['format', 'columns', 'alpacaStyle']),
    ...pick(options, ['truncationMode', 'completionOnlyLoss', 'assistantOnlyLoss', 'appendEos', 'addSpecialTokens', 'allowSpecial', 'onBadRow', 'onEmptyMask']),
    maxLength: !strategy || strategy === 'bfd' ? options.maxLength === undefined ? 1024 : options.maxLength : null,
  }
}
