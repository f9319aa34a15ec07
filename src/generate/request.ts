import { ConfigError } from '../errors.ts'
import type { DecodeStream } from '../tokenizers/index.ts'
import type { GenerationConfig } from './config.ts'
import { checkProcessors, type LogitsProcessor } from './logitsProcessor.ts'
import type { GeneratedToken } from './output.ts'
import type { PrefixGroup } from './schedule.ts'

/** One answer that an engine is asked for. */
export interface GenerationRequest {
  promptIds: Int32Array
  config: GenerationConfig
  /** Of this answer: 32 bits, signed. The same seed draws the same tokens, whatever else runs. */
  seed: number
  /** Gives the text, and is needed for stop strings. */
  decoder?: DecodeStream | undefined
  /** Shared by answers to one prompt, whose keys and values are then computed once. */
  group?: PrefixGroup | undefined
  /** Change the logits of each token of this answer, after the options of `config` and before temperature, topK, topP and minP. */
  logitsProcessors?: readonly LogitsProcessor[] | undefined
  onToken?: ((token: GeneratedToken) => void) | undefined
  signal?: AbortSignal | undefined
}

/** Throws ConfigError for what a model of `vocabSize` tokens cannot do. */
export function checkRequest({ promptIds, config, seed, decoder, logitsProcessors = [] }: GenerationRequest, vocabSize: number): void {
  checkKinds({ promptIds, config, seed })
  if (promptIds.length === 0) throw new ConfigError('the prompt has no tokens; give at least one, such as the beginning-of-sequence token')
  const wrong = promptIds.findIndex((id) => id < 0 || id >= vocabSize)
  if (wrong >= 0) throw new ConfigError(`the prompt's token ${wrong} is ${promptIds[wrong]!}, but the model's vocabulary has ids 0 to ${vocabSize - 1}; use the model's own tokenizer`)
  const wrongId = configIds(config).find(([, id]) => id >= vocabSize)
  if (wrongId) throw new ConfigError(`${wrongId[0]}: expected ids from 0 to ${vocabSize - 1}, the model's vocabulary, got ${wrongId[1]}`)
  const { forcedEosTokenIds, suppressTokens } = config
  if (forcedEosTokenIds.length && forcedEosTokenIds.every((id) => suppressTokens.includes(id))) throw new ConfigError('forcedEosTokenId: expected an id that may come, but suppressTokens has all of them')
  checkProcessors(logitsProcessors)
  if (config.stopStrings.length && !decoder) throw new ConfigError('stopStrings: a tokenizer is needed to compare text; pass the tokenizer, or end answers with eosTokenId')
}

/** A server's requests may come from elsewhere than TypeScript. */
function checkKinds({ promptIds, config, seed }: { promptIds: unknown, config: Partial<GenerationConfig> | undefined, seed: number }): void {
  if (!(promptIds instanceof Int32Array)) throw new ConfigError('promptIds: expected an Int32Array of token ids, such as Int32Array.from(tokenizer.encode(text))')
  if (!Array.isArray(config?.eosTokenIds)) throw new ConfigError('config: expected what resolveGenerationConfig(options) gives')
  if ((seed | 0) !== seed) throw new ConfigError(`seed: expected a whole number of 32 bits, got ${seed}`)
}

/** Every token id that options name, with its option. */
const configIds = ({ suppressTokens, eosTokenIds, forcedEosTokenIds, badWordsIds, sequenceBias }: GenerationConfig): [option: string, id: number][] =>
  Object.entries({ suppressTokens, eosTokenId: eosTokenIds, forcedEosTokenId: forcedEosTokenIds, badWordsIds: badWordsIds.flat(), sequenceBias: sequenceBias.flatMap(([ids]) => ids) })
    .flatMap(([option, ids]) => ids.map((id): [string, number] => [option, id]))
