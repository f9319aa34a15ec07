import { z } from 'zod'
import { ConfigError } from '../errors.ts'
import { lazily } from '../options.ts'
import { PassingError, retryAfter, withRetries } from './retries.ts'

/** A language model behind an OpenAI-compatible server. */
export interface ChatServerOptions {
  /** https://…/v1. */
  url: string
  model: string
  apiKey?: string | undefined
  /** Most tokens of the reply. Default 256. */
  maxTokens?: number
  /** Asks again so many times where the server is busy (408, 429, 5xx), does not answer in time or at all, or answers something else than a chat completion. Default 2. */
  retries?: number
  /** Milliseconds a try may take; null for as long as the call of the reward function may. Default null. */
  timeout?: number | null
}

// No content is what a model says that refuses.
const replySchema = lazily(() => z.object({ choices: z.array(z.object({ message: z.object({ content: z.string().nullish() }) })).min(1) }))

/** What asks such a server: one message, and the text of its reply. Rejects with Error where none can be had. `owner` names who asks in errors, `urlName` the URL's option. */
export function chatServer(owner: string, options: ChatServerOptions, urlName = `${owner}: url`): (content: string, signal: AbortSignal) => Promise<string> {
  const { url, model, apiKey, maxTokens = 256, retries = 2, timeout = null } = options
  if (!/^https?:\/\//.test(url) || !URL.canParse(url)) throw new ConfigError(`${urlName}: expected http://… or https://…, got ${JSON.stringify(url)}`)
  const { username, password } = new URL(url)
  if (username !== '' || password !== '') throw new ConfigError(`${urlName}: expected a URL without a user name and password; give a key apart from it`)
  if (!Number.isInteger(retries) || retries < 0) throw new ConfigError(`${owner}: retries: expected a whole number from 0, got ${retries}`)
  if (timeout !== null && !(Number.isInteger(timeout) && timeout > 0)) throw new ConfigError(`${owner}: timeout: expected a whole number of milliseconds from 1, or null, got ${timeout}`)
  const endpoint = `${url.replace(/\/+$/, '')}/chat/completions`
  const once = async (content: string, signal: AbortSignal): Promise<string> => {
    const limit = timeout === null ? null : AbortSignal.timeout(timeout)
    let response: Response
    let text: string
    try {
      response = await fetch(endpoint, {
        method: 'POST', signal: limit ? AbortSignal.any([signal, limit]) : signal,
        headers: { 'content-type': 'application/json', ...(apiKey === undefined ? {} : { authorization: `Bearer ${apiKey}` }) },
        body: JSON.stringify({ model, temperature: 0, max_tokens: maxTokens, messages: [{ role: 'user', content }] }),
      })
      text = await response.text()
    } catch (error) {
      throw new PassingError(limit?.aborted ? `${endpoint} took longer than ${timeout} ms` : `${endpoint} did not answer: ${reasonOf(error)}`)
    }
    if (response.ok) return contentOf(endpoint, text)
    const message = `${endpoint} answered ${response.status}: ${text.slice(0, 200)}`
    throw response.status === 408 || response.status === 429 || response.status >= 500 ? new PassingError(message, retryAfter(response.headers.get('retry-after'))) : new Error(message)
  }
  return (content, signal) => withRetries(() => once(content, signal), retries, signal)
}

function contentOf(endpoint: string, text: string): string {
  try {
    return replySchema.parse(JSON.parse(text)).choices[0]!.message.content ?? ''
  } catch {
    throw new PassingError(`${endpoint}: expected a chat completion, got ${JSON.stringify(text.slice(0, 200))}`)
  }
}

/** fetch itself says only that it failed. */
function reasonOf(error: unknown): string {
  const { cause = error } = error as { cause?: unknown }
  return cause instanceof Error ? (cause as NodeJS.ErrnoException).code ?? cause.message : String(cause)
}
