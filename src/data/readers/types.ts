/** A row as it stands in a source, with its place for error messages. */
export interface SourceRow {
  /** Columns by name. Made with own properties only; a key `__proto__` is left out. */
  row: Record<string, unknown>
  file: string
  /** From 1; undefined for files without lines (Parquet). */
  line?: number
  /** The row's number in its file, from 0, counting rows that were refused. */
  record: number
  /** Present when a long text comes in several rows: BOS goes before the first only, EOS after the last only. */
  piece?: TextPiece
}

/** Which part of a long text a row holds. */
export type TextPiece = 'first' | 'middle' | 'last'

/** A row that could not be read; `problem` is the message of the error it would be. */
export interface BadRow { file: string, line?: number, record: number, problem: string }

export interface ReadOptions {
  /** Rows to pass over, refused ones included; they are not parsed where the format allows. */
  skip?: number
  /** 'error' (default) throws on a malformed row, 'skip' reports it to `onSkipped` and goes on. */
  onBadRow?: 'error' | 'skip'
  onSkipped?: (bad: BadRow) => void
}

/** Reads one file as a stream of rows in constant memory. Every call of `rows` starts anew. */
export interface Reader {
  readonly file: string
  rows(options?: ReadOptions): AsyncIterable<SourceRow>
}

/** `file:line` or `file, row n`: where a row stands. */
export function placeOf(at: { file: string, line?: number, record: number }): string {
  return at.line === undefined ? `${at.file}: row ${at.record + 1}` : `${at.file}:${at.line}`
}
