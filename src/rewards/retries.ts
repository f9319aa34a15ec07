import { setTimeout as sleep } from 'node:timers/promises'

/** A failure after which another try may do better. */
export class PassingError extends Error {
  /** Milliseconds that the other side asked to wait. */
  readonly wait: number | undefined
  constructor(message: string, wait?: number) {
    super(message)
    this.wait = wait
  }
}

/** Longer than this nobody is waited for, in milliseconds. */
const longestWait = 60_000

/** Milliseconds that a Retry-After header asks to wait, given in seconds or as a date (RFC 9110, 10.2.3); undefined where it says neither. */
export function retryAfter(header: string | null, now = Date.now()): number | undefined {
  const text = header?.trim() ?? ''
  const wait = /^\d+$/.test(text) ? 1000 * Number(text) : Date.parse(text) - now
  return Number.isNaN(wait) ? undefined : Math.max(0, wait)
}

/**
 * Does something again after each PassingError, at most `retries` times, and rejects with the last one. Waits as long as the error asks, else a quarter of a
 * second, doubled each time; where it asks for more than a minute, that was the last try. Once the signal is aborted it rejects with its reason.
 */
export async function withRetries<T>(body: () => Promise<T>, retries: number, signal: AbortSignal): Promise<T> {
  for (let tried = 0; ; tried++) {
    signal.throwIfAborted()
    try {
      return await body()
    } catch (error) {
      signal.throwIfAborted()
      if (!(error instanceof PassingError) || tried >= retries) throw error
      const wait = error.wait ?? 250 * 2 ** tried
      if (wait > longestWait) throw error
      await sleep(wait, undefined, { signal }).catch(() => undefined)
    }
  }
}
