import { ConfigError } from '../errors.ts'
import type { Masking } from '../data/index.ts'
import type { Tokenizer } from '../tokenizers/index.ts'
import type { PretrainArguments } from './options.ts'

type MaskingArguments = Pick<PretrainArguments, 'mlmProbability' | 'maskReplaceProb' | 'randomReplaceProb' | 'wholeWordMask'>

/** How tokens of this tokenizer are masked. Throws ConfigError for a tokenizer without a mask token, or one that does not mark words where they are asked for. */
export function maskingOf(tokenizer: Tokenizer, { mlmProbability, maskReplaceProb, randomReplaceProb, wholeWordMask }: MaskingArguments): Masking {
  const { maskTokenId, embeddingRows } = tokenizer
  if (maskTokenId === undefined) throw new ConfigError('mlm: the tokenizer has no mask token; use that of an encoder, train one with `anneal tokenizer train --type wordpiece`, or name one with tokenizer.setSpecialToken(\'maskToken\', \'[MASK]\')')
  if (maskReplaceProb + randomReplaceProb > 1) throw new ConfigError(`maskReplaceProb, randomReplaceProb: expected at most 1 together, got ${maskReplaceProb} + ${randomReplaceProb}`)
  const isSpecial = new Uint8Array(embeddingRows)
  for (const id of [maskTokenId, ...tokenizer.specialTokenIds]) isSpecial[id] = 1
  const ordinaryIds = Int32Array.from([...tokenizer.vocab().values()].filter((id) => !isSpecial[id]).sort((a, b) => a - b))
  return { maskTokenId, isSpecial, ordinaryIds, continuesWord: wholeWordMask ? continuingTokens(tokenizer) : undefined, mlmProbability, maskReplaceProb, randomReplaceProb }
}

/** 1 for the ids of tokens that go on with a word: those with "##" in WordPiece, those without "Ġ" or "▁" in others. */
function continuingTokens(tokenizer: Tokenizer): Uint8Array {
  const vocabulary = [...tokenizer.vocab()]
  const table = new Uint8Array(tokenizer.embeddingRows)
  const isWordPiece = tokenizer.modelType === 'WordPiece'
  const marked = isWordPiece ? /^##/ : /^[ĠĊĉ▁]/u
  if (!vocabulary.some(([token]) => marked.test(token))) throw new ConfigError('wholeWordMask: the tokenizer does not mark where words begin; leave wholeWordMask out')
  for (const [token, id] of vocabulary) table[id] = marked.test(token) === isWordPiece ? 1 : 0
  return table
}
