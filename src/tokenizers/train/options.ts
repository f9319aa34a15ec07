import { z } from 'zod'
import { TokenizerError } from '../../errors.ts'
import { lazily } from '../../options.ts'
import { createNormalizer } from '../normalizers.ts'
import { createPreTokenizer } from '../preTokenizers.ts'

/** What every trainer takes. */
export interface TrainOptions {
  /** Tokens to end with, special ones included. */
  vocabSize?: number
  /** Get the first ids, in this order. */
  specialTokens?: readonly string[]
  /** A `normalizer` of tokenizer.json. */
  normalizer?: object | null
  /** A `pre_tokenizer` of tokenizer.json. */
  preTokenizer?: object | null
  /** Stops the training. */
  signal?: AbortSignal
}

export const trainSchema = lazily(() => z.object({
  vocabSize: z.int().min(1).max(1 << 24),
  specialTokens: z.array(z.string().min(1)).readonly(),
}))

/** Checks the numbers and tokens that a caller passed. */
export function checkTrainOptions(vocabSize: number, specialTokens: readonly string[]): void {
  const result = trainSchema.safeParse({ vocabSize, specialTokens })
  if (!result.success) {
    const issue = result.error.issues[0]!
    throw new TokenizerError(`tokenizer training: ${issue.path.join('.')}: ${issue.message}`)
  }
  const twice = specialTokens.find((token, index) => specialTokens.indexOf(token) !== index)
  if (twice !== undefined) throw new TokenizerError(`tokenizer training: specialTokens names ${JSON.stringify(twice)} twice`)
}

/** The function that cuts a text into the words to count; with a byte-level pre-tokenizer they are raw text. */
export function wordCutter(normalizer: object | null, preTokenizer: object | null): { cut: (text: string) => readonly string[], byteLevel: boolean } {
  const normalize = createNormalizer(normalizer, 'normalizer')
  const plan = createPreTokenizer(preTokenizer, 'preTokenizer')
  return {
    byteLevel: plan.byteLevel,
    cut: (text) => {
      const normal = normalize ? normalize(text) : text
      if (normal === '') return []
      return plan.split ? plan.split([normal], true) : [normal]
    },
  }
}

/** The special tokens as `added_tokens` of tokenizer.json. */
export function specialAddedTokens(tokens: readonly string[], ids: (token: string) => number): object[] {
  return tokens.map((content) => ({
    id: ids(content), content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true,
  }))
}
