import { z } from 'zod'
import { during } from '../activity.ts'
import { KeyValueCache, type CausalLanguageModel } from '../models/index.ts'
import { givenOptions, lazily, parseOptions, type OptionsOf } from '../options.ts'
import type { ChatMessage, Tokenizer } from '../tokenizers/index.ts'
import { generationShape, newTokenLimit, resolveGenerationConfig, type GenerationConfig } from './config.ts'
import { contextRoom } from './context.ts'
import { GenerationEngine, slotsOf } from './engine.ts'
import type { LogitsProcessor } from './logitsProcessor.ts'
import type { GeneratedToken, GenerationOutput } from './output.ts'
import { defaultEosTokenIds, isMessages, promptIdsOf, promptsOf, type Prompt } from './prompts.ts'
import type { GenerationRequest } from './request.ts'
import { PrefixGroup } from './schedule.ts'
import { freshSeed, sampleSeed } from './seed.ts'

const logitsProcessor = lazily(() => z.custom<LogitsProcessor>((value) => typeof value === 'function', 'expected a function (context) => logits'))

/** How to run a generation, and how to read its prompts. Results do not depend on the first four, except by `bf16`. */
export const runShape = lazily(() => ({
  maxBatchSize: z.int().min(1).default(64).describe('Most answers at a time'),
  prefillTokens: z.int().min(1).default(512).describe('Most prompt tokens in one forward pass'),
  maxCacheBytes: z.number().min(0).default(2 ** 31).describe('Most bytes of keys and values, unless one answer needs more'),
  bf16: z.boolean().default(false).describe('Multiply in bfloat16 where the machine has it; otherwise as the weights are stored'),
  signal: z.instanceof(AbortSignal).optional().describe('Ends the answers; what is there of them is returned, with finishReason "aborted"'),
  logitsProcessor: z.union([logitsProcessor, z.array(logitsProcessor)]).optional().describe('In a program: a function that changes the logits of each token, or a list of them'),
  tools: z.array(z.unknown()).optional().describe('Functions that the assistant may call, for the chat template'),
  chatTemplate: z.string().optional().describe('Name of a chat template of the tokenizer, or Jinja text'),
  chatTemplateKwargs: z.record(z.string(), z.unknown()).optional().describe('Further variables for the chat template, such as enable_thinking'),
  allowSpecial: z.boolean().optional().describe('Read the names of special tokens in prompts as special tokens. Default: in texts, as transformers does, but not in messages'),
} as const))

/** Every option of generate(), stream() and chat(). */
export const generateSchema = lazily(() => z.strictObject({ ...generationShape, ...runShape }))
/** What a user gives. */
export type GenerateOptions = OptionsOf<typeof generateSchema>
type RunOptions = z.output<z.ZodObject<typeof runShape>>

type MaybeTokenizer = Tokenizer | null | undefined

interface Job { engine: GenerationEngine, requests: readonly GenerationRequest[] }

/** Checks everything and makes an engine that holds the requests. */
function prepare(model: CausalLanguageModel, tokenizer: MaybeTokenizer, prompts: readonly Prompt[], options: GenerateOptions): Job {
  const run = parseOptions(generateSchema, options, 'generation options')
  const config = configOf(model, tokenizer, prompts, options)
  const requests = requestsOf(model, tokenizer, prompts, config, run)
  const { maxBatchSize, prefillTokens, bf16 } = run
  return { requests, engine: new GenerationEngine(model, { slots: slotsFor(model, requests, run), maxBatchSize, prefillTokens, bf16 }) }
}

/** The part of the options that says what to generate, over the model's generation_config.json. */
function configOf(model: CausalLanguageModel, tokenizer: MaybeTokenizer, prompts: readonly Prompt[], options: GenerateOptions): GenerationConfig {
  const own = Object.fromEntries(Object.entries(options).filter(([name]) => !(name in runShape)))
  const config = resolveGenerationConfig(own, { model: model.generationConfig, eosTokenIds: defaultEosTokenIds(model, tokenizer) })
  // A base model's file may name another end than that of a turn.
  const turnEnd = options.eosTokenId === undefined && prompts.some(isMessages) ? tokenizer?.eosTokenId : undefined
  return turnEnd === undefined ? config : { ...config, eosTokenIds: [...new Set([...config.eosTokenIds, turnEnd])] }
}

/** What each answer needs: prompt after prompt, the samples of a prompt one after another. */
function requestsOf(model: CausalLanguageModel, tokenizer: MaybeTokenizer, prompts: readonly Prompt[], config: GenerationConfig, options: RunOptions): GenerationRequest[] {
  const seed = config.seed ?? (config.doSample ? freshSeed() : 0)
  /** By tokens: equal prompts share one, and their samples are numbered on. */
  const known = new Map<string, { group: PrefixGroup, samples: number }>()
  return prompts.flatMap((prompt) => {
    const promptIds = promptIdsOf(prompt, model, tokenizer, options)
    const key = promptIds.join()
    const shared = known.get(key) ?? { group: new PrefixGroup(), samples: 0 }
    known.set(key, shared)
    return Array.from({ length: config.numReturnSequences }, (): GenerationRequest => ({
      promptIds, config, seed: sampleSeed(seed, promptIds, shared.samples++), group: shared.group, signal: options.signal, logitsProcessors: [options.logitsProcessor ?? []].flat(),
      decoder: tokenizer?.decodeStream({ skipSpecialTokens: true }),
    }))
  })
}

/** Slots for as many of the largest answers as run together, within the memory allowed. */
function slotsFor(model: CausalLanguageModel, requests: readonly GenerationRequest[], { maxBatchSize, maxCacheBytes }: RunOptions): number {
  const { config: modelConfig, dtype } = model
  const needs = requests.map(({ promptIds, config }) => slotsOf(model, promptIds.length, newTokenLimit(config, promptIds.length, contextRoom(model))))
  needs.sort((a, b) => b - a)
  const together = needs.slice(0, maxBatchSize).reduce((sum, need) => sum + need, 0)
  const allowed = Math.floor(maxCacheBytes / KeyValueCache.bytes(modelConfig, 1, dtype))
  return Math.max(Math.min(together, allowed), needs[0] ?? 1)
}

/**
 * Continues prompts: texts, conversations or token ids, one or a list. Answers come in the order of the prompts, `numReturnSequences` for each.
 * Options are transformers' GenerationConfig over the model's generation_config.json. With a `seed` an answer depends on its prompt only, not on the
 * others. Throws ConfigError for an unknown option and for a prompt longer than the model's context.
 */
export async function generate(model: CausalLanguageModel, tokenizer: MaybeTokenizer, prompts: Prompt | readonly Prompt[], options: GenerateOptions = {}): Promise<GenerationOutput[]> {
  givenOptions('generate', options, 'maxNewTokens: 100')
  const { engine, requests } = prepare(model, tokenizer, promptsOf(prompts), options)
  try {
    return await during({ what: 'generating' }, () => Promise.all(requests.map((request) => engine.submit(request))))
  } finally {
    engine.dispose()
  }
}

/**
 * Generates one answer and gives out its tokens as they come: `for await (const { text } of stream(model, tokenizer, prompt)) …`. The pieces' texts
 * together are the answer's. Leaving the loop ends the generation. The generator's return value is the whole answer.
 */
export async function* stream(model: CausalLanguageModel, tokenizer: MaybeTokenizer, prompt: Prompt, options: Omit<GenerateOptions, 'numReturnSequences'> = {}): AsyncGenerator<GeneratedToken, GenerationOutput, void> {
  givenOptions('stream', options, 'maxNewTokens: 100')
  const { engine, requests } = prepare(model, tokenizer, [prompt], { ...options, numReturnSequences: 1 })
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
  givenOptions('chat', options, 'maxNewTokens: 100')
  const [output] = await generate(model, tokenizer, [messages], { ...options, numReturnSequences: 1 })
  return { ...output!, message: { role: 'assistant', content: output!.text } }
}
