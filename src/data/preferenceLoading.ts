import { during } from '../activity.ts'
import { ConfigError, DataError } from '../errors.ts'
import { fingerprintOf } from './cache.ts'
import { readChunks } from './chunks.ts'
import { checkEvalSize } from './dataset.ts'
import { checkFormatOptions, type FormatOptions } from './formats.ts'
import { readPreference, readRanked, readStepwise, readTriple, readUnpaired } from './preference.ts'
import { PreferenceTokens, type DropReason, type PairExample, type PreferenceTokenOptions, type RankedExample, type StepwiseExample, type TripleExample, type UnpairedExample } from './preferenceTokens.ts'
import { permutation } from './random.ts'
import { fileStamp, openReader } from './readers/open.ts'
import { listOfRows, rowsReader, type Rows } from './readers/rows.ts'
import { placeOf, type Reader, type SourceRow } from './readers/types.ts'
import { filesOf, sourcesOf, type SourceOptions } from './sources.ts'
import { tokenizationOf, tokenizerFingerprint } from './tokenization.ts'
import type { TextTokenizer } from './types.ts'

/** Makes examples of one row; a row may give several, or a reason why it gives none. */
export type MakeExamples<E> = (source: SourceRow, tokens: PreferenceTokens, options: FormatOptions) => readonly (E | DropReason)[]

/** The dataset types of preference methods by name, as TRL has them. */
export const preferenceKinds = {
  pair: (source: SourceRow, tokens: PreferenceTokens, options: FormatOptions): (PairExample | DropReason)[] => [tokens.pair(readPreference(source, options), placeOf(source))],
  wholePair: (source: SourceRow, tokens: PreferenceTokens, options: FormatOptions): (PairExample | DropReason)[] => [tokens.wholePair(readPreference(source, options), placeOf(source))],
  triple: (source: SourceRow, tokens: PreferenceTokens, options: FormatOptions): (TripleExample | DropReason)[] => [tokens.triple(readTriple(source, options), placeOf(source))],
  unpaired: (source: SourceRow, tokens: PreferenceTokens, options: FormatOptions): (UnpairedExample | DropReason)[] =>
    readUnpaired(source, options).map((row) => tokens.unpaired(row, placeOf(source))),
  ranked: (source: SourceRow, tokens: PreferenceTokens, options: FormatOptions): (RankedExample | DropReason)[] => [tokens.ranked(readRanked(source, options), placeOf(source))],
  stepwise: (how: { stepSeparator: string, lastOnly: boolean }) => (source: SourceRow, tokens: PreferenceTokens, options: FormatOptions): (StepwiseExample | DropReason)[] =>
    [tokens.stepwise(readStepwise(source, options), how)],
} as const

export interface LoadPreferenceOptions<T extends TextTokenizer, E> extends Omit<SourceOptions, 'weight'>, PreferenceTokenOptions {
  tokenizer: T
  make: MakeExamples<E>
  /** Tokens of an example, for the statistics. */
  tokensOf: (example: E) => number
  /** Several sources, one after another. */
  datasets?: SourceOptions[]
  evalSplit?: number
  evalFiles?: string | string[]
  evalRows?: Rows
  seed: number
  onBadRow: 'error' | 'skip'
}

export interface PreferenceStats {
  rows: number
  examples: number
  tokens: number
  badRows: number
  dropped: Record<DropReason, number>
  /** Completions that lost their end to maxLength. */
  truncatedEnds: number
  boundaryMismatches: number
}

export interface LoadedPreferences<E> {
  train: readonly E[]
  eval?: readonly E[]
  stats: PreferenceStats
  warnings: string[]
  /** Names the data and how it was prepared. */
  fingerprint: string
}

const advice: Record<DropReason, string> = {
  promptTooLong: 'their prompt leaves no room for a completion; raise maxLength or use truncationMode "keep_end"',
  pairTooLong: 'they are longer than maxLength; a reward is of a whole text, so they are not cut',
  equalAfterTruncation: 'chosen and rejected are equal once cut to maxLength; raise it',
}

/** Reads and tokenizes preference data into memory. Throws DataError naming the row that is wrong, or where no row is left. */
export function loadPreferences<T extends TextTokenizer, E extends object>(options: LoadPreferenceOptions<T, E>): Promise<LoadedPreferences<E>> {
  return during({ what: 'tokenizing' }, () => preparePreferences(options))
}

async function preparePreferences<T extends TextTokenizer, E extends object>(options: LoadPreferenceOptions<T, E>): Promise<LoadedPreferences<E>> {
  const { tokenizer, seed, evalSplit, evalFiles, evalRows } = options
  if (evalSplit !== undefined && (evalFiles ?? evalRows)) throw new ConfigError('evalSplit: give either evalSplit or evalFiles, not both')
  const tokens = new PreferenceTokens(tokenizationOf(tokenizer), options)
  const stats: PreferenceStats = { rows: 0, examples: 0, tokens: 0, badRows: 0, dropped: { promptTooLong: 0, pairTooLong: 0, equalAfterTruncation: 0 }, truncatedEnds: 0, boundaryMismatches: 0 }
  const stamps: unknown[] = []
  const all: E[] = []
  for (const [i, source] of sourcesOf(options).entries()) {
    for (const example of await readSource(source, options.datasets ? `datasets[${i}]` : 'files', options, tokens, stats, stamps)) all.push(example)
  }
  requireRows(all, stats, 'train on')
  let train: readonly E[] = all
  let held: readonly E[] | undefined
  if (evalSplit !== undefined) [train, held] = splitRows(all, evalSplit, seed)
  if (evalFiles ?? evalRows) {
    held = await readSource({ ...evalFiles ? { files: evalFiles } : {}, ...evalRows ? { rows: evalRows } : {}, ...formats(options) }, 'evalFiles', options, tokens, stats, stamps)
    requireRows(held, stats, 'evaluate on')
  }
  stats.truncatedEnds = tokens.truncatedEnds
  stats.boundaryMismatches = tokens.boundaryMismatches
  return {
    train, ...held && { eval: held }, stats, warnings: warningsOf(stats),
    fingerprint: fingerprintOf({
      stamps, tokenizer: tokenizerFingerprint(tokenizer), maxLength: options.maxLength, truncationMode: options.truncationMode, evalSplit, seed, onBadRow: options.onBadRow, ...formats(options),
    }),
  }
}

const formats = ({ format, columns }: SourceOptions): Pick<SourceOptions, 'format' | 'columns'> => ({ ...format && { format }, ...columns && { columns } })

function requireRows(rows: readonly unknown[], { rows: read, badRows, dropped }: PreferenceStats, purpose: string): void {
  if (rows.length > 0) return
  const reasons = Object.entries(dropped).filter(([, count]) => count > 0).map(([reason, count]) => `${count} of ${read} rows were left out: ${advice[reason as DropReason]}`)
  throw new DataError(`no example is left to ${purpose}: ${[...reasons, ...badRows > 0 ? [`${badRows} rows were malformed`] : []].join('; ') || 'the data has no rows'}`)
}

/** Each part in the order of the rows; the same rows for the same seed. */
function splitRows<E>(all: readonly E[], evalSplit: number, seed: number): [train: E[], held: E[]] {
  checkEvalSize(evalSplit)
  const count = evalSplit < 1 ? Math.max(1, Math.round(all.length * evalSplit)) : evalSplit
  if (count >= all.length) throw new DataError(`evalSplit: ${evalSplit} would take ${count} of ${all.length} examples and leave none to train on`)
  const held = new Set(permutation(all.length, seed, 'split').slice(0, count))
  return [all.filter((_, i) => !held.has(i)), all.filter((_, i) => held.has(i))]
}

async function readSource<T extends TextTokenizer, E extends object>(
  source: SourceOptions, name: string, options: LoadPreferenceOptions<T, E>, tokens: PreferenceTokens, stats: PreferenceStats, stamps: unknown[],
): Promise<E[]> {
  checkFormatOptions(source)
  const readers: Reader[] = []
  if (source.rows) {
    if (source.files) throw new ConfigError(`${name}: give either files or rows, not both`)
    const place = name === 'files' ? 'rows' : name === 'evalFiles' ? 'evalRows' : `${name}.rows`
    const rows = await listOfRows(source.rows, place)
    readers.push(rowsReader(rows, place))
    stamps.push(rows)
  } else {
    for (const file of await filesOf(source, name)) {
      readers.push(openReader(file, source))
      stamps.push(await fileStamp(file))
    }
  }
  const examples: E[] = []
  for await (const chunk of readChunks(readers, { reader: 0, record: 0 }, options.onBadRow)) {
    stats.badRows += chunk.badRows
    for (const row of chunk.rows) examples.push(...examplesOf(row, source, options, tokens, stats))
  }
  return examples
}

function examplesOf<T extends TextTokenizer, E extends object>(row: SourceRow, source: SourceOptions, options: LoadPreferenceOptions<T, E>, tokens: PreferenceTokens, stats: PreferenceStats): E[] {
  stats.rows++
  let made: readonly (E | DropReason)[]
  try {
    made = options.make(row, tokens, source)
  } catch (error) {
    if (!(error instanceof DataError) || options.onBadRow === 'error') throw error
    stats.badRows++
    return []
  }
  return made.filter((one): one is E => {
    if (typeof one === 'string') {
      stats.dropped[one]++
      return false
    }
    stats.examples++
    stats.tokens += options.tokensOf(one)
    return true
  })
}

function warningsOf(stats: PreferenceStats): string[] {
  const { rows, badRows, dropped, truncatedEnds, boundaryMismatches } = stats
  return [
    ...badRows > 0 ? [`${badRows} malformed rows were skipped`] : [],
    ...Object.entries(dropped).flatMap(([reason, count]) => (count > 0 ? [`${count} of ${rows} rows were left out: ${advice[reason as DropReason]}`] : [])),
    ...truncatedEnds > 0 ? [`${truncatedEnds} completions lost their end to maxLength`] : [],
    ...boundaryMismatches > 0 ? [`${boundaryMismatches} completions tokenize differently at the end of the prompt; end prompts without a blank, or start completions with one`] : [],
  ]
}
