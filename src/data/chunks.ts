import type { Reader } from './readers/types.ts'
import type { SourcePosition } from './shards.ts'
import type { Chunk } from './tokenizeChunk.ts'

/** A chunk ends after this many rows, or characters of JSON, whichever comes first. */
const maxRows = 4096
const maxCharacters = 2 ** 21

/** A rough size of a row's content, in characters. */
function sizeOf(value: unknown): number {
  if (typeof value === 'string') return value.length
  if (value === null || typeof value !== 'object') return 8
  let sum = 16
  for (const inner of Object.values(value)) sum += sizeOf(inner)
  return sum
}

/**
 * Cuts the rows of all readers into chunks, from `start` on. A chunk's bounds depend only on the rows after its start, so the cutting
 * can go on from the end of any chunk.
 */
export async function* readChunks(readers: readonly Reader[], start: SourcePosition, onBadRow: 'error' | 'skip'): AsyncGenerator<Chunk> {
  let chunk: Chunk = { start, end: start, rows: [], badRows: 0 }
  let size = 0
  for (let reader = start.reader; reader < readers.length; reader++) {
    const skip = reader === start.reader ? start.record : 0
    let refused = 0
    for await (const source of readers[reader]!.rows({ skip, onBadRow, onSkipped: () => { refused++ } })) {
      chunk.badRows += refused
      refused = 0
      chunk.rows.push(source)
      chunk.end = { reader, record: source.record + 1 }
      size += sizeOf(source.row)
      if (chunk.rows.length >= maxRows || size >= maxCharacters) {
        yield chunk
        chunk = { start: chunk.end, end: chunk.end, rows: [], badRows: 0 }
        size = 0
      }
    }
    chunk.badRows += refused
    chunk.end = { reader: reader + 1, record: 0 }
  }
  if (chunk.rows.length > 0 || chunk.badRows > 0) yield chunk
}
