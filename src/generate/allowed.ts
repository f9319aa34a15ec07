import { ConfigError } from '../errors.ts'
import type { Tokenizer } from '../tokenizers/index.ts'
import type { LogitsProcessor } from './logitsProcessor.ts'

/** Bans all tokens but those. */
function keepOnly(logits: Float32Array, ids: Iterable<number>): Float32Array {
  const kept = new Float32Array(logits.length).fill(-Infinity)
  for (const id of ids) {
    if (!Number.isInteger(id) || id < 0 || id >= logits.length) throw new ConfigError(`expected ids from 0 to ${logits.length - 1}, the model's vocabulary, got ${id}`)
    kept[id] = logits[id]!
  }
  return kept
}

/**
 * A logits processor that lets only the tokens come that `allowed` names, at each step: transformers' prefix_allowed_tokens_fn. An answer ends only where the ids
 * hold a token that ends it.
 */
export const allowedTokens = (allowed: (promptIds: Int32Array, tokenIds: Int32Array) => Iterable<number>): LogitsProcessor =>
  function allowedTokens({ promptIds, tokenIds, logits }) { return keepOnly(logits, allowed(promptIds, tokenIds)) }

/**
 * A logits processor whose answers are one of the texts, as the tokenizer writes it, and then end. The model chooses token by token. Leave room for the longest
 * with maxNewTokens.
 */
export function oneOf(texts: readonly string[], tokenizer: Pick<Tokenizer, 'encode'>): LogitsProcessor {
  if (texts.length === 0) throw new ConfigError('oneOf: expected one or more texts, got none')
  const choices = texts.map((text) => tokenizer.encode(text, { addSpecialTokens: false, allowSpecial: false }))
  return function oneOf({ tokenIds, eosTokenIds, logits }) {
    if (eosTokenIds.length === 0) throw new ConfigError('no token ends the answer; give eosTokenId')
    const open = choices.filter((choice) => choice.length >= tokenIds.length && tokenIds.every((id, i) => id === choice[i]))
    return keepOnly(logits, open.flatMap((choice) => choice[tokenIds.length] ?? eosTokenIds))
  }
}
