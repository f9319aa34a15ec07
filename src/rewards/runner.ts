import { setMaxListeners } from 'node:events'
import { ConfigError } from '../errors.ts'
import { givenOptions } from '../options.ts'
import { RewardMistake, type AnyRow, type RewardFunction, type RewardSample } from './types.ts'

/** Limits of the calls of reward functions. */
export interface RewardRunnerOptions {
  /** Most calls of reward functions under way at a time. Default 64. */
  maxConcurrency?: number
  /** Milliseconds a call may take. Default 60000. */
  timeout?: number
}

/** The rewards of samples under several functions. */
export interface RewardTable {
  /** [samples × functions], row by row; NaN where a reward is null. */
  readonly values: Float64Array
  /** Samples that each function's failures left without a reward. */
  readonly failed: readonly number[]
  /** What went wrong first, for each function that failed. */
  readonly errors: readonly (string | undefined)[]
}

/** Calls reward functions: bounded, timed, and checked. */
export class RewardRunner<Row = AnyRow> {
  readonly names: readonly string[]
  readonly #functions: readonly RewardFunction<Row>[]
  readonly #timeout: number
  #free: number
  readonly #queue: (() => void)[] = []

  constructor(functions: readonly RewardFunction<Row>[], { maxConcurrency = 64, timeout = 60_000 }: RewardRunnerOptions = {}) {
    if (functions.length === 0) throw new ConfigError('rewards: expected at least one reward function, got none')
    functions.forEach((one, i) => { if (typeof one !== 'function') throw new ConfigError(`rewards[${i}]: expected a function, got ${describe(one)}`) })
    if (!Number.isInteger(maxConcurrency) || maxConcurrency < 1) throw new ConfigError(`rewardConcurrency: expected a whole number from 1, got ${maxConcurrency}`)
    if (!(timeout > 0)) throw new ConfigError(`rewardTimeout: expected milliseconds above 0, got ${timeout}`)
    this.#functions = functions
    this.#timeout = timeout
    this.#free = maxConcurrency
    this.names = uniqueNames(functions.map((one, i) => one.name || `reward${i}`))
  }

  /**
   * Calls every function with these samples. Resolves with NaN where a function gave null, threw or took too long; rejects with ConfigError where one
   * gave something that is no list of as many finite numbers or nulls, which is a mistake of the function and not of an answer.
   */
  async score(samples: readonly RewardSample<Row>[], options: { step?: number, signal?: AbortSignal | undefined } = {}): Promise<RewardTable> {
    const { step = 0, signal } = givenOptions('score', options, 'step: 0')
    const columns = await Promise.all(this.#functions.map((_, f) => this.#limited(() => this.#call(f, samples, step, signal))))
    const values = new Float64Array(samples.length * columns.length)
    columns.forEach((column, f) => { samples.forEach((_, i) => { values[i * columns.length + f] = column.values?.[i] ?? NaN }) })
    return { values, failed: columns.map(({ failed }) => failed), errors: columns.map(({ error }) => error) }
  }

  async #limited<T>(body: () => Promise<T>): Promise<T> {
    if (this.#free > 0) this.#free--
    else await new Promise<void>((resolve) => { this.#queue.push(resolve) })
    try {
      return await body()
    } finally {
      const next = this.#queue.shift()
      if (next) next()
      else this.#free++
    }
  }

  async #call(f: number, samples: readonly RewardSample<Row>[], step: number, signal: AbortSignal | undefined): Promise<{ values?: readonly (number | null)[], failed: number, error?: string }> {
    const controller = new AbortController()
    // Each answer to a prompt may listen to it.
    setMaxListeners(0, controller.signal)
    const stop = (): void => { controller.abort(signal?.reason) }
    if (signal?.aborted) stop()
    signal?.addEventListener('abort', stop, { once: true })
    const errors: unknown[] = []
    const failed = (error: unknown): void => { errors.push(error) }
    let timer: NodeJS.Timeout | undefined
    let late = null as Error | null
    let values: unknown
    try {
      const overdue = new Promise<never>((_, reject) => {
        timer = setTimeout(() => {
          const error = late = new Error(`took longer than ${this.#timeout} ms`)
          controller.abort(error)
          // A call that leaves out what is not done yet may still give the rest.
          setImmediate(() => { reject(error) })
        }, this.#timeout)
      })
      const answer = (async () => await this.#functions[f]!(samples, { signal: controller.signal, step, failed }))()
      values = await Promise.race([answer, overdue])
      if (late && errors.length === 0) throw late
    } catch (error) {
      if (error instanceof RewardMistake) throw error
      return { failed: samples.length, error: messageOf(error) }
    } finally {
      clearTimeout(timer)
      signal?.removeEventListener('abort', stop)
    }
    checkValues(this.names[f]!, values, samples.length)
    return { values, failed: Math.min(errors.length, samples.length), ...(errors.length > 0 ? { error: messageOf(errors[0]) } : {}) }
  }
}

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error))

const describe = (value: unknown): string =>
  typeof value === 'number' || value === null || value === undefined ? String(value) : typeof value === 'string' ? JSON.stringify(value) : Array.isArray(value) ? `an array of ${value.length}` : `a value of type ${typeof value}`

function checkValues(name: string, values: unknown, count: number): asserts values is (number | null)[] {
  if (!Array.isArray(values) && !ArrayBuffer.isView(values)) throw new ConfigError(`reward function ${name}: expected a list of ${count} numbers, one for each sample, got ${describe(values)}`)
  const list = Array.from(values as ArrayLike<unknown>)
  if (list.length !== count) throw new ConfigError(`reward function ${name}: expected ${count} numbers, one for each sample, got ${list.length}; return null for a sample it cannot judge`)
  const wrong = list.findIndex((value) => value !== null && !(typeof value === 'number' && Number.isFinite(value)))
  if (wrong >= 0) throw new ConfigError(`reward function ${name}: expected a finite number or null for sample ${wrong}, got ${describe(list[wrong])}`)
}

function uniqueNames(names: readonly string[]): string[] {
  const seen = new Map<string, number>()
  return names.map((name) => {
    const count = (seen.get(name) ?? 0) + 1
    seen.set(name, count)
    return count === 1 ? name : `${name}#${count}`
  })
}
