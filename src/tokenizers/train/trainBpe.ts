import { TokenizerError } from '../../errors.ts'
import { givenOptions } from '../../options.ts'
import { byteToChar, utf8 } from '../byteLevel.ts'
import { Tokenizer } from '../tokenizer.ts'
import { stringifyTokenizer } from '../tokenizerJSON.ts'
import { Turns } from '../../turns.ts'
import { countWords, type Texts } from './countWords.ts'
import { learnMerges, type Merge } from './learnMerges.ts'
import { checkTrainOptions, specialAddedTokens, wordCutter, type TrainOptions } from './options.ts'

/** What `trainBpe` takes; names are those of tokenizers' BpeTrainer. */
export interface TrainBpeOptions extends TrainOptions {
  /** Pairs that occur less often are not merged. Default 0, as in Hugging Face. */
  minFrequency?: number
  /** Characters to have in any case. With a byte-level pre-tokenizer all 256 byte characters always are. */
  initialAlphabet?: readonly string[]
  /** At most this many single characters, the most frequent ones; the initial alphabet comes first. */
  limitAlphabet?: number
  continuingSubwordPrefix?: string
  endOfWordSuffix?: string
  /** Longest token, in characters (bytes for byte-level). */
  maxTokenLength?: number
  /** Stands for characters that the vocabulary lacks; must be among the special tokens. Needless for byte-level. */
  unkToken?: string
  /** A `decoder` of tokenizer.json. Default: the one that fits the pre-tokenizer. */
  decoder?: object | null
}

const byteLevelPreTokenizer = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true }

/**
 * Trains a byte-pair encoding; with the same texts, merges equal those of Hugging Face's BpeTrainer. Default: GPT-2's byte-level
 * pre-tokenizer and 30,000 tokens.
 */
export async function trainBpe(texts: Texts, options: TrainBpeOptions = {}): Promise<Tokenizer> {
  givenOptions('trainBpe', options, 'vocabSize: 30_000')
  const { vocabSize = 30_000, specialTokens = [], normalizer = null, preTokenizer = byteLevelPreTokenizer, unkToken } = options
  checkTrainOptions(vocabSize, specialTokens)
  if (unkToken !== undefined && !specialTokens.includes(unkToken)) {
    throw new TokenizerError(`tokenizer training: unkToken ${JSON.stringify(unkToken)} must be one of specialTokens`)
  }
  const { cut, byteLevel } = wordCutter(normalizer, preTokenizer)
  const turns = new Turns(options.signal)
  const words = await countWords(texts, cut, turns)
  const { tokens, merges } = await learnBpe(words, byteLevel, vocabSize, specialTokens, options, turns)
  const decoder = options.decoder ?? (byteLevel ? { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true } : null)
  return Tokenizer.fromJSON(stringifyTokenizer({
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: specialAddedTokens(specialTokens, (token) => tokens.indexOf(token)),
    normalizer,
    pre_tokenizer: preTokenizer,
    post_processor: null,
    decoder,
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: unkToken ?? null,
      continuing_subword_prefix: options.continuingSubwordPrefix ?? null,
      end_of_word_suffix: options.endOfWordSuffix ?? null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab: new Map(tokens.map((token, id) => [token, id])),
      merges: merges.map(([left, right]) => [tokens[left]!, tokens[right]!]),
    },
  }), unkToken === undefined ? {} : { unk_token: unkToken })
}

/** The vocabulary by id, and the merges. */
export async function learnBpe(
  words: ReadonlyMap<string, number>,
  byteLevel: boolean,
  vocabSize: number,
  specialTokens: readonly string[],
  options: TrainBpeOptions,
  turns: Turns,
): Promise<{ tokens: string[], merges: Merge[] }> {
  const tokens = [...specialTokens]
  const ids = new Map(tokens.map((token, id) => [token, id]))
  const add = (token: string): number => {
    let id = ids.get(token)
    if (id === undefined) {
      id = tokens.length
      tokens.push(token)
      ids.set(token, id)
    }
    return id
  }
  for (const char of alphabet(words, byteLevel, options)) add(char)
  if (tokens.length > vocabSize) {
    throw new TokenizerError(`tokenizer training: vocabSize ${vocabSize} is less than the ${tokens.length} special tokens and characters; raise it or set limitAlphabet`)
  }
  if (turns.due) await turns.take()
  const { symbols, starts, counts } = byteLevel
    ? byteSymbols(words, Int32Array.from(byteToChar, (char) => ids.get(char)!))
    : charSymbols(words, ids, add, options)
  const merges = await turns.run(learnMerges({
    symbols,
    starts,
    counts,
    tokens,
    vocabSize,
    minFrequency: options.minFrequency ?? 0,
    continuingSubwordPrefix: options.continuingSubwordPrefix ?? '',
    maxTokenLength: options.maxTokenLength ?? 0,
  }))
  return { tokens, merges }
}

/** The single characters of the vocabulary, by code point. */
function alphabet(words: ReadonlyMap<string, number>, byteLevel: boolean, options: TrainBpeOptions): string[] {
  const counts = new Map<string, number>()
  if (!byteLevel) for (const [word, count] of words) for (const char of word) counts.set(char, (counts.get(char) ?? 0) + count)
  const initial = [...(options.initialAlphabet ?? []).map((text) => Array.from(text)[0] ?? ''), ...(byteLevel ? byteToChar : [])]
  for (const char of initial) if (char !== '') counts.set(char, Infinity)
  let kept = [...counts]
  const surplus = kept.length - (options.limitAlphabet ?? Infinity)
  if (surplus > 0) kept = kept.sort((a, b) => a[1] - b[1] || b[0].codePointAt(0)! - a[0].codePointAt(0)!).slice(surplus)
  return kept.map(([char]) => char).sort((a, b) => a.codePointAt(0)! - b.codePointAt(0)!)
}

function byteSymbols(words: ReadonlyMap<string, number>, byteIds: Int32Array) {
  let total = 0
  for (const word of words.keys()) total += Buffer.byteLength(word)
  const symbols = new Int32Array(total)
  const starts = new Int32Array(words.size + 1)
  let at = 0
  let index = 0
  for (const word of words.keys()) {
    for (const byte of utf8(word)) symbols[at++] = byteIds[byte]!
    starts[++index] = at
  }
  return { symbols, starts, counts: Float64Array.from(words.values()) }
}

/** Characters outside the alphabet are left out, as Hugging Face does. */
function charSymbols(words: ReadonlyMap<string, number>, alphabetIds: ReadonlyMap<string, number>, add: (token: string) => number, options: TrainBpeOptions) {
  const prefix = options.continuingSubwordPrefix ?? ''
  const suffix = options.endOfWordSuffix ?? ''
  const known = new Set(alphabetIds.keys())
  const symbols: number[] = []
  const starts = new Int32Array(words.size + 1)
  let index = 0
  for (const word of words.keys()) {
    const chars = Array.from(word)
    chars.forEach((char, i) => {
      if (known.has(char)) symbols.push(add((i > 0 ? prefix : '') + char + (i === chars.length - 1 ? suffix : '')))
    })
    starts[++index] = symbols.length
  }
  return { symbols: Int32Array.from(symbols), starts, counts: Float64Array.from(words.values()) }
}
