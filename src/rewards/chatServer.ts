import { z } from 'zod'
import { ConfigError } from '../errors.ts'
import { lazily } from '../options.ts'

/** A language model behind an OpenAI-compatible server. */
export interface ChatServerOptions {
  /** https://…/v1. */
  url: string
  model: string
  apiKey?: string | undefined
  /** Most tokens of the reply. Default 256. */
  maxTokens?: number
  /** Tries again so many times where the server is busy (429, 5xx). Default 2. */
  retries?: number
}

const replySchema = lazily(() => z.object({ choices: z.array(z.object({ message: z.object({ content: z.string() }) })).min(1) }))

/** What asks such a server: one message, and the text of its reply. Rejects with Error where none can be had. `owner` names the URL's option in errors. */
export function chatServer(owner: string, { url, model, apiKey, maxTokens = 256, retries = 2 }: ChatServerOptions): (content: string, signal: AbortSignal) => Promise<string> {
  if (!/^https?:\/\//.test(url) || !URL.canParse(url)) throw new ConfigError(`${owner}: expected http://… or https://…, got ${JSON.stringify(url)}`)
  const { username, password } = new URL(url)
  if (username !== '' || password !== '') throw new ConfigError(`${owner}: expected a URL without a user name and password; give a key apart from it`)
  const endpoint = `${url.replace(/\/+$/, '')}/chat/completions`
  return async (content, signal) => {
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
}
