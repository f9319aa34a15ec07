import { createReadStream } from 'node:fs'
import { during } from '../../activity.ts'
import { TokenizerError } from '../../errors.ts'
import { givenOptions } from '../../options.ts'
import { fillFolder } from '../../files/index.ts'
import type { Tokenizer } from '../tokenizer.ts'
import { lastBorder } from './pieces.ts'
import { trainBpe, type TrainBpeOptions } from './trainBpe.ts'
import { bertSpecialTokens, unigramSpecialTokens } from './specialTokens.ts'
import { trainUnigram, type TrainUnigramOptions } from './trainUnigram.ts'
import { trainWordPiece, type TrainWordPieceOptions } from './trainWordPiece.ts'
import type { NamedSpecialToken } from '../tokenizerConfig.ts'

/** What every kind has in common. */
export interface TrainTokenizerFiles {
  /** Text files in UTF-8, read as streams. */
  files: readonly string[]
  /** Feed line by line, line ends included, as Hugging Face's `train(files)` does; then no token can span lines. Default false. */
  splitLines?: boolean
  /** A chat template to save with it; its control tokens belong in `specialTokens`. */
  chatTemplate?: string
  /** Roles of special tokens, for example `{ eosToken: '<|im_end|>' }`. They are added to `specialTokens` if they are missing there. */
  roles?: Partial<Record<NamedSpecialToken, string>>
  /** `model_max_length` of tokenizer_config.json. */
  modelMaxLength?: number
  /** Where to save tokenizer.json, tokenizer_config.json and chat_template.jinja. */
  outputDir?: string
}

/** What `trainTokenizer` takes: an algorithm with its options, files, special tokens and where to save. */
export type TrainTokenizerOptions = TrainTokenizerFiles & (
  | ({ type: 'bpe' } & TrainBpeOptions)
  | ({ type: 'wordpiece' } & TrainWordPieceOptions)
  | ({ type: 'unigram' } & TrainUnigramOptions)
)

/** Trains a tokenizer on text files and saves it. */
export function trainTokenizer(options: TrainTokenizerOptions): Promise<Tokenizer> {
  return during({ what: 'training the tokenizer' }, () => trainAndSave(options))
}

async function trainAndSave(options: TrainTokenizerOptions): Promise<Tokenizer> {
  givenOptions('trainTokenizer', options, "type: 'bpe', files: 'texts/*.md', outputDir: './tokenizer'")
  if (options.files.length === 0) throw new TokenizerError('tokenizer training: files is empty; name at least one text file')
  const roles = Object.values(options.roles ?? {})
  const texts = readTexts(options.files, options.splitLines === true)
  const tokenizer = await trainByType(options, texts, roles)
  for (const [name, token] of Object.entries(options.roles ?? {})) tokenizer.setSpecialToken(name as NamedSpecialToken, token)
  if (options.chatTemplate !== undefined) tokenizer.chatTemplate = options.chatTemplate
  if (options.modelMaxLength !== undefined) tokenizer.config.modelMaxLength = options.modelMaxLength
  if (options.outputDir !== undefined) await fillFolder(options.outputDir, (folder) => tokenizer.savePretrained(folder))
  return tokenizer
}

function trainByType(options: TrainTokenizerOptions, texts: AsyncIterable<string>, roles: readonly string[]): Promise<Tokenizer> {
  const withRoles = (tokens: readonly string[]) => ({ specialTokens: [...new Set([...tokens, ...roles])] })
  switch (options.type) {
    case 'bpe': return trainBpe(texts, { ...options, ...withRoles(options.specialTokens ?? []) })
    case 'wordpiece': return trainWordPiece(texts, { ...options, ...withRoles(options.specialTokens ?? bertSpecialTokens) })
    case 'unigram': return trainUnigram(texts, { ...options, ...withRoles(options.specialTokens ?? unigramSpecialTokens) })
    default: throw new TokenizerError(`tokenizer training: type: expected bpe, wordpiece or unigram, got ${String((options as { type?: unknown }).type)}`)
  }
}

/** A chunk is given out once it is this long, cut at a line end. */
const chunkLength = 1 << 18

/** The texts of files: whole lines, or chunks that end where a paragraph does. */
export async function* readTexts(files: readonly string[], splitLines: boolean): AsyncGenerator<string> {
  for (const file of files) {
    let rest = ''
    try {
      for await (const chunk of createReadStream(file, { encoding: 'utf8', highWaterMark: 1 << 18 }) as AsyncIterable<string>) {
        rest += chunk
        if (splitLines) {
          const lines = rest.split(/(?<=\n)/)
          rest = lines.pop() ?? ''
          yield* lines
        } else if (rest.length > chunkLength) {
          const cut = lastBorder(rest)
          if (cut > 0) {
            yield rest.slice(0, cut)
            rest = rest.slice(cut)
          }
        }
      }
    } catch (error) {
      throw new TokenizerError(`${file}: cannot be read (${error instanceof Error ? error.message : String(error)})`, { cause: error })
    }
    if (rest !== '') yield rest
  }
}
