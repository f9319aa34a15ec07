import { ConfigError } from '../errors.ts'

/** What a logits processor is given at each token of an answer. */
export interface LogitsContext {
  readonly promptIds: Int32Array
  /** Drawn so far. */
  readonly tokenIds: Int32Array
  /** The tokens that end the answer. */
  readonly eosTokenIds: readonly number[]
  /** One for each token of the vocabulary: the model's, after the other options and the processors before this one. May be changed in place. */
  readonly logits: Float32Array
}

/** Changes the logits of the next token in place, or returns others. -Infinity bans a token. Synchronous. */
// eslint-disable-next-line @typescript-eslint/no-invalid-void-type -- a function that changes them in place returns nothing
export type LogitsProcessor = (context: LogitsContext) => Float32Array | void

const AsyncFunction = (async () => { await Promise.resolve() }).constructor
const isThenable = (value: unknown): boolean => typeof value === 'object' && value !== null && 'then' in value
const synchronous = 'expected a synchronous function, but it is asynchronous; do what takes time before, and look its result up in the function'

/** How errors name a processor: by its function's name, or by its place. */
function nameOf(processor: LogitsProcessor, index: number): string {
  const { name } = processor
  return name === '' || name === 'logitsProcessor' ? `logitsProcessor ${index}` : `logitsProcessor ${index} (${name})`
}

/** Throws ConfigError for what is no synchronous function. */
export function checkProcessors(processors: readonly LogitsProcessor[]): void {
  for (const [i, processor] of processors.entries()) {
    if (typeof processor !== 'function') throw new ConfigError(`logitsProcessor ${i}: expected a function, got ${typeof processor}`)
    if (processor instanceof AsyncFunction) throw new ConfigError(`${nameOf(processor, i)}: ${synchronous}`)
  }
}

/** The logits after every processor, one after another. Throws ConfigError naming the processor and the step. */
export function process(processors: readonly LogitsProcessor[], context: LogitsContext): Float32Array {
  const { promptIds, tokenIds, eosTokenIds } = context
  let { logits } = context
  for (const [i, processor] of processors.entries()) {
    const place = `${nameOf(processor, i)} at step ${tokenIds.length} of the answer`
    // What a processor writes there stays its own.
    const own = { promptIds: promptIds.slice(), tokenIds: tokenIds.slice(), eosTokenIds: [...eosTokenIds], logits }
    logits = checked(call(processor, own, place) ?? logits, logits.length, place)
  }
  return logits
}

function call(processor: LogitsProcessor, context: LogitsContext, place: string): unknown {
  try {
    return processor(context)
  } catch (error) {
    throw new ConfigError(`${place}: ${error instanceof Error ? error.message : String(error)}`, { cause: error })
  }
}

function checked(result: unknown, length: number, place: string): Float32Array {
  if (isThenable(result)) {
    // Its rejection is nobody's.
    Promise.resolve(result).catch(() => undefined)
    throw new ConfigError(`${place}: ${synchronous}`)
  }
  if (!(result instanceof Float32Array)) throw new ConfigError(`${place}: expected a Float32Array of logits or nothing, got ${Array.isArray(result) ? 'an array' : typeof result}`)
  if (result.length !== length) throw new ConfigError(`${place}: expected ${length} logits, one for each token of the vocabulary, got ${result.length}`)
  const problem = problemOf(result)
  if (problem) throw new ConfigError(`${place}: ${problem}`)
  return result
}

/** Why no token can be drawn from logits. */
export function problemOf(logits: Float32Array): string | undefined {
  let largest = -Infinity
  for (let id = 0; id < logits.length; id++) {
    const logit = logits[id]!
    if (Number.isNaN(logit) || logit === Infinity) return `expected numbers or -Infinity, got ${logit} for token ${id}`
    if (logit > largest) largest = logit
  }
  return largest === -Infinity ? 'every token has -Infinity, so none can be drawn; leave at least one' : undefined
}
