import { z } from 'zod'
import { ConfigError } from '../errors.ts'
import { lastNumber } from './match.ts'
import { rewardEach, type AnyRow, type RewardFunction, type RewardSample } from './types.ts'

/** What the reward by a judging model takes. */
export interface JudgeOptions<Row = AnyRow> {
  /** Of an OpenAI-compatible server: https://…/v1. */
  url: string
  model: string
  apiKey?: string
  /** What the judge is told of an answer; its reply's last number is the reward. */
  instruction: (sample: RewardSample<Row>) => string
  /** The reward from the reply; null where it holds none. Default: its last number. */
  read?: (reply: string) => number | null
  /** Numbers beyond are no verdict, and count as null. Default 0 and 10. */
  range?: readonly [number, number]
  /** Most tokens of the reply. Default 256. */
  maxTokens?: number
  /** Tries again so many times where the server is busy (429, 5xx). Default 2. */
  retries?: number
}

const replySchema = z.object({ choices: z.array(z.object({ message: z.object({ content: z.string() }) })).min(1) })
const number = (reply: string): number | null => lastNumber(reply) ?? null

/** A language model as judge, over HTTP. What it does not answer with a number in the range is null; an answer that cannot be had counts as failed. */
export function llmJudge<Row = AnyRow>({ url, model, apiKey, instruction, read = number, range = [0, 10], maxTokens = 256, retries = 2 }: JudgeOptions<Row>): RewardFunction<Row> {
  if (!/^https?:\/\//.test(url)) throw new ConfigError(`llmJudge: url: expected http://… or https://…, got ${JSON.stringify(url)}`)
  const endpoint = `${url.replace(/\/+$/, '')}/chat/completions`
  const ask = async (content: string, signal: AbortSignal): Promise<string> => {
    for (let left = retries; ; left--) {
      const response = await fetch(endpoint, {
        method: 'POST', signal, headers: { 'content-type': 'application/json', ...(apiKey === undefined ? {} : { authorization: `Bearer ${apiKey}` }) },
        body: JSON.stringify({ model, temperature: 0, max_tokens: maxTokens, messages: [{ role: 'user', content }] }),
      })
      if (response.ok) return replySchema.parse(await response.json()).choices[0]!.message.content
      if (left <= 0 || (response.status !== 429 && response.status < 500)) throw new Error(`${endpoint} answered ${response.status}: ${(await response.text()).slice(0, 200)}`)
      await response.body?.cancel()
      await new Promise((resolve) => setTimeout(resolve, 250 * 2 ** (retries - left)))
    }
  }
  return rewardEach<Row>('llmJudge', async (sample, { signal }) => {
    const verdict = read(await ask(instruction(sample), signal))
    return verdict !== null && verdict >= range[0] && verdict <= range[1] ? verdict : null
  })
}
