import { decodeStrict, readLines, readText } from './bytes.ts'
import { DataError } from '../../errors.ts'
import type { Reader, ReadOptions, SourceRow, TextPiece } from './types.ts'

/** What one row of a text file is. */
export type SampleBy = 'document' | 'paragraph' | 'line'

/** A document longer than this many characters comes in pieces, so that memory stays bounded. */
export const maxPieceLength = 2 ** 18

/** The place to cut `text` at or before `limit`: after a blank line, else after a line, else before a space, else anywhere between characters. */
function cutPlace(text: string, limit: number): number {
  const least = limit >> 1
  const paragraph = text.lastIndexOf('\n\n', limit - 2)
  if (paragraph >= least) return paragraph + 2
  const line = text.lastIndexOf('\n', limit - 1)
  if (line >= least) return line + 1
  const space = text.lastIndexOf(' ', limit - 1)
  if (space >= least) return space
  const code = text.charCodeAt(limit - 1)
  return code >= 0xd800 && code < 0xdc00 ? limit - 1 : limit
}

interface TextRow { text: string, line: number, piece?: TextPiece }

/** A text or Markdown file: one document (default), or a row for each paragraph or line. Blank rows are left out. */
export function textReader(file: string, sampleBy: SampleBy = 'document'): Reader {
  async function* documents(): AsyncGenerator<TextRow> {
    let rest = ''
    let pieces = 0
    for await (const piece of readText(file)) {
      rest += piece
      while (rest.length > maxPieceLength) {
        const cut = cutPlace(rest, maxPieceLength)
        yield { text: rest.slice(0, cut), line: 1, piece: pieces++ === 0 ? 'first' : 'middle' }
        rest = rest.slice(cut)
      }
    }
    if (rest !== '') yield pieces > 0 ? { text: rest, line: 1, piece: 'last' } : { text: rest, line: 1 }
  }

  async function* lines(): AsyncGenerator<TextRow> {
    for await (const { bytes, line, tooLong } of readLines(file)) {
      if (tooLong) throw new DataError(`${file}:${line}: the line is longer than 64 MiB; read the file with sampleBy: 'document'`)
      const text = decodeStrict(bytes)
      if (text === undefined) throw new DataError(`${file}:${line}: the line is not UTF-8; convert the file or leave it out`)
      yield { text, line }
    }
  }

  async function* paragraphs(): AsyncGenerator<TextRow> {
    let held: string[] = []
    let start = 1
    for await (const { text, line } of lines()) {
      if (text.trim() !== '') { if (held.length === 0) start = line; held.push(text) }
      else if (held.length > 0) { yield { text: held.join('\n'), line: start }; held = [] }
    }
    if (held.length > 0) yield { text: held.join('\n'), line: start }
  }

  async function* rows(options: ReadOptions = {}): AsyncGenerator<SourceRow> {
    const skip = options.skip ?? 0
    let record = -1
    for await (const { text, line, piece } of { document: documents, paragraph: paragraphs, line: lines }[sampleBy]()) {
      if (text.trim() === '' && piece === undefined) continue
      record++
      if (record < skip) continue
      yield piece ? { row: { text }, file, line, record, piece } : { row: { text }, file, line, record }
    }
  }
  return { file, rows }
}
