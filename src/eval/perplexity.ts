import { openReader, placeOf, readRow, expandFiles, type FileType, type FormatOptions } from '../data/index.ts'
import { during } from '../activity.ts'
import { DataError } from '../errors.ts'
import { givenOptions } from '../options.ts'
import { contextRoom } from '../generate/index.ts'
import type { CausalLanguageModel } from '../models/index.ts'
import type { Tokenizer } from '../tokenizers/index.ts'
import { Scorer, type LossResult, type ScoringOptions } from './scorer.ts'
import { checkWindows, slidingWindows } from './windows.ts'

/** What `perplexity` takes: the windows of a text longer than the context. */
export interface PerplexityOptions extends ScoringOptions {
  /** Longest context of a prediction, in tokens. Default: the model's, at most 1024. */
  maxLength?: number
  /** Tokens between the beginnings of windows: fewer give each token more context and take longer. Default: half of maxLength. */
  stride?: number
}

/** Perplexity of a text, also by its bytes and characters. */
export interface PerplexityResult extends LossResult {
  /** Bits to encode a byte of the predicted text (UTF-8): comparable between tokenizers. */
  bitsPerByte: number
  bitsPerCharacter: number
  /** Size of the predicted text. Of a text without a beginning-of-sequence token the first token is not predicted. */
  bytes: number
  characters: number
  documents: number
}

/** A document's text, or a part of it. */
interface Piece { text: string, begins: boolean, ends: boolean }

/** Perplexity of texts, each a document of its own; long ones by sliding windows. */
export async function perplexity(model: CausalLanguageModel, tokenizer: Tokenizer, texts: string | Iterable<string> | AsyncIterable<string>, options: PerplexityOptions = {}): Promise<PerplexityResult> {
  return ofPieces(model, tokenizer, wholeTexts(typeof texts === 'string' ? [texts] : texts), givenOptions('perplexity', options, 'maxLength: 1024, stride: 512'))
}

/** What `perplexityOfFiles` takes. */
export interface FilePerplexityOptions extends PerplexityOptions, FormatOptions {
  /** What the files are, where their names do not tell. */
  fileType?: FileType
}

/**
 * Perplexity of files: paths, folders or globs. Text and Markdown files are one document each; other formats give one for each row that holds a
 * text. For conversations and for prompts with completions use loadDataset() and evaluateLoss().
 */
export function perplexityOfFiles(model: CausalLanguageModel, tokenizer: Tokenizer, files: string | string[], options: FilePerplexityOptions = {}): Promise<PerplexityResult> {
  return during({ what: 'measuring the perplexity' }, async () => {
    givenOptions('perplexityOfFiles', options, 'maxLength: 1024, stride: 512')
    return ofPieces(model, tokenizer, filePieces(await expandFiles(files), options), options)
  })
}

async function* wholeTexts(texts: Iterable<string> | AsyncIterable<string>): AsyncGenerator<Piece> {
  for await (const text of texts) yield { text, begins: true, ends: true }
}

async function* filePieces(files: readonly string[], options: FilePerplexityOptions): AsyncGenerator<Piece> {
  for (const file of files) {
    for await (const source of openReader(file, options.fileType ? { fileType: options.fileType } : {}).rows()) {
      const row = readRow(source, options)
      if (row.kind !== 'text') throw new DataError(`${placeOf(source)}: perplexity needs texts, got a row with ${row.kind}; for labelled rows load them with loadDataset and use evaluateLoss`)
      yield { text: row.text, begins: row.piece === undefined || row.piece === 'first', ends: row.piece === undefined || row.piece === 'last' }
    }
  }
}

async function ofPieces(model: CausalLanguageModel, tokenizer: Tokenizer, pieces: AsyncIterable<Piece>, options: PerplexityOptions): Promise<PerplexityResult> {
  const longest = contextRoom(model)
  const { maxLength = Math.min(longest, 1024), stride = Math.max(1, Math.floor(maxLength / 2)) } = options
  checkWindows(maxLength, stride, longest)
  const scorer = new Scorer(model, options)
  const size = { bytes: 0, characters: 0, documents: 0 }
  let ids: number[] = []
  try {
    for await (const { text, begins, ends } of pieces) {
      const own = tokenizer.encode(text, { addSpecialTokens: begins, allowSpecial: false })
      const predicted = begins ? text.slice(unpredicted(tokenizer, text, own)) : text
      size.bytes += Buffer.byteLength(predicted)
      size.characters += codePoints(predicted)
      for (const id of own) ids.push(id)
      if (!ends) continue
      size.documents++
      for (const window of slidingWindows(Int32Array.from(ids), maxLength, stride)) await scorer.add(window)
      ids = []
    }
    const result = await scorer.end()
    const bits = scorer.nll / Math.LN2
    return { ...result, ...size, bitsPerByte: bits / size.bytes, bitsPerCharacter: bits / size.characters }
  } finally {
    scorer.dispose()
  }
}

/** Number of characters as Unicode counts them. */
function codePoints(text: string): number {
  let count = 0
  for (const _ of text) count++
  return count
}

/** Length of the text of the first token, which nothing predicts; 0 where a special token stands first. */
function unpredicted(tokenizer: Tokenizer, text: string, ids: readonly number[]): number {
  const first = ids[0]
  if (first === undefined || tokenizer.specialTokenIds.includes(first)) return 0
  return tokenizer.tokenEnds(text, ids)?.[0] ?? Math.min(text.length, tokenizer.decode([first]).length)
}
