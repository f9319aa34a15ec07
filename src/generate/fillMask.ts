import { ConfigError, ShapeError } from '../errors.ts'
import { givenOptions } from '../options.ts'
import type { MaskedLanguageModel } from '../models/index.ts'
import { embedding } from '../ops/index.ts'
import { noGrad, scope, Tensor } from '../tensor/index.ts'
import type { Tokenizer } from '../tokenizers/index.ts'

/** What `fillMask` takes beside the texts. */
export interface FillMaskOptions {
  /** How many tokens to name for each mask. Default 5, as transformers' pipeline. */
  topK?: number
}

/** A token for a mask: what an entry of transformers' fill-mask pipeline has. */
export interface FilledMask {
  /** Its probability. */
  score: number
  token: number
  tokenStr: string
  /** The text with it in the mask's place; other masks stay. */
  sequence: string
}

/**
 * The most likely tokens for each mask token of a text, such as `'Paris is the [MASK] of France.'`: one list a mask, the likeliest first. Throws ConfigError
 * for a tokenizer without a mask token or a text without a mask.
 */
export async function fillMask(model: MaskedLanguageModel, tokenizer: Tokenizer, text: string, options: FillMaskOptions = {}): Promise<FilledMask[][]> {
  const { topK = 5 } = givenOptions('fillMask', options, 'topK: 5')
  const { maskTokenId, maskToken } = tokenizer
  if (maskTokenId === undefined) throw new ConfigError('fillMask: the tokenizer has no mask token; use that of a masked language model')
  if (!Number.isInteger(topK) || topK < 1) throw new ConfigError(`topK: expected a whole number from 1, got ${topK}`)
  const ids = tokenizer.encode(text)
  const places = ids.flatMap((id, t) => (id === maskTokenId ? [t] : []))
  if (places.length === 0) throw new ConfigError(`fillMask: expected a text with ${JSON.stringify(maskToken)}, got ${JSON.stringify(text.slice(0, 80))}`)
  const limit = model.config.maxPositionEmbeddings
  if (ids.length > limit) throw new ShapeError(`fillMask: the text has ${ids.length} tokens, but the model has ${limit} positions; shorten it`)
  const logits = await readLogits(model, ids, places)
  const { vocabSize } = model.config
  return places.map((place, i) => likeliest(logits.slice(i * vocabSize, (i + 1) * vocabSize), topK).map(({ id, probability }) => ({
    score: probability, token: id, tokenStr: tokenizer.decode([id]), sequence: tokenizer.decode(ids.map((one, t) => (t === place ? id : one)), { skipSpecialTokens: places.length === 1 }),
  })))
}

/** Logits at the places, one row after another. The model is in its own mode again before anything is awaited, so that calls may overlap. */
function readLogits(model: MaskedLanguageModel, ids: readonly number[], places: readonly number[]): Promise<number[]> {
  const wasTraining = model.training
  model.eval()
  try {
    return scope(() => noGrad(() => {
      const hidden = model.base({ inputIds: [ids] }).lastHiddenState
      return { read: model.logits(embedding(hidden, Tensor.from(Int32Array.from(places), [places.length], { device: hidden.device }))).toArray() }
    })).read
  } finally {
    model.train(wasTraining)
  }
}

/** The ids with the largest logits and their probabilities. */
function likeliest(logits: readonly number[], count: number): { id: number, probability: number }[] {
  const top = logits.reduce((a, b) => Math.max(a, b), -Infinity)
  const weights = logits.map((logit) => Math.exp(logit - top))
  const total = weights.reduce((a, b) => a + b, 0)
  const order = Array.from(logits.keys()).sort((a, b) => logits[b]! - logits[a]! || a - b)
  return order.slice(0, count).map((id) => ({ id, probability: weights[id]! / total }))
}
