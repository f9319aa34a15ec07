import { ConfigError } from '../../../errors.ts'
import { givenOptions } from '../../../options.ts'
import { contextRoom, GenerationEngine, PrefixGroup, resolveGenerationConfig, sampleSeed } from '../../../generate/index.ts'
import type { FinishReason, GenerationConfig, GenerationOutput, Prompt, PromptOptions } from '../../../generate/index.ts'
import { newTokenLimit } from '../../../generate/config.ts'
import { slotsOf } from '../../../generate/engine.ts'
import { defaultEosTokenIds, isMessages, promptIdsOf } from '../../../generate/prompts.ts'
import { KeyValueCache, type CausalLanguageModel } from '../../../models/index.ts'
import type { Tokenizer } from '../../../tokenizers/index.ts'

/** One sampled answer, token in, token out: what the policy read and wrote. */
export interface Rollout {
  /** Number of the prompt among those given. */
  readonly prompt: number
  /** Number of the answer among those to its prompt. */
  readonly sample: number
  readonly promptIds: Int32Array
  /** The token that ended the answer included. */
  readonly completionIds: Int32Array
  /** Of the completion, without special tokens. */
  readonly text: string
  /** log p of each token of the completion under the policy, at temperature 1 and before top-k, top-p and penalties; NaN where a server gave none. */
  readonly logprobs: Float32Array
  /** 1 for tokens that the policy wrote and is trained on, 0 for others, such as a tool's output. */
  readonly mask: Uint8Array
  readonly finishReason: FinishReason
}

/** How answers are drawn: TRL's names in camelCase. */
export interface SamplingOptions {
  /** Answers to each prompt. Default 1. */
  numGenerations?: number
  /** Default 512. */
  maxCompletionLength?: number
  /** Default 1. */
  temperature?: number
  /** Default 0: all tokens. */
  topK?: number
  topP?: number
  minP?: number
  repetitionPenalty?: number
  stopStrings?: readonly string[]
  /** Default: the model's, else the tokenizer's. */
  eosTokenId?: number | readonly number[] | null
}

/** How rollouts are sampled. */
export interface RolloutOptions extends SamplingOptions, PromptOptions {
  /** Draws depend on seed, step and the answer's number only: not on what else is generated, nor on how many at a time. */
  seed: number
  /** Default 0. */
  step?: number
  /** Number of the first prompt, where a step's prompts are generated in several calls. Default 0. */
  firstPrompt?: number
  /** Most answers at a time. Default 64. */
  maxBatchSize?: number
  /** Most prompt tokens in one forward pass. Default 512. */
  prefillTokens?: number
  /** Most bytes of keys and values, unless one answer needs more. Default 2 GB. */
  maxCacheBytes?: number
  /** Multiply in bfloat16, as in training with bf16. */
  bf16?: boolean
  signal?: AbortSignal | undefined
  /** Called with all answers to a prompt as soon as the last is finished, while others are still generated. */
  onGroup?: (rollouts: readonly Rollout[]) => void
}

/** The seed of one answer: 32 bits, signed. */
export const rolloutSeed = (seed: number, step: number, sample: number): number => sampleSeed(seed, Int32Array.of(step), sample)

/**
 * Samples `numGenerations` answers to each prompt, groups one after another, with continuous batching and each prompt computed once. The model's
 * dropout is off meanwhile. Throws ConfigError for a prompt that leaves no room for `maxCompletionLength` tokens in the model's context.
 */
export async function generateRollouts(model: CausalLanguageModel, tokenizer: Tokenizer | null, prompts: readonly Prompt[], options: RolloutOptions): Promise<Rollout[]> {
  givenOptions('generateRollouts', options, 'seed: 42, maxCompletionLength: 256')
  const { numGenerations = 1, seed, step = 0, firstPrompt = 0, maxBatchSize = 64, prefillTokens = 512, bf16 = false, signal, onGroup } = options
  if (!Number.isInteger(numGenerations) || numGenerations < 1) throw new ConfigError(`numGenerations: expected a whole number from 1, got ${numGenerations}`)
  if (prompts.length === 0) return []
  const config = samplingConfig(model, tokenizer, prompts, options)
  const ids = prompts.map((prompt) => promptIdsOf(prompt, model, tokenizer, options))
  ids.forEach((promptIds, i) => { checkRoom(promptIds, i, config, model) })
  const engine = new GenerationEngine(model, { slots: slotsFor(model, ids, config, options), maxBatchSize, prefillTokens, bf16 })
  try {
    const groups = await Promise.all(ids.map(async (promptIds, prompt) => {
      const group = new PrefixGroup()
      const rollouts = await Promise.all(Array.from({ length: numGenerations }, async (_, sample) => {
        const output = await engine.submit({
          promptIds, config, group, signal, seed: rolloutSeed(seed, step, (firstPrompt + prompt) * numGenerations + sample),
          decoder: tokenizer?.decodeStream({ skipSpecialTokens: true }),
        })
        return rolloutOf(output, prompt, sample, promptIds)
      }))
      onGroup?.(rollouts)
      return rollouts
    }))
    return groups.flat()
  } finally {
    engine.dispose()
  }
}

function rolloutOf({ tokenIds, text, logprobs, finishReason }: GenerationOutput, prompt: number, sample: number, promptIds: Int32Array): Rollout {
  return { prompt, sample, promptIds, completionIds: Int32Array.from(tokenIds), text, logprobs: Float32Array.from(logprobs), mask: new Uint8Array(tokenIds.length).fill(1), finishReason }
}

/** Sampling is set by the options alone: a model's generation_config.json must not change what is trained on. */
function samplingConfig(model: CausalLanguageModel, tokenizer: Tokenizer | null, prompts: readonly Prompt[], options: RolloutOptions): GenerationConfig {
  const { maxCompletionLength = 512, temperature = 1, topK = 0, topP = 1, minP = 0, repetitionPenalty = 1, stopStrings = [], eosTokenId } = options
  if (!(temperature > 0)) throw new ConfigError(`temperature: expected a number above 0, as answers are sampled, got ${temperature}`)
  const eos = eosTokenId === undefined ? {} : { eosTokenId: eosTokenId === null ? null : typeof eosTokenId === 'number' ? eosTokenId : [...eosTokenId] }
  const config = resolveGenerationConfig(
    { doSample: true, maxNewTokens: maxCompletionLength, temperature, topK, topP, minP, repetitionPenalty, stopStrings: [...stopStrings], ...eos },
    { eosTokenIds: answerEnds(model, tokenizer, prompts.some(isMessages)) },
  )
  return config
}

/** The tokens that end an answer: those of generation_config.json, the model's or the tokenizer's, and a turn's end where prompts are conversations. */
export function answerEnds(model: CausalLanguageModel, tokenizer: Tokenizer | null, conversational: boolean): readonly number[] {
  const stored = model.generationConfig?.['eos_token_id']
  const own = typeof stored === 'number' ? [stored] : Array.isArray(stored) ? stored.map(Number) : defaultEosTokenIds(model, tokenizer)
  const turnEnd = conversational ? tokenizer?.eosTokenId : undefined
  return turnEnd === undefined ? own : [...new Set([...own, turnEnd])]
}

function checkRoom(promptIds: Int32Array, prompt: number, { maxNewTokens = 0 }: GenerationConfig, model: CausalLanguageModel): void {
  const room = contextRoom(model)
  if (promptIds.length + maxNewTokens <= room) return
  throw new ConfigError(`prompt ${prompt} has ${promptIds.length} tokens, which with maxCompletionLength ${maxNewTokens} is more than the model's context of ${room}; lower maxCompletionLength to at most ${Math.max(room - promptIds.length, 0)}, or leave such prompts out with maxPromptLength`)
}

/** Slots for as many of the largest answers as run together, within the memory allowed. */
function slotsFor(model: CausalLanguageModel, prompts: readonly Int32Array[], config: GenerationConfig, { numGenerations = 1, maxBatchSize = 64, maxCacheBytes = 2 ** 31 }: RolloutOptions): number {
  const needs = prompts.map(({ length }) => slotsOf(model, length, newTokenLimit(config, length, contextRoom(model)))).sort((a, b) => b - a)
  const together = needs.flatMap((need) => Array.from({ length: numGenerations }, () => need)).slice(0, maxBatchSize).reduce((sum, need) => sum + need, 0)
  const allowed = Math.floor(maxCacheBytes / KeyValueCache.bytes(model.config, 1, model.dtype))
  return Math.max(Math.min(together, allowed), needs[0] ?? 1)
}
