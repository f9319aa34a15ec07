import { KeyValueCache, type CausalLanguageModel } from '../models/index.ts'
import type { ChatMessage, Tokenizer } from '../tokenizers/index.ts'
import { newTokenLimit, resolveGenerationConfig, type GenerationConfig, type GenerationOptions } from './config.ts'
import { GenerationEngine, slotsOf, type GenerationRequest } from './engine.ts'
import type { GeneratedToken, GenerationOutput } from './output.ts'
import { defaultEosTokenIds, isMessages, promptIdsOf, promptsOf, type Prompt, type PromptOptions } from './prompts.ts'
import { PrefixGroup } from './schedule.ts'
import { freshSeed, sampleSeed } from './seed.ts'

/** How to run a generation; its results do not depend on these, except by `bf16`. */
export interface RunOptions {
  /** Most answers at a time. Default 64. */
  maxBatchSize?: number | undefined
  /** Most prompt tokens in one forward pass. Default 512. */
  prefillTokens?: number | undefined
  /** Most bytes of keys and values, where one answer does not need more. Default 2 GiB. */
  maxCacheBytes?: number | undefined
  /** Multiply in bfloat16 where the machine has it. Default: as the weights are stored. */
  bf16?: boolean | undefined
  /** Ends the answers: what is there of them is returned, with finishReason 'aborted'. */
  signal?: AbortSignal | undefined
}

/** The options of generate(), stream() and chat(). */
export interface GenerateOptions extends GenerationOptions, RunOptions, PromptOptions {}

const runNames = ['maxBatchSize', 'prefillTokens', 'maxCacheBytes', 'bf16', 'signal', 'tools', 'chatTemplate', 'chatTemplateKwargs', 'allowSpecial'] as const
const defaultBatchSize = 64
const defaultCacheBytes = 2 ** 31

type MaybeTokenizer = Tokenizer | null | undefined

/** The part of the options that says what to generate, over the model's generation_config.json. */
function configOf(model: CausalLanguageModel, tokenizer: MaybeTokenizer, prompts: readonly Prompt[], options: GenerateOptions): GenerationConfig {
  const own = Object.fromEntries(Object.entries(options).filter(([name]) => !(runNames as readonly string[]).includes(name)))
  const config = resolveGenerationConfig(own, { model: model.generationConfig, eosTokenIds: defaultEosTokenIds(model, tokenizer), otherNames: runNames })
  // A base model's file may name another end than that of a turn.
  const turnEnd = options.eosTokenId === undefined && prompts.some(isMessages) ? tokenizer?.eosTokenId : undefined
  return turnEnd === undefined ? config : { ...config, eosTokenIds: [...new Set([...config.eosTokenIds, turnEnd])] }
}

/** What each answer needs: prompt after prompt, the samples of a prompt one after another. */
function requestsOf(model: CausalLanguageModel, tokenizer: MaybeTokenizer, prompts: readonly Prompt[], config: GenerationConfig, options: GenerateOptions): GenerationRequest[] {
  const seed = config.seed ?? (config.doSample ? freshSeed() : 0)
  /** By tokens: equal prompts share one, and their samples are numbered on. */
  const known = new Map<string, { group: PrefixGroup, samples: number }>()
  return prompts.flatMap((prompt) => {
    const promptIds = promptIdsOf(prompt, model, tokenizer, options)
    const key = promptIds.join()
    const shared = known.get(key) ?? { group: new PrefixGroup(), samples: 0 }
    known.set(key, shared)
    return Array.from({ length: config.numReturnSequences }, (): GenerationRequest => ({
      promptIds, config, seed: sampleSeed(seed, promptIds, shared.samples++), group: shared.group, signal: options.signal,
      decoder: tokenizer?.decodeStream({ skipSpecialTokens: true }),
    }))
  })
}

/** Slots for as many of the largest answers as run together, within the memory allowed. */
function slotsFor(model: CausalLanguageModel, requests: readonly GenerationRequest[], { maxBatchSize = defaultBatchSize, maxCacheBytes = defaultCacheBytes }: RunOptions): number {
  const { config: modelConfig, dtype } = model
  const needs = requests.map(({ promptIds, config }) => slotsOf(promptIds.length, newTokenLimit(config, promptIds.length, modelConfig.maxPositionEmbeddings)))
  needs.sort((a, b) => b - a)
  const together = needs.slice(0, maxBatchSize).reduce((sum, need) => sum + need, 0)
  const allowed = Math.floor(maxCacheBytes / KeyValueCache.bytes(modelConfig, 1, dtype))
  return Math.max(Math.min(together, allowed), needs[0] ?? 1)
}

/** An engine that holds these requests. */
function engineFor(model: CausalLanguageModel, requests: readonly GenerationRequest[], options: RunOptions): GenerationEngine {
  const { maxBatchSize = defaultBatchSize, prefillTokens, bf16 } = options
  return new GenerationEngine(model, {
    slots: slotsFor(model, requests, options), maxBatchSize, ...(prefillTokens === undefined ? {} : { prefillTokens }), ...(bf16 === undefined ? {} : { bf16 }),
  })
}

/**
 * Continues prompts: texts, conversations or token ids, one or a list. Answers come in the order of the prompts, `numReturnSequences` for each.
 * Options are transformers' GenerationConfig over the model's generation_config.json. With a `seed` an answer depends on its prompt only, not on the
 * others. Throws ConfigError for an unknown option and for a prompt longer than the model's context.
 */
export async function generate(model: CausalLanguageModel, tokenizer: MaybeTokenizer, prompts: Prompt | readonly Prompt[], options: GenerateOptions = {}): Promise<GenerationOutput[]> {
  const list = promptsOf(prompts)
  const config = configOf(model, tokenizer, list, options)
  const requests = requestsOf(model, tokenizer, list, config, options)
  if (requests.length === 0) return []
  const engine = engineFor(model, requests, options)
  try {
    return await Promise.all(requests.map((request) => engine.submit(request)))
  } finally {
    engine.dispose()
  }
}

/**
 * Generates one answer and gives out its tokens as they come: `for await (const { text } of stream(model, tokenizer, prompt)) …`. The pieces' texts
 * together are the answer's. Leaving the loop ends the generation. The generator's return value is the whole answer.
 */
export async function* stream(model: CausalLanguageModel, tokenizer: MaybeTokenizer, prompt: Prompt, options: Omit<GenerateOptions, 'numReturnSequences'> = {}): AsyncGenerator<GeneratedToken, GenerationOutput, void> {
  const config = configOf(model, tokenizer, [prompt], { ...options, numReturnSequences: 1 })
  const requests = requestsOf(model, tokenizer, [prompt], config, options)
  const engine = engineFor(model, requests, options)
  try {
    const tokens: GeneratedToken[] = []
    const state = { done: false, wake: (): void => undefined }
    const answer = engine.submit({ ...requests[0]!, onToken: (token) => { tokens.push(token); state.wake() } })
    // Failures are thrown by the await below, once the tokens that came before are given out.
    void answer.catch(() => undefined).finally(() => { state.done = true; state.wake() })
    for (;;) {
      const token = tokens.shift()
      if (token) yield token
      else if (state.done) return await answer
      else await new Promise<void>((resolve) => { state.wake = resolve })
    }
  } finally {
    engine.dispose()
  }
}

/** An answer in a conversation. */
export interface ChatOutput extends GenerationOutput {
  /** To append to the messages. */
  message: { role: 'assistant', content: string }
}

/** Answers a conversation, by the tokenizer's chat template. For token after token pass the messages to stream(). */
export async function chat(model: CausalLanguageModel, tokenizer: Tokenizer, messages: readonly ChatMessage[], options: Omit<GenerateOptions, 'numReturnSequences'> = {}): Promise<ChatOutput> {
  const [output] = await generate(model, tokenizer, [messages], { ...options, numReturnSequences: 1 })
  return { ...output!, message: { role: 'assistant', content: output!.text } }
}
