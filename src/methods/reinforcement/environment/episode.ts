import { ConfigError, DataError } from '../../../errors.ts'
import type { GenerationOutput } from '../../../generate/index.ts'
import type { ChatMessage, Tokenizer } from '../../../tokenizers/index.ts'
import { observationIds, openingIds, type Environment, type EnvironmentStep, type TemplateOptions } from './environment.ts'

/** Continues tokens: the generation engine, or what stands in for it. */
export type GenerateTurn = (promptIds: Int32Array, options: { maxNewTokens: number; turn: number }) => Promise<GenerationOutput>

export interface EpisodeOptions extends Omit<TemplateOptions, 'tools'> {
  generate: GenerateTurn
  tokenizer: Tokenizer
  /** Ids that end a turn; the tokenizer's end-of-sequence token by default. */
  eosTokenIds?: readonly number[]
  /** Most tokens of the whole conversation after the first prompt, observations included. */
  maxCompletionLength: number
  /** Most answers of the model. */
  maxTurns: number
  /** Most milliseconds that reset or a step may take; none by default. */
  timeout?: number | undefined
  signal?: AbortSignal | undefined
}

/** Why a conversation ended: the environment was done, the model's answer or the observation had no room, or there were maxTurns answers. */
export type EpisodeEnd = 'done' | 'length' | 'maxTurns' | 'aborted'

/** A whole conversation as the model read and wrote it: token in, token out. */
export interface Episode {
  promptIds: Int32Array
  /** Everything after the prompt: the model's tokens as it drew them, and the observations between. */
  completionIds: Int32Array
  /** 1 for a token that the model drew, 0 for one of an observation. */
  mask: Uint8Array
  /** log p of drawn tokens as the engine gave them; 0 for others. */
  logprobs: Float32Array
  /** A turn's reward at the turn's last token; 0 elsewhere. */
  tokenRewards: Float64Array
  /** Sum of all turns' rewards; null where no turn had one. */
  reward: number | null
  messages: ChatMessage[]
  turns: number
  end: EpisodeEnd
  /** Whether the last answer ended with a token that ends a turn. */
  ended: boolean
}

/** Resolves as `work` does, or rejects after `timeout` milliseconds. */
async function within<T>(work: T | Promise<T>, timeout: number | undefined, what: string): Promise<T> {
  if (timeout === undefined) return work
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => { reject(new ConfigError(`environment: ${what} took longer than ${timeout} ms; make it faster or raise environmentTimeout`)) }, timeout)
  })
  try {
    return await Promise.race([work, late])
  } finally {
    clearTimeout(timer)
  }
}

const isReward = (reward: unknown): reward is number | undefined => reward === undefined || Number.isFinite(reward)

function checkStep(step: unknown, turn: number): EnvironmentStep {
  const fail = (wanted: string, got: unknown): never => { throw new DataError(`environment: step ${turn}: expected ${wanted}, got ${got === undefined ? 'undefined' : JSON.stringify(got)}`) }
  if (typeof step !== 'object' || step === null) return fail('an object { observation?, reward?, done }', step)
  const { observation, reward, done } = step as Partial<EnvironmentStep>
  if (typeof done !== 'boolean') fail('done: true or false', done)
  if (!isReward(reward)) fail('reward: a finite number', typeof reward === 'number' ? String(reward) : reward)
  if (!done && observation === undefined) fail('an observation, as done is false', observation)
  if (observation !== undefined && typeof observation !== 'string' && (!Array.isArray(observation) || observation.length === 0)) fail('observation: a text or a list of messages', observation)
  return step as EnvironmentStep
}

/**
 * Runs one conversation to its end. The model's tokens are kept as they were drawn; observations are rendered as what the chat template adds, encoded
 * alone and masked. Throws DataError for a step that is not one, TokenizerError for a template that rewrites earlier messages.
 */
export async function runEpisode<Row>(environment: Environment<Row>, row: Row, options: EpisodeOptions): Promise<Episode> {
  try {
    return await run(environment, row, options)
  } finally {
    await environment.close?.()
  }
}

async function run<Row>(environment: Environment<Row>, row: Row, options: EpisodeOptions): Promise<Episode> {
  const { generate, tokenizer, maxCompletionLength, maxTurns, timeout, signal } = options
  const eos = new Set(options.eosTokenIds ?? (tokenizer.eosTokenId === undefined ? [] : [tokenizer.eosTokenId]))
  const template: TemplateOptions = { tools: environment.tools, chatTemplate: options.chatTemplate, chatTemplateKwargs: options.chatTemplateKwargs }
  const messages: ChatMessage[] = [...await within(environment.reset(row), timeout, 'reset')]
  const promptIds = Int32Array.from(openingIds(tokenizer, messages, template))
  const [ids, mask, logprobs, tokenRewards]: [number[], number[], number[], number[]] = [[], [], [], []]
  let reward: number | null = null
  let ended = false
  const episode = (turns: number, end: EpisodeEnd): Episode => ({
    promptIds, completionIds: Int32Array.from(ids), mask: Uint8Array.from(mask), logprobs: Float32Array.from(logprobs), tokenRewards: Float64Array.from(tokenRewards),
    reward, messages, turns, end, ended,
  })
  const give = (given: number | undefined): void => {
    if (given === undefined) return
    reward = (reward ?? 0) + given
    if (tokenRewards.length > 0) tokenRewards[tokenRewards.length - 1]! += given
  }
  const cutOff = async (turns: number, end: 'length' | 'maxTurns'): Promise<Episode> => {
    const given = await within(environment.cutOff?.(end, { messages }), timeout, 'cutOff')
    if (!isReward(given)) throw new DataError(`environment: cutOff: expected a finite number or nothing, got ${typeof given === 'number' ? String(given) : JSON.stringify(given)}`)
    give(given)
    return episode(turns, end)
  }
  for (let turn = 0; ; turn++) {
    const output = await generate(Int32Array.from([...promptIds, ...ids]), { maxNewTokens: maxCompletionLength - ids.length, turn })
    const { tokenIds, finishReason } = output
    ids.push(...tokenIds)
    mask.push(...tokenIds.map(() => 1))
    logprobs.push(...output.logprobs)
    tokenRewards.push(...tokenIds.map(() => 0))
    const last = tokenIds.at(-1)
    ended = last !== undefined && eos.has(last)
    const rawText = tokenizer.decode(ended ? tokenIds.slice(0, -1) : tokenIds, { skipSpecialTokens: false })
    messages.push({ role: 'assistant', content: rawText })
    if (finishReason === 'aborted') return episode(turn + 1, 'aborted')
    const step = checkStep(await within(environment.step(output.text, { rawText, turn, messages, signal }), timeout, `step ${turn}`), turn)
    give(step.reward)
    if (step.done) return episode(turn + 1, 'done')
    // An answer that was cut off has no end of turn to go on from.
    if (finishReason === 'length') return cutOff(turn + 1, 'length')
    if (turn + 1 >= maxTurns) return cutOff(turn + 1, 'maxTurns')
    const observation = typeof step.observation === 'string' ? [{ role: 'user', content: step.observation }] : step.observation!
    const turnEnds = [...eos].map((id) => tokenizer.idToToken(id)).filter((token) => token !== undefined)
    if (turnEnds.length === 0) throw new ConfigError('environment: the tokenizer has no end-of-sequence token, so turns have no end; set its eosToken')
    const added = observationIds(tokenizer, messages, observation, { ...template, endedByToken: ended, turnEnds })
    // Without room for an answer the observation would only be padding.
    if (ids.length + added.length >= maxCompletionLength) return cutOff(turn + 1, 'length')
    ids.push(...added)
    mask.push(...added.map(() => 0))
    logprobs.push(...added.map(() => 0))
    tokenRewards.push(...added.map(() => 0))
    messages.push(...observation)
  }
}
