import { setImmediate as nextTurn } from 'node:timers/promises'

/** Longest stretch of work before other events get their turn, in milliseconds. */
const turnMs = 8

/** Runs to its end, at once, a generator that yields where other work could have its turn. */
export function atOnce<T>(work: Generator<undefined, T>): T {
  for (;;) {
    const { done, value } = work.next()
    if (done) return value
  }
}

/** Gives the event loop its turn in long work of this thread whenever enough time has passed; throws if `signal` was aborted. */
export class Turns {
  readonly #signal: AbortSignal | undefined
  #since = performance.now()

  constructor(signal?: AbortSignal) {
    this.#signal = signal
  }

  get due(): boolean {
    return performance.now() - this.#since > turnMs
  }

  async take(): Promise<void> {
    this.#signal?.throwIfAborted()
    await nextTurn()
    this.#since = performance.now()
  }

  /** Runs a generator to its end; wherever it yields, the event loop may have its turn. */
  async run<T>(work: Generator<undefined, T>): Promise<T> {
    for (;;) {
      const { done, value } = work.next()
      if (done) return value
      if (this.due) await this.take()
    }
  }
}
