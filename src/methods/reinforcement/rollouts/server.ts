import { z } from 'zod'
import { ConfigError } from '../../../errors.ts'
import { lazily } from '../../../options.ts'
import type { Tokenizer } from '../../../tokenizers/index.ts'
import type { RolloutSource } from '../policy/generation.ts'
import { rolloutSeed, type Rollout, type RolloutOptions } from './rollouts.ts'

const answer = lazily(() => z.object({
  choices: z.array(z.object({
    text: z.string(), finish_reason: z.string().nullable().optional(), token_ids: z.array(z.int()).nullable().optional(),
    logprobs: z.object({ token_logprobs: z.array(z.number().nullable()) }).nullable().optional(),
  })).min(1),
}))

export interface ServerOptions {
  /** Name of the model at the server. Default 'default'. */
  model?: string
  apiKey?: string | undefined
}

/** The key that an option names by its environment variable; none where it names none. */
export function keyOf(option: string, name: string | undefined, owner: string): string | undefined {
  const key = name === undefined ? undefined : process.env[name]
  if (name !== undefined && !key) throw new ConfigError(`${option}: the environment variable ${name} is not set; export it with the key of ${owner}`)
  return key
}

/** That of the rollout server. */
export const apiKeyOf = ({ rolloutServerApiKeyEnv }: { rolloutServerApiKeyEnv?: string | undefined }): string | undefined => keyOf('rolloutServerApiKeyEnv', rolloutServerApiKeyEnv, 'the rolloutServer')

/**
 * Rollouts from an OpenAI-compatible server's /completions, given token ids. Where the server returns token_ids (vLLM's return_token_ids) they are
 * taken as they are; otherwise the text is tokenized, which may give other tokens than were drawn. The server has to hold the policy's weights.
 */
export function serverSource(url: string, tokenizer: Tokenizer, { model = 'default', apiKey }: ServerOptions = {}): RolloutSource {
  checkUrl(url)
  const endpoint = `${url.replace(/\/+$/, '')}/completions`
  const one = async (promptIds: Int32Array, prompt: number, sample: number, options: RolloutOptions): Promise<Rollout> => {
    const { seed, step = 0, firstPrompt = 0, numGenerations = 1, maxCompletionLength = 512, temperature = 1, topP = 1, topK = 0, minP = 0, repetitionPenalty = 1, stopStrings = [], signal } = options
    const body = {
      model, prompt: Array.from(promptIds), max_tokens: maxCompletionLength, temperature, top_p: topP, ...(topK > 0 ? { top_k: topK } : {}), ...(minP > 0 ? { min_p: minP } : {}),
      ...(repetitionPenalty === 1 ? {} : { repetition_penalty: repetitionPenalty }), ...(stopStrings.length > 0 ? { stop: stopStrings } : {}),
      // Servers take seeds from 0.
      seed: rolloutSeed(seed, step, (firstPrompt + prompt) * numGenerations + sample) >>> 1, logprobs: 0, return_token_ids: true,
    }
    const response = await fetch(endpoint, {
      method: 'POST', headers: { 'content-type': 'application/json', ...(apiKey === undefined ? {} : { authorization: `Bearer ${apiKey}` }) }, body: JSON.stringify(body), ...(signal ? { signal } : {}),
    }).catch((error: unknown) => { throw new ConfigError(`rolloutServer: ${endpoint} cannot be reached: ${(error as Error).message}`, { cause: error }) })
    if (!response.ok) throw new ConfigError(`rolloutServer: ${endpoint} answered ${response.status}: ${(await response.text()).slice(0, 300)}`)
    const json: unknown = await response.json().catch((error: unknown) => { throw new ConfigError(`rolloutServer: ${endpoint} did not answer with JSON: ${(error as Error).message}`, { cause: error }) })
    const parsed = answer.safeParse(json)
    if (!parsed.success) throw new ConfigError(`rolloutServer: ${endpoint} did not answer as OpenAI's completions do: ${parsed.error.issues[0]!.path.join('.')}: ${parsed.error.issues[0]!.message}`)
    return rolloutOf(parsed.data.choices[0]!, promptIds, prompt, sample)
  }
  const rolloutOf = ({ text, finish_reason: reason, token_ids: tokenIds, logprobs }: z.output<typeof answer>['choices'][number], promptIds: Int32Array, prompt: number, sample: number): Rollout => {
    const completionIds = Int32Array.from(tokenIds ?? endedIds(tokenizer, text, reason === 'stop'))
    const given = logprobs?.token_logprobs
    if (completionIds.length === 0) throw new ConfigError(`rolloutServer: ${endpoint} answered prompt ${prompt} with no tokens; set a minimum of tokens at the server`)
    return {
      prompt, sample, promptIds, completionIds, text, mask: new Uint8Array(completionIds.length).fill(1), finishReason: reason === 'length' ? 'length' : 'stop',
      logprobs: Float32Array.from(completionIds, (_, t) => given?.length === completionIds.length ? given[t] ?? NaN : NaN),
    }
  }
  return async (prompts, options) => {
    const groups = await Promise.all(prompts.map(async (promptIds, prompt) => {
      const group = await Promise.all(Array.from({ length: options.numGenerations ?? 1 }, (_, sample) => one(promptIds, prompt, sample, options)))
      options.onGroup?.(group)
      return group
    }))
    return groups.flat()
  }
}

/** A password in the URL would end up in messages and logs, and fetch() refuses it anyway. */
function checkUrl(url: string): void {
  if (!URL.canParse(url)) throw new ConfigError(`rolloutServer: expected a URL such as http://localhost:8000/v1, got ${JSON.stringify(url)}`)
  const { username, password, protocol } = new URL(url)
  if (username !== '' || password !== '') throw new ConfigError('rolloutServer: expected a URL without a user name and password; give a key by rolloutServerApiKeyEnv')
  if (!/^https?:$/.test(protocol)) throw new ConfigError(`rolloutServer: expected a URL of http or https, got ${protocol}`)
}

/** Texts come without the token that ended them. */
const endedIds = (tokenizer: Tokenizer, text: string, ended: boolean): number[] => [...tokenizer.encode(text, { allowSpecial: false, addSpecialTokens: false }), ...(ended && tokenizer.eosTokenId !== undefined ? [tokenizer.eosTokenId] : [])]
