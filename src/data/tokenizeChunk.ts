import { setImmediate } from 'node:timers/promises'
import { DataError } from '../errors.ts'
import { emptyMaskAdvice, ExampleMaker, emptyStats, type ExampleOptions, type ExampleStats, type Tokenization } from './examples.ts'
import { readRow, type FormatOptions } from './formats.ts'
import { placeOf, type SourceRow } from './readers/types.ts'
import type { SourcePosition } from './shards.ts'
import type { Example } from './types.ts'

/** How rows become examples. Plain data: it travels to worker threads and into a cache's fingerprint. */
export interface TokenizeOptions extends FormatOptions, ExampleOptions {
  /** A malformed row: 'error' (default) stops, 'skip' counts it and goes on. */
  onBadRow?: 'error' | 'skip'
  /** A row with no token to train on: 'drop' (default) counts it and goes on, 'error' stops. */
  onEmptyMask?: 'drop' | 'error'
}

/** Consecutive rows that become one shard. */
export interface Chunk {
  start: SourcePosition
  end: SourcePosition
  rows: SourceRow[]
  /** Malformed rows that the readers passed over within the chunk. */
  badRows: number
}

/** The event loop gets a turn after this many milliseconds. */
const maxBlockingMs = 8

/** The row's example; undefined, and counted in `maker.stats`, if it is malformed and may be skipped or has nothing to train on. */
export function tokenizeRow(source: SourceRow, maker: ExampleMaker, options: TokenizeOptions): Example | undefined {
  const place = placeOf(source)
  let example: Example | undefined
  try {
    example = maker.make(readRow(source, options), place)
  } catch (error) {
    if (options.onBadRow !== 'skip' || !(error instanceof DataError)) throw error
    maker.stats.badRows++
    return undefined
  }
  if (!example && options.onEmptyMask === 'error') throw new DataError(`${place}: no token of the row is trained; ${emptyMaskAdvice}, or pass onEmptyMask: 'drop'`)
  return example
}

/** Tokenizes a chunk, giving way to the event loop now and then. */
export async function tokenizeChunk(chunk: Chunk, tokenization: Tokenization, options: TokenizeOptions): Promise<{ examples: Example[], stats: ExampleStats }> {
  const maker = new ExampleMaker(tokenization, options)
  const examples: Example[] = []
  let turn = performance.now()
  for (const source of chunk.rows) {
    const example = tokenizeRow(source, maker, options)
    if (example) examples.push(example)
    if (performance.now() - turn > maxBlockingMs) { await setImmediate(); turn = performance.now() }
  }
  const stats = { ...emptyStats(), ...maker.stats }
  stats.badRows += chunk.badRows
  return { examples, stats }
}
