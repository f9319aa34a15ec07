import { createHash } from 'node:crypto'
import { mkdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { during } from '../activity.ts'
import { DataError } from '../errors.ts'
import { replaceFile, recoverLeftovers } from '../files/atomic.ts'
import { isMissing, readError, writeError, type FileSystem } from '../files/filesystem.ts'
import { lazily } from '../options.ts'
import { CachedDataset } from './cachedDataset.ts'
import { readChunks } from './chunks.ts'
import { addStats, emptyStats, type ExampleStats, type Tokenization } from './examples.ts'
import type { Reader } from './readers/types.ts'
import { inspectShard, writeShard, type ShardInfo, type SourcePosition } from './shards.ts'
import { tokenizeChunk, type Chunk, type TokenizeOptions } from './tokenizeChunk.ts'
import { startWorkers, type TokenizerRecipe } from './workers.ts'

export interface CacheOptions {
  /** The folder of this cache; it holds index.json and the shards. */
  directory: string
  /** Names everything the content depends on; see `fingerprintOf`. A cache with another fingerprint is made anew. */
  fingerprint: string
  readers: readonly Reader[]
  tokenization: Tokenization
  options: TokenizeOptions
  /** Threads that tokenize; 0 works in this thread and gives way to the event loop. */
  workers?: number
  /** How a worker makes its tokenizer; needed when there are workers. */
  recipe?: TokenizerRecipe
  /** Check the SHA-256 sum of every shard when opening. Default true. */
  verify?: boolean
  onProgress?: (progress: CacheProgress) => void
  signal?: AbortSignal
  /** For tests; only this thread's writes go through it. */
  fileSystem?: FileSystem
}

/** What has been tokenized so far, shards found from an earlier run included. */
export interface CacheProgress { shards: number, rows: number, tokens: number, reused: boolean }

const indexSchema = lazily(() => z.object({ version: z.literal(1), fingerprint: z.string(), shards: z.number().int().nonnegative() }))

/** JSON of what rows may hold: whole numbers of a database or a Parquet file may be larger than JSON has. */
export const jsonOfRows = (values: unknown): string => JSON.stringify(values, (_, value: unknown) => (typeof value === 'bigint' ? `${value}n` : value))

/** The SHA-256 of values that decide a cache's content, independent of the order of keys. */
export function fingerprintOf(values: unknown): string {
  const sorted = (value: unknown): unknown => value !== null && typeof value === 'object' && !Array.isArray(value)
    ? Object.fromEntries(Object.entries(value).filter(([, inner]) => inner !== undefined).sort(([a], [b]) => a < b ? -1 : 1).map(([key, inner]) => [key, sorted(inner)]))
    : Array.isArray(value) ? value.map(sorted) : value
  return createHash('sha256').update(jsonOfRows(sorted(values))).digest('hex')
}

const shardPath = (directory: string, number: number): string => join(directory, `shard-${String(number).padStart(6, '0')}.bin`)

/** Opens a finished cache; undefined if there is none with this fingerprint. A damaged one throws DataError. */
async function openFinished({ directory, fingerprint, verify = true }: CacheOptions): Promise<ShardInfo[] | undefined> {
  const path = join(directory, 'index.json')
  let text: string
  try {
    text = await readFile(path, 'utf8')
  } catch (error) {
    if (isMissing(error)) return undefined
    throw readError(error, path)
  }
  const index = parseIndex(text)
  if (index?.fingerprint !== fingerprint) return undefined
  const shards: ShardInfo[] = []
  for (let number = 0; number < index.shards; number++) {
    const shard = await wholeShard(shardPath(directory, number), fingerprint, verify)
    if (!shard) return undefined
    shards.push(shard)
  }
  return shards
}

function parseIndex(text: string): z.infer<typeof indexSchema> | undefined {
  try { return indexSchema.parse(JSON.parse(text)) } catch { return undefined }
}

/** The shard if it is there, whole and of this cache; a damaged one counts as missing, so that it is made again. */
async function wholeShard(path: string, fingerprint: string, checksum: boolean): Promise<ShardInfo | undefined> {
  try {
    const shard = await inspectShard(path, checksum)
    return shard?.header.fingerprint === fingerprint ? shard : undefined
  } catch (error) {
    if (error instanceof DataError) return undefined
    throw error
  }
}

/** The shards of an interrupted run, up to the first that is missing or damaged. */
async function earlierShards(directory: string, fingerprint: string): Promise<ShardInfo[]> {
  const shards: ShardInfo[] = []
  let position: SourcePosition = { reader: 0, record: 0 }
  for (;;) {
    const shard = await wholeShard(shardPath(directory, shards.length), fingerprint, true)
    if (!shard || shard.header.start.reader !== position.reader || shard.header.start.record !== position.record) return shards
    shards.push(shard)
    position = shard.header.end
  }
}

/** Caches being made in this process; a second caller of the same folder waits for the first. */
const inProgress = new Map<string, Promise<unknown>>()

/**
 * Opens the cache of tokenized examples, or makes it: rows are cut into chunks, each chunk is tokenized into a shard that appears only
 * when whole, and the index is written last. An interrupted run goes on after its last consecutive shard.
 */
export async function openCache(options: CacheOptions): Promise<{ dataset: CachedDataset, stats: ExampleStats, reused: boolean }> {
  const { directory } = options
  while (inProgress.has(directory)) await inProgress.get(directory)
  const opening = openOrBuild(options)
  inProgress.set(directory, opening.catch(() => undefined))
  try {
    return await opening
  } finally {
    inProgress.delete(directory)
  }
}

async function openOrBuild(options: CacheOptions): Promise<{ dataset: CachedDataset, stats: ExampleStats, reused: boolean }> {
  const { directory, fingerprint } = options
  const finished = await openFinished(options)
  if (finished) return { dataset: new CachedDataset(finished), stats: sumStats(finished), reused: true }
  try {
    await mkdir(directory, { recursive: true })
    await recoverLeftovers(directory, (name) => name.startsWith('shard-') || name === 'index.json')
  } catch (error) {
    throw writeError(error, directory)
  }
  const shards = await earlierShards(directory, fingerprint)
  const count = await buildShards(options, shards)
  for (let number = shards.length; number < count; number++) {
    const shard = await wholeShard(shardPath(directory, number), fingerprint, false)
    if (!shard) throw new DataError(`${shardPath(directory, number)}: the shard was written but is no longer whole; is another process using the folder? Run again to go on`)
    shards.push(shard)
  }
  const index = `${JSON.stringify({ version: 1, fingerprint, shards: shards.length }, null, 2)}\n`
  await replaceFile(join(directory, 'index.json'), index, options.fileSystem ? { fileSystem: options.fileSystem } : {})
  return { dataset: new CachedDataset(shards), stats: sumStats(shards), reused: false }
}

function sumStats(shards: readonly ShardInfo[]): ExampleStats {
  const sum = emptyStats()
  for (const { header } of shards) addStats(sum, header.stats)
  return sum
}

/** Writes the shards after `earlier`; returns how many there are in all. */
function buildShards(options: CacheOptions, earlier: readonly ShardInfo[]): Promise<number> {
  let done = earlier.length
  const kept = (): string => done === 0 ? 'the cache holds nothing of it yet' : `the cache keeps the ${done} shard${done === 1 ? '' : 's'} that ${done === 1 ? 'was' : 'were'} written, and the same command goes on from there`
  return during({ what: 'tokenizing', kept }, () => tokenizeShards(options, earlier, (count) => { done = count }))
}

async function tokenizeShards(options: CacheOptions, earlier: readonly ShardInfo[], onShard: (count: number) => void): Promise<number> {
  const { directory, fingerprint, readers, tokenization, signal, onProgress, workers = 0 } = options
  const sum = sumStats(earlier)
  let done = earlier.length
  const report = (stats: ExampleStats): void => {
    addStats(sum, stats)
    onShard(++done)
    onProgress?.({ shards: done, rows: sum.rows, tokens: sum.tokens, reused: false })
  }
  if (earlier.length > 0) onProgress?.({ shards: done, rows: sum.rows, tokens: sum.tokens, reused: true })
  const chunks = readChunks(readers, earlier.at(-1)?.header.end ?? { reader: 0, record: 0 }, options.options.onBadRow ?? 'error')
  let number = earlier.length
  if (workers > 0) {
    if (!options.recipe) throw new DataError('workers: a tokenizer that workers can load is needed; give the tokenizer by its folder, or set workers: 0')
    const pool = await startWorkers(Math.min(workers, 64), { recipe: options.recipe, options: options.options, fingerprint, signal })
    try {
      for await (const chunk of chunks) await pool.submit(chunk, shardPath(directory, number++), report)
      await pool.drain()
    } finally {
      await pool.close()
    }
    return number
  }
  for await (const chunk of chunks) {
    signal?.throwIfAborted()
    const { stats } = await tokenizeToShard(chunk, shardPath(directory, number++), { tokenization, options: options.options, fingerprint, fileSystem: options.fileSystem })
    report(stats)
  }
  return number
}

/** Tokenizes a chunk and writes its shard. */
export async function tokenizeToShard(
  chunk: Chunk, path: string,
  context: { tokenization: Tokenization, options: TokenizeOptions, fingerprint: string, fileSystem?: FileSystem | undefined },
): Promise<{ stats: ExampleStats }> {
  const { examples, stats } = await tokenizeChunk(chunk, context.tokenization, context.options)
  const { fingerprint } = context
  await writeShard(path, { fingerprint, start: chunk.start, end: chunk.end, stats, examples }, context.fileSystem)
  return { stats }
}
