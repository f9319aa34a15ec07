import { adapterState, isSameState, type AdapterState } from '../adapters/adapterSet.ts'
import { ConfigError, DisposedError, KernelError, NonFiniteError } from '../errors.ts'
import { KeyValueCache, type CausalLanguageModel } from '../models/index.ts'
import { ropeLengthKey } from '../models/rope.ts'
import type { Module } from '../nn/index.ts'
import { givenOptions } from '../options.ts'
import { autocast } from '../tensor/autocast.ts'
import { decoding, scope, unscoped, type Tensor } from '../tensor/index.ts'
import { Answer } from './answer.ts'
import { newTokenLimit } from './config.ts'
import { contextRoom } from './context.ts'
import { DecodeGraphs, mostSteps } from './decodeGraph.ts'
import { drawNext, readDrawn, rowsOf, type Drawn } from './draw.ts'
import type { GenerationOutput } from './output.ts'
import { checkRequest, type GenerationRequest } from './request.ts'
import type { SampledTokens } from './sampler.ts'
import { Schedule, type Entry, type Part } from './schedule.ts'

/** The size of a generation engine, and what it generates with. */
export interface EngineOptions {
  /** Tokens of all answers under way together, their prompts included, that the key-value cache holds. */
  slots: number
  /** Most answers at a time. Default 64. */
  maxBatchSize?: number
  /** Most prompt tokens in one forward pass. Default 512. */
  prefillTokens?: number
  /** Multiply in bfloat16 where the machine has it, as in training with bf16. Default: as the weights are stored. */
  bf16?: boolean
}

interface Request extends Entry {
  readonly onToken: GenerationRequest['onToken']
  readonly signal: AbortSignal | undefined
  resolve(output: GenerationOutput): void
  reject(error: unknown): void
}

/** Seconds that decoding may go on between two looks at what was drawn: an answer's end is seen that much later, and the processor is asked that much less. */
const unwatchedSeconds = 4e-3

interface Pace { seconds: number; sequences: number }

/** How long a decoding step of a model took lately, and of how many sequences the last one was: one engine's pace is where the next begins. */
const paces = new WeakMap<CausalLanguageModel, Pace>()

/** Slots of the cache that an answer needs, virtual tokens of the model included: its last token is never looked at. */
export const slotsOf = (model: CausalLanguageModel, promptTokens: number, limit: number): number => (model.virtualTokens?.count ?? 0) + promptTokens + limit - 1

/**
 * Generates many answers at a time, from prompts of any lengths that may be handed in at any moment (continuous batching). An answer's tokens do not
 * depend on the others. While it lives, the model's dropout is off; dispose() sets it back.
 */
export class GenerationEngine {
  readonly model: CausalLanguageModel
  readonly #cache: KeyValueCache
  readonly #schedule: Schedule
  readonly #bf16: boolean
  readonly #training: Module[]
  readonly #graphs = new DecodeGraphs()
  readonly #pace: Pace
  /** With which the answers under way were begun. */
  #adapters: AdapterState | undefined
  #running = false
  #disposed = false

  constructor(model: CausalLanguageModel, { slots, maxBatchSize = 64, prefillTokens = 512, bf16 = false }: EngineOptions) {
    for (const [name, value] of Object.entries({ slots, maxBatchSize, prefillTokens })) {
      if (!Number.isInteger(value) || value < 1) throw new ConfigError(`${name}: expected a whole number from 1, got ${value}`)
    }
    this.model = model
    this.#bf16 = bf16
    this.#pace = paces.get(model) ?? { seconds: Infinity, sequences: 0 }
    paces.set(model, this.#pace)
    this.#cache = new KeyValueCache(model.config, { slots, dtype: model.dtype, device: model.device })
    this.#schedule = new Schedule(this.#cache, { maxBatchSize, prefillTokens, virtualTokens: () => model.virtualTokens?.count ?? 0, isWhole: (tokens) => this.#lengthKey(tokens) !== 0 })
    this.#training = [...model.namedModules()].map(([, module]) => module).filter((module) => module.training)
    for (const module of this.#training) module.training = false
  }

  /**
   * Generates one answer. Rejects with ConfigError for a prompt that does not fit the model or the cache, and where a logits
   * processor fails or the model's adapters are changed under way.
   */
  async submit(request: GenerationRequest): Promise<GenerationOutput> {
    const { promptIds, config, seed, decoder, group, logitsProcessors = [], onToken, signal } = givenOptions('submit', request, 'promptIds, config, seed: 1')
    if (this.#disposed) throw new DisposedError('the generation engine was disposed; make a new one')
    checkRequest(request, this.model.config.vocabSize)
    const limit = newTokenLimit(config, promptIds.length, contextRoom(this.model))
    const capacity = slotsOf(this.model, promptIds.length, limit)
    if (capacity > this.#cache.slots) throw new ConfigError(`a prompt of ${promptIds.length} tokens and up to ${limit} new ones need ${capacity} slots, but the engine has ${this.#cache.slots}; make it with more slots`)
    const answer = new Answer({ promptIds, config, limit, seed, decoder, processors: logitsProcessors })
    return await new Promise((resolve, reject) => {
      const entry: Request = { answer, group, capacity, sequence: undefined, onToken, signal, resolve, reject }
      this.#schedule.add(entry)
      if (!this.#running) void this.#run()
    })
  }

  /** Steps until nothing is left to do. Starts after the current task, so that requests handed in together run together. */
  async #run(): Promise<void> {
    this.#running = true
    await Promise.resolve()
    try {
      while (!this.#schedule.isEmpty) await this.#step()
    } catch (error) {
      this.#rejectAll(explained(error))
    } finally {
      // The model's adapters or weights may be others when the next request comes.
      this.#graphs.clear()
      this.#adapters = undefined
      this.#running = false
    }
  }

  async #step(): Promise<void> {
    this.#checkAdapters()
    for (const entry of this.#requests) if (entry.signal?.aborted) this.#abort(entry)
    this.#schedule.admit()
    const batches = this.#batches(this.#schedule.plan())
    const sequences = batches.length === 1 && batches[0]!.every(isNewToken) ? batches[0]!.length : 0
    const begin = performance.now()
    const passes = batches.map((parts) => ({ complete: parts.filter(isComplete), read: this.#enqueue(parts) }))
    this.#schedule.follow()
    const drawn = await Promise.all(passes.map(async ({ read }) => await read()))
    if (sequences > 0) this.#keepPace((performance.now() - begin) / 1000 / (drawn[0]!.tokens.length / sequences), sequences)
    passes.forEach(({ complete }, p) => {
      const { tokens, logprobs, failures } = drawn[p]!
      for (let at = 0; at < tokens.length; at++) {
        const entry = complete[at % complete.length]!.entry as Request
        if (failures.has(at)) this.#reject(entry, failures.get(at))
        else this.#take(entry, Number(tokens[at]), Number(logprobs[at]))
      }
    })
  }

  /** An answer is one adapter's from its first token to its last: what was begun with others ends here, and what waits begins with the new ones. */
  #checkAdapters(): void {
    const [before, now] = [this.#adapters, adapterState(this.model)]
    this.#adapters = now
    if (!before || isSameState(before, now)) return
    this.#graphs.clear()
    const named = ({ names }: AdapterState): string => (names.length > 0 ? `adapter ${names.join(' and ')}` : 'no adapter')
    const error = new ConfigError(`the model's adapters were changed while an answer was under way: it was begun with ${named(before)}, and the model has ${named(now)} now. Await the answers before setAdapter(), addAdapter(), deleteAdapter(), loadAdapterWeights() or mergeAndUnload()`)
    for (const entry of this.#requests.filter(({ sequence }) => sequence)) this.#reject(entry, error)
  }

  #keepPace(seconds: number, sequences: number): void {
    this.#pace.seconds = Number.isFinite(this.#pace.seconds) ? (this.#pace.seconds + seconds) / 2 : seconds
    this.#pace.sequences = sequences
  }

  #take(entry: Request, tokenId: number, logprob: number): void {
    // The caller may have disposed of the engine meanwhile.
    if (!entry.sequence) return
    if (entry.signal?.aborted) {
      this.#abort(entry)
      return
    }
    const token = entry.answer.push(tokenId, logprob)
    try {
      entry.onToken?.(token)
    } catch (error) {
      this.#reject(entry, error)
      return
    }
    if (entry.answer.finished) this.#finish(entry)
  }

  #abort(entry: Request): void {
    entry.answer.abort()
    this.#finish(entry)
  }

  #finish(entry: Request): void {
    this.#schedule.remove(entry)
    entry.resolve(entry.answer.output())
  }

  /**
   * The parts that run together. On the CPU new tokens and prompts do not: their products differ in the order of sums. Rotary frequencies that depend on the
   * longest sequence of a pass are not shared between lengths.
   */
  #batches(parts: readonly Part[]): Part[][] {
    const batches = new Map<string, Part[]>()
    const apart = this.model.device.name === 'cpu'
    for (const part of parts) {
      const key = `${this.#lengthKey(part.end)} ${apart && isNewToken(part)}`
      const batch = batches.get(key)
      if (batch) batch.push(part)
      else batches.set(key, [part])
    }
    return [...batches.values()]
  }

  #lengthKey(length: number): number {
    const { config, virtualTokens } = this.model
    return config.kind === 'decoder' ? ropeLengthKey(config.rope, (virtualTokens?.count ?? 0) + length) : 0
  }

  /** Enqueues a pass, and gives what reads the tokens drawn from it. */
  #enqueue(parts: readonly Part[]): () => Promise<Drawn> {
    const steps = this.#decode(parts)
    if (steps) return () => readDrawn(steps)
    const logits = this.#forward(parts)
    return logits ? drawNext(logits, parts.filter(isComplete).map(({ entry }) => entry.answer)) : () => Promise.resolve(nothing)
  }

  /** Enqueues several decoding steps as a graph; undefined where there is none that fits. */
  #decode(parts: readonly Part[]): SampledTokens | undefined {
    if (!this.#fitsGraph(parts)) return undefined
    // On the CPU, where making one takes about as long as it saves in two steps, a graph pays where the step comes again.
    const make = this.model.device.name !== 'cpu' || this.#pace.sequences === parts.length
    return unscoped(() => scope(() => {
      const rows = parts.map(({ entry, sequence, begin, end }) => ({ sequence, row: entry.answer, tokenId: entry.answer.tokens(begin, end)[0]! }))
      return this.#graphs.of(this.model, this.#cache, rows, { bf16: this.#bf16, make })?.run(this.#cache, rows, this.#stepsAtOnce(parts))
    }))
  }

  /** How many decoding steps run before what they drew is read: no more than any answer has left, and fewer where they take long. */
  #stepsAtOnce(parts: readonly Part[]): number {
    let steps = Math.max(1, Math.min(mostSteps, Math.floor(unwatchedSeconds / this.#pace.seconds)))
    for (const { entry: { answer } } of parts) steps = Math.min(steps, answer.remaining)
    return parts.every(({ end }) => this.#lengthKey(end + steps - 1) === 0) ? steps : 1
  }

  /** Enqueues a forward pass, and gives the logits of the parts that end with the last known token. */
  #forward(parts: readonly Part[]): Tensor | undefined {
    const complete = parts.flatMap((part, i) => isComplete(part) ? [i] : [])
    const run = () => {
      const { logits } = this.model.forward({
        inputIds: parts.map(({ entry, begin, end }) => entry.answer.tokens(begin, end)),
        cache: this.#cache, cacheSequences: parts.map(({ sequence }) => sequence),
        outputLogits: complete.length > 0, logitsToKeep: 1,
      })
      return logits && rowsOf(logits, complete)
    }
    const isDecoding = parts.every(isNewToken)
    // A GPU's decoding has working memory that a prompt's pass does not make.
    if (isDecoding || this.model.device.name === 'cpu') this.#graphs.ran(this.model.config, Math.max(...parts.map(({ end }) => end)) + (this.model.virtualTokens?.count ?? 0))
    const inKind = () => isDecoding ? decoding(run) : run()
    return unscoped(() => scope(() => this.#bf16 ? autocast('bfloat16', inKind) : inKind()))
  }

  /** Whether the pass is one new token of each sequence, drawn by what a graph holds: nothing that looks at the tokens before, and no token that must not come. */
  #fitsGraph(parts: readonly Part[]): boolean {
    return parts.every((part) => {
      const { entry: { answer }, end } = part
      return isNewToken(part) && !answer.isWatched && answer.banned.length === 0 && this.#lengthKey(end) === 0
    })
  }

  get #requests(): Request[] { return this.#schedule.entries as Request[] }

  #reject(entry: Request, error: unknown): void {
    this.#schedule.remove(entry)
    entry.reject(error)
  }

  #rejectAll(error: unknown): void {
    for (const entry of this.#requests) this.#reject(entry, error)
  }

  /** Releases the cache; answers under way are rejected. */
  dispose(): void {
    if (this.#disposed) return
    this.#disposed = true
    this.#rejectAll(new DisposedError('the generation engine was disposed while it was generating'))
    this.#graphs.clear()
    this.#cache.dispose()
    for (const module of this.#training) module.training = true
  }

  [Symbol.dispose](): void { this.dispose() }
}

/** Logits without a largest number come from the weights, not from the request. */
function explained(error: unknown): unknown {
  if (!(error instanceof KernelError) || !error.message.startsWith('sample: the logits')) return error
  return new NonFiniteError(`no token can be drawn: the model's logits hold NaN or infinity, or nothing above -Infinity. Check the weights; after a diverged training load an earlier checkpoint`)
}

/** Whether a part ends with the last token there is, so that the next one is drawn. */
const isComplete = ({ entry, end }: Part): boolean => end === entry.answer.length

/** Whether a part is a token that was drawn, not one of the prompt. */
const isNewToken = ({ entry, begin }: Part): boolean => begin >= entry.answer.promptTokens

const nothing: Drawn = { tokens: new Int32Array(), logprobs: new Float32Array(), failures: new Map() }
