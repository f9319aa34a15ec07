import { TokenizerError } from '../../errors.ts'
import { givenOptions } from '../../options.ts'
import { Tokenizer } from '../tokenizer.ts'
import { stringifyTokenizer } from '../tokenizerJSON.ts'
import { Turns } from '../../turns.ts'
import { countWords, type Texts } from './countWords.ts'
import { checkTrainOptions, specialAddedTokens, wordCutter, type TrainOptions } from './options.ts'
import { bertSpecialTokens } from './specialTokens.ts'
import { learnBpe } from './trainBpe.ts'

/** What `trainWordPiece` takes; names are those of tokenizers' WordPieceTrainer. */
export interface TrainWordPieceOptions extends TrainOptions {
  minFrequency?: number
  initialAlphabet?: readonly string[]
  limitAlphabet?: number
  /** Default '##'. */
  continuingSubwordPrefix?: string
  /** Must be among the special tokens. Default '[UNK]'. */
  unkToken?: string
  /** Lower case and no accents, as bert-base-uncased. Default true; not used if `normalizer` is given. */
  lowercase?: boolean
}

/** Trains a WordPiece vocabulary as Hugging Face does (byte-pair merging with a prefix); default: BERT's normalizer and pre-tokenizer. */
export async function trainWordPiece(texts: Texts, options: TrainWordPieceOptions = {}): Promise<Tokenizer> {
  givenOptions('trainWordPiece', options, 'vocabSize: 30_000')
  const { vocabSize = 30_000, specialTokens = bertSpecialTokens, continuingSubwordPrefix = '##', unkToken = '[UNK]' } = options
  checkTrainOptions(vocabSize, specialTokens)
  if (!specialTokens.includes(unkToken)) {
    throw new TokenizerError(`tokenizer training: specialTokens must contain the unknown token ${JSON.stringify(unkToken)}`)
  }
  const normalizer = options.normalizer !== undefined ? options.normalizer : {
    type: 'BertNormalizer', clean_text: true, handle_chinese_chars: true, strip_accents: null, lowercase: options.lowercase ?? true,
  }
  const preTokenizer = options.preTokenizer !== undefined ? options.preTokenizer : { type: 'BertPreTokenizer' }
  const { cut, byteLevel } = wordCutter(normalizer, preTokenizer)
  if (byteLevel) throw new TokenizerError('tokenizer training: WordPiece works on characters; use a pre-tokenizer other than ByteLevel, or train BPE')
  const turns = new Turns(options.signal)
  const words = await countWords(texts, cut, turns)
  const { tokens } = await learnBpe(words, false, vocabSize, specialTokens, { ...options, continuingSubwordPrefix }, turns)
  const id = (token: string) => tokens.indexOf(token)
  const around = id('[CLS]') >= 0 && id('[SEP]') >= 0
  return Tokenizer.fromJSON(stringifyTokenizer({
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: specialAddedTokens(specialTokens, id),
    normalizer,
    pre_tokenizer: preTokenizer,
    post_processor: around ? { type: 'BertProcessing', sep: ['[SEP]', id('[SEP]')], cls: ['[CLS]', id('[CLS]')] } : null,
    decoder: { type: 'WordPiece', prefix: continuingSubwordPrefix, cleanup: true },
    model: {
      type: 'WordPiece',
      unk_token: unkToken,
      continuing_subword_prefix: continuingSubwordPrefix,
      max_input_chars_per_word: 100,
      vocab: new Map(tokens.map((token, index) => [token, index])),
    },
  }), bertRoles(specialTokens, unkToken))
}

function bertRoles(specialTokens: readonly string[], unkToken: string): Record<string, string> {
  const roles: Record<string, string> = { unk_token: unkToken }
  for (const [key, token] of [['pad_token', '[PAD]'], ['cls_token', '[CLS]'], ['sep_token', '[SEP]'], ['mask_token', '[MASK]']] as const) {
    if (specialTokens.includes(token)) roles[key] = token
  }
  return roles
}
