import { availableParallelism } from 'node:os'
import { join, resolve } from 'node:path'
import { during } from '../activity.ts'
import { ConfigError, DataError } from '../errors.ts'
import { givenOptions } from '../options.ts'
import { Turns } from '../turns.ts'
import { fingerprintOf, openCache, type CacheProgress } from './cache.ts'
import { defaultCacheDir } from './cacheDir.ts'
import { readChunks } from './chunks.ts'
import { checkEvalSize, memoryDataset, packInTurns, shuffleInTurns, splitting, type Split } from './dataset.ts'
import { addStats, emptyMaskAdvice, emptyStats, type ExampleOptions, type ExampleStats, type Tokenization } from './examples.ts'
import { checkFormatOptions } from './formats.ts'
import { mixInTurns, type MixStrategy } from './mixture.ts'
import type { PackingStrategy } from './packing.ts'
import { fileStamp, openReader } from './readers/open.ts'
import { listOfRows, rowsReader, type Rows } from './readers/rows.ts'
import type { Reader } from './readers/types.ts'
import { filesOf, formatOf, packingOf, pick, sourcesOf, tokenizeOptionsOf, type SourceOptions } from './sources.ts'
import { tokenizeChunk, type TokenizeOptions } from './tokenizeChunk.ts'
import { tokenizationOf, tokenizerFingerprint, workerRecipe } from './tokenization.ts'
import type { Dataset, Example, TextTokenizer, TokenizeConversation } from './types.ts'
import type { TokenizerRecipe } from './workers.ts'

/** What `loadDataset` takes: files and how to read them, the tokenizer, length, packing, evaluation split, cache. */
export interface LoadDatasetOptions<T extends TextTokenizer = TextTokenizer> extends Omit<SourceOptions, 'weight'>, ExampleOptions {
  /** anneal's Tokenizer, or any other with `tokenizeConversation` for rows of messages. */
  tokenizer: T
  tokenizeConversation?: TokenizeConversation<T>
  /** How worker threads make a tokenizer that is not anneal's; without it, tokenizing stays in this thread. */
  tokenizerRecipe?: TokenizerRecipe
  /** Several sources instead of one. Options of formats given beside it hold for all that do not give their own. */
  datasets?: SourceOptions[]
  /** Default 'concat', or 'interleave_under' when there are weights. */
  mixStrategy?: MixStrategy
  /** Pack examples into rows of maxLength: true is 'bfd'. Default false. */
  packing?: boolean | PackingStrategy
  /** Examples packed together. Default 1000, as TRL's. */
  packingGroupSize?: number
  /** Shuffle by seed before packing. Default false; the sampler shuffles rows anyway. */
  shuffleDataset?: boolean
  /** Default 42. */
  seed?: number
  /** Held out for evaluation: a share below 1, or a number of examples. */
  evalSplit?: number
  /** Rows for evaluation, instead of a split. */
  evalFiles?: string | string[]
  evalRows?: Rows
  /** Where tokenized data is kept; false keeps it in memory. Default: ANNEAL_CACHE or the user's cache folder. */
  cacheDir?: string | false
  /** Threads that tokenize. Default: one for each core for more than 4 MB of data, else 0. */
  workers?: number
  onBadRow?: 'error' | 'skip'
  onEmptyMask?: 'drop' | 'error'
  /** Check the checksums of a cache. Default true. */
  verifyCache?: boolean
  onProgress?: (progress: CacheProgress) => void
  signal?: AbortSignal
}

/** What a dataset holds, for the log. */
export interface DatasetStats extends ExampleStats {
  /** trainedTokens / tokens. */
  trainedShare: number
  /** Rows after mixing, splitting and packing. */
  trainRows: number
  evalRows: number
  /** The share of packed rows' capacity that holds tokens; undefined without packing. */
  packingDensity?: number
  /** True when every source came from the cache. */
  cached: boolean
}

/** Tokenized data, ready to train on. */
export interface LoadedDataset {
  train: Dataset
  eval?: Dataset
  stats: DatasetStats
  /** What deserves a look, in words. */
  warnings: string[]
  /** Names the data and how it was prepared: a run must not go on with another. */
  fingerprint: string
  close(): void
}

interface LoadedSource { dataset: Dataset, stats: ExampleStats, cached: boolean, fingerprint: string, close?: () => void }

/** Reads, tokenizes (once, into a cache), mixes, splits and packs data for training. */
export function loadDataset<T extends TextTokenizer>(options: LoadDatasetOptions<T>): Promise<LoadedDataset> {
  return during({ what: 'reading the data' }, () => prepareDataset(options))
}

async function prepareDataset<T extends TextTokenizer>(options: LoadDatasetOptions<T>): Promise<LoadedDataset> {
  givenOptions('loadDataset', options, "tokenizer, files: 'data.jsonl'")
  const { seed = 42, evalSplit } = options
  const { strategy, maxLength } = packingOf(options)
  if (options.evalSplit !== undefined && (options.evalFiles ?? options.evalRows)) throw new ConfigError('evalSplit: give either evalSplit or evalFiles, not both')
  const opened: LoadedSource[] = []
  try {
    const sources = sourcesOf(options)
    for (const [i, source] of sources.entries()) opened.push(await loadSource(source, options, strategy, options.datasets ? `datasets[${i}]` : 'files'))
    const stats = opened.reduce((sum, source) => { addStats(sum, source.stats); return sum }, emptyStats())
    if (stats.rows === 0 && stats.badRows === 0) throw new DataError(`${whereOf(options)}: expected rows to train on, got none; the data is empty`)
    if (stats.examples === 0) throw new DataError(`no example is left to train on: ${stats.emptyMask} of ${stats.rows} rows have no trained token, ${stats.badRows} were malformed; ${emptyMaskAdvice}`)
    const split = evalSplit === undefined ? undefined : await splitSources(opened.map(({ dataset }) => dataset), evalSplit, seed)
    const parts = opened.map(({ dataset }, i) => {
      const weight = sources[i]!.weight
      return { dataset: split?.train[i] ?? dataset, ...weight !== undefined && { weight } }
    })
    const mixStrategy = options.mixStrategy ?? (parts.some(({ weight }) => weight !== undefined) ? 'interleave_under' : 'concat')
    let train = await mixInTurns(parts, { strategy: mixStrategy, seed })
    let held = split?.eval
    if (options.evalFiles ?? options.evalRows) {
      const source = { ...formatOf(options), ...options.evalFiles && { files: options.evalFiles }, ...options.evalRows && { rows: options.evalRows } }
      const loaded = await loadSource(source, options, strategy, 'evalFiles')
      opened.push(loaded)
      held = loaded.dataset
      if (held.length === 0) throw new DataError(`evalFiles: no example is left to evaluate on: ${loaded.stats.emptyMask} of ${loaded.stats.rows} rows have no trained token; ${emptyMaskAdvice}`)
    }
    if (options.shuffleDataset) train = await shuffleInTurns(train, seed)
    const pack = async (dataset: Dataset): Promise<Dataset & { density?: number }> => strategy
      ? packInTurns(dataset, { maxLength: maxLength!, strategy, groupSize: options.packingGroupSize ?? 1000 })
      : dataset
    const packed = await pack(train)
    const evaluated = held && await pack(held)
    return {
      train: packed,
      ...evaluated && { eval: evaluated },
      stats: {
        ...stats,
        trainedShare: stats.tokens === 0 ? 0 : stats.trainedTokens / stats.tokens,
        trainRows: packed.length,
        evalRows: evaluated?.length ?? 0,
        ...packed.density !== undefined && { packingDensity: packed.density },
        cached: opened.every(({ cached }) => cached),
      },
      warnings: [...warningsOf(stats, options.tokenizer), ...cutDialogues(stats, opened, strategy, maxLength)],
      fingerprint: fingerprintOf({
        sources: opened.map(({ fingerprint }) => fingerprint), weights: sources.map(({ weight }) => weight), mixStrategy, seed, evalSplit,
        strategy, maxLength, groupSize: options.packingGroupSize, shuffle: options.shuffleDataset,
      }),
      close: () => { for (const source of opened) source.close?.() },
    }
  } catch (error) {
    for (const source of opened) source.close?.()
    throw error
  }
}

/** The data as it was named. */
const whereOf = ({ files, rows, datasets }: Pick<LoadDatasetOptions, 'files' | 'rows' | 'datasets'>): string => datasets ? 'datasets' : rows ? 'rows' : [files ?? 'files'].flat().join(', ')

/** Splits each source before they are mixed, so that a row that a mixture repeats is never in both. Each source gives its share. */
async function splitSources(datasets: readonly Dataset[], evalSplit: number, seed: number): Promise<{ train: Dataset[], eval: Dataset }> {
  checkEvalSize(evalSplit)
  const total = datasets.reduce((sum, { length }) => sum + length, 0)
  const share = evalSplit < 1 ? evalSplit : evalSplit / total
  const turns = new Turns()
  const parts: Split[] = []
  for (const dataset of datasets) {
    const count = datasets.length === 1 ? evalSplit : Math.min(dataset.length - 1, Math.max(1, Math.round(dataset.length * share)))
    parts.push(count <= 0 ? { train: dataset, eval: memoryDataset([]) } : await turns.run(splitting(dataset, count, seed)))
  }
  return { train: parts.map(({ train }) => train), eval: await mixInTurns(parts.map((part) => ({ dataset: part.eval }))) }
}

async function loadSource<T extends TextTokenizer>(source: SourceOptions, options: LoadDatasetOptions<T>, strategy: PackingStrategy | false, name: string): Promise<LoadedSource> {
  checkFormatOptions(source)
  const tokenize = tokenizeOptionsOf(source, options, strategy)
  const tokenization = tokenizationOf(options.tokenizer, options.tokenizeConversation)
  if (source.rows) {
    if (source.files) throw new ConfigError(`${name}: give either files or rows, not both`)
    const place = name === 'files' ? 'rows' : name === 'evalFiles' ? 'evalRows' : `${name}.rows`
    const rows = await listOfRows(source.rows, place)
    const fingerprint = fingerprintOf({ rows, tokenizer: tokenizerFingerprint(options.tokenizer), tokenize })
    return { ...await loadInMemory([rowsReader(rows, place)], tokenization, tokenize, options.signal), fingerprint }
  }
  const files = await filesOf(source, name)
  const stamps = await Promise.all(files.map(fileStamp))
  const readers = files.map((file) => openReader(file, source))
  const fingerprint = fingerprintOf({ version: 1, stamps, ...pick(source, ['fileType', 'sampleBy']), tokenizer: tokenizerFingerprint(options.tokenizer), tokenize })
  const loaded = options.cacheDir === false
    ? await loadInMemory(readers, tokenization, tokenize, options.signal)
    : await loadCached(options.cacheDir ?? defaultCacheDir(), readers, tokenization, tokenize, fingerprint, options, stamps)
  const after = await Promise.all(files.map(fileStamp))
  const changed = stamps.find((stamp, i) => stamp.size !== after[i]!.size || stamp.mtimeMs !== after[i]!.mtimeMs)
  if (changed) throw new DataError(`${changed.file}: the file changed while it was read; run again when it is no longer written to`)
  return { ...loaded, fingerprint }
}

async function loadCached<T extends TextTokenizer>(
  cacheDir: string, readers: Reader[], tokenization: Tokenization, tokenize: TokenizeOptions, fingerprint: string, options: LoadDatasetOptions<T>, stamps: { size: number }[],
): Promise<Omit<LoadedSource, 'fingerprint'>> {
  const bytes = stamps.reduce((sum, { size }) => sum + size, 0)
  const wanted = options.workers ?? (bytes > 4e6 ? Math.min(16, availableParallelism()) : 0)
  const recipe = wanted > 0 ? options.tokenizerRecipe ?? await workerRecipe(options.tokenizer, resolve(cacheDir)) : undefined
  const { dataset, stats, reused } = await openCache({
    directory: join(resolve(cacheDir), fingerprint.slice(0, 32)), fingerprint, readers, tokenization, options: tokenize,
    workers: options.workers ?? (recipe ? wanted : 0),
    ...recipe && { recipe },
    ...options.verifyCache !== undefined && { verify: options.verifyCache },
    ...options.onProgress && { onProgress: options.onProgress },
    ...options.signal && { signal: options.signal },
  })
  return { dataset, stats, cached: reused, close: () => { dataset.close() } }
}

async function loadInMemory(readers: readonly Reader[], tokenization: Tokenization, options: TokenizeOptions, signal: AbortSignal | undefined): Promise<Omit<LoadedSource, 'fingerprint'>> {
  const all: Example[] = []
  const stats = emptyStats()
  for await (const chunk of readChunks(readers, { reader: 0, record: 0 }, options.onBadRow ?? 'error')) {
    signal?.throwIfAborted()
    const made = await tokenizeChunk(chunk, tokenization, options)
    for (const example of made.examples) all.push(example)
    addStats(stats, made.stats)
  }
  return { dataset: memoryDataset(all), stats, cached: false }
}

/** A text goes on in the next row; a conversation's later rows miss their beginning. */
function cutDialogues({ dialogues }: ExampleStats, sources: readonly { dataset: Dataset }[], strategy: PackingStrategy | false, maxLength: number | null): string[] {
  if (dialogues === 0 || maxLength === null || (strategy !== 'bfd_split' && strategy !== 'wrapped')) return []
  let long = 0
  for (const { dataset } of sources) for (let i = 0; i < dataset.length; i++) if (dataset.lengthOf(i) > maxLength) long++
  return long === 0 ? [] : [`${long} rows are longer than maxLength (${maxLength}) and packing ${strategy} cuts them into several, though the data has conversations; raise maxLength, or choose packing bfd, which drops their ends`]
}

function warningsOf(stats: ExampleStats, tokenizer: TextTokenizer): string[] {
  const share = (count: number): string => `${count} of ${stats.rows} rows`
  const warnings: string[] = []
  if (stats.badRows > 0) warnings.push(`${stats.badRows} malformed rows were skipped`)
  if (stats.emptyMask > 0) warnings.push(`${share(stats.emptyMask)} were dropped: no token of them is trained; ${emptyMaskAdvice}`)
  if (stats.truncatedEnd > 0) warnings.push(`${share(stats.truncatedEnd)} lost their trained end to maxLength; such rows teach the model not to stop`)
  if (stats.boundaryMismatch > 0) warnings.push(`${share(stats.boundaryMismatch)} tokenize differently at the end of the prompt; end prompts without a blank, or start completions with one`)
  if (tokenizer.eosTokenId != null && stats.examples > 0 && stats.withoutTrainedEos === stats.examples) warnings.push('no row trains the EOS token; the model will not learn to stop')
  return warnings
}
