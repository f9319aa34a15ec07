import { ConfigError } from '../../../errors.ts'
import { givenOptions } from '../../../options.ts'
import { contextRoom, GenerationEngine, PrefixGroup, resolveGenerationConfig, type FinishReason, type GenerationOutput } from '../../../generate/index.ts'
import { slotsOf } from '../../../generate/engine.ts'
import { KeyValueCache, type CausalLanguageModel } from '../../../models/index.ts'
import type { AnyRow, RewardFunction } from '../../../rewards/index.ts'
import type { ChatMessage, Tokenizer } from '../../../tokenizers/index.ts'
import type { EnvironmentFactory } from '../environment/environment.ts'
import { runEpisode, type Episode } from '../environment/episode.ts'
import type { RolloutSource } from '../policy/generation.ts'
import type { PromptRow } from './prompts.ts'
import { generateRollouts, rolloutSeed, type Rollout, type RolloutOptions } from './rollouts.ts'

/** An answer, or a whole conversation with an environment, and what the environment gave for it. */
export interface SampledAnswer extends Rollout {
  /** Whether the policy ended it by itself. */
  readonly ended: boolean
  /** Of the environment; null without one, or where it gave none. */
  readonly reward: number | null
  /** The environment's reward at each turn's last token. */
  readonly tokenRewards: Float64Array | undefined
  /** The conversation with the environment. */
  readonly messages: readonly ChatMessage[] | undefined
}

/** How answers to prompts are generated for a reward. */
export interface AnswerOptions extends RolloutOptions {
  maxCompletionLength: number
  /** Answers are conversations with one of these each. */
  environment?: EnvironmentFactory<never> | undefined
  maxTurns?: number
  environmentTimeout?: number
  /** The option that gives maxCompletionLength, where it has another name. */
  lengthOption?: string
}

const ends = (reason: FinishReason): boolean => reason === 'stop' || reason === 'stopString'

/** Samples `numGenerations` answers to each prompt, by continuous batching: plain ones, or conversations with an environment. */
export async function sampleAnswers(model: CausalLanguageModel, tokenizer: Tokenizer, prompts: readonly PromptRow<unknown>[], options: AnswerOptions): Promise<SampledAnswer[]> {
  givenOptions('sampleAnswers', options, 'seed: 42, maxCompletionLength: 256')
  const { environment } = options
  if (environment) return sampleEpisodes(model, tokenizer, prompts, { ...options, environment })
  const rollouts = await generateRollouts(model, tokenizer, prompts.map(({ promptIds }) => promptIds), options)
  return rollouts.map((rollout) => ({ ...rollout, ended: ends(rollout.finishReason), reward: null, tokenRewards: undefined, messages: undefined }))
}

/** A conversation's last answer stands for it where a text is asked for. */
function answerOf(episode: Episode, prompt: number, sample: number, { text, finishReason: last }: GenerationOutput): SampledAnswer {
  const { promptIds, completionIds, mask, logprobs, tokenRewards, reward, end, messages } = episode
  const ended = ends(last)
  const finishReason: FinishReason = end === 'aborted' ? 'aborted' : ended ? last : 'length'
  return { prompt, sample, promptIds, completionIds, mask, logprobs, text, finishReason, ended, reward, tokenRewards, messages }
}

async function sampleEpisodes(
  model: CausalLanguageModel, tokenizer: Tokenizer, prompts: readonly PromptRow<unknown>[], options: AnswerOptions & { environment: EnvironmentFactory<never> },
): Promise<SampledAnswer[]> {
  const { numGenerations = 1, seed, step = 0, firstPrompt = 0, maxCompletionLength, maxTurns = 8, environmentTimeout, bf16 = false, signal, environment, maxBatchSize = 64, prefillTokens = 512, maxCacheBytes = 2 ** 31 } = options
  const { temperature = 1, topK = 0, topP = 1, minP = 0, repetitionPenalty = 1, stopStrings = [], chatTemplate, chatTemplateKwargs, lengthOption = 'maxCompletionLength' } = options
  const stored = model.generationConfig?.['eos_token_id']
  const own = typeof stored === 'number' ? [stored] : Array.isArray(stored) ? stored.map(Number) : model.config.eosTokenIds
  const eosTokenIds = [...new Set([...tokenizer.eosTokenId === undefined ? [] : [tokenizer.eosTokenId], ...own])]
  const room = contextRoom(model)
  const slots = Math.max(room, Math.min(room * Math.min(maxBatchSize, prompts.length * numGenerations), Math.floor(maxCacheBytes / KeyValueCache.bytes(model.config, 1, model.dtype))))
  const engine = new GenerationEngine(model, { slots: slotsOf(model, slots, 1), maxBatchSize, prefillTokens, bf16 })
  try {
    return await Promise.all(prompts.flatMap(({ row }, prompt) => {
      const group = new PrefixGroup()
      return Array.from({ length: numGenerations }, async (_, sample) => {
        let last: GenerationOutput | undefined
        const episode = await runEpisode<never>(environment(), row as never, {
          tokenizer, eosTokenIds, maxCompletionLength, maxTurns, timeout: environmentTimeout, signal, chatTemplate, chatTemplateKwargs,
          generate: async (promptIds, { maxNewTokens, turn }) => {
            if (turn === 0 && promptIds.length + maxCompletionLength > room) {
              throw new ConfigError(`environment: the first prompt has ${promptIds.length} tokens, which with ${lengthOption} ${maxCompletionLength} is more than the model's context of ${room}; lower ${lengthOption} to at most ${Math.max(room - promptIds.length, 0)}`)
            }
            const config = resolveGenerationConfig({ doSample: true, maxNewTokens, temperature, topK, topP, minP, repetitionPenalty, stopStrings: [...stopStrings], eosTokenId: eosTokenIds })
            const output = await engine.submit({
              promptIds, config, signal, ...(turn === 0 ? { group } : {}), decoder: tokenizer.decodeStream({ skipSpecialTokens: true }),
              seed: rolloutSeed(rolloutSeed(seed, step, (firstPrompt + prompt) * numGenerations + sample), turn, 0),
            })
            last = output
            return output
          },
        })
        return answerOf(episode, prompt, sample, last!)
      })
    }))
  } finally {
    engine.dispose()
  }
}

/**
 * Conversations with an environment in place of single answers, for methods that take their rollouts from a source: GRPO and RLOO. `reward` gives what
 * the environment gave, to stand among the reward functions.
 */
export function environmentRollouts<Row = AnyRow>(
  model: CausalLanguageModel, tokenizer: Tokenizer, prompts: readonly PromptRow<Row>[], options: { environment: EnvironmentFactory<never>; maxTurns?: number; environmentTimeout?: number },
): { source: RolloutSource; reward: RewardFunction<Row> } {
  const rowOf = new Map(prompts.map((one) => [one.promptIds, one]))
  const rewards = new WeakMap<Int32Array, number | null>()
  return {
    async source(promptIds, { onGroup, ...sampling }) {
      const rows = promptIds.map((ids) => rowOf.get(ids) ?? (() => { throw new ConfigError('environmentRollouts: a prompt is none of those it was made with; pass the same prompts to both') })())
      const { numGenerations = 1, maxCompletionLength = 512 } = sampling
      const answers = await sampleAnswers(model, tokenizer, rows, { ...sampling, ...options, maxCompletionLength })
      for (const { completionIds, reward } of answers) rewards.set(completionIds, reward)
      const rollouts = answers.map(({ prompt, sample, promptIds: read, completionIds, text, logprobs, mask, finishReason }): Rollout => ({ prompt, sample, promptIds: read, completionIds, text, logprobs, mask, finishReason }))
      if (onGroup) for (let begin = 0; begin < rollouts.length; begin += numGenerations) onGroup(rollouts.slice(begin, begin + numGenerations))
      return rollouts
    },
    reward: Object.defineProperty((samples: Parameters<RewardFunction<Row>>[0]) => samples.map(({ completionIds }) => rewards.get(completionIds) ?? null), 'name', { value: 'environment' }),
  }
}
