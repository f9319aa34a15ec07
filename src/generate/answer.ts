import type { DecodeStream } from '../tokenizers/index.ts'
import { leastNewTokens, type GenerationConfig } from './config.ts'
import { biasAfter, completions, forceEnd, orderedBias, repetitions, type SequenceBias } from './controls.ts'
import type { LogitsProcessor } from './logitsProcessor.ts'
import type { FinishReason, GeneratedToken, GenerationOutput } from './output.ts'
import type { SamplingRow } from './sampler.ts'
import { StopText } from './text.ts'

export interface AnswerOptions {
  promptIds: Int32Array
  config: GenerationConfig
  /** Most tokens to generate. */
  limit: number
  seed: number
  decoder: DecodeStream | undefined
  processors: readonly LogitsProcessor[]
}

/** The tokens of one prompt and of its answer so far, and what the next one depends on. */
export class Answer implements SamplingRow {
  readonly promptTokens: number
  readonly temperature: number
  readonly topK: number
  readonly topP: number
  readonly minP: number
  readonly repetitionPenalty: number
  readonly history: ReadonlySet<number>
  readonly seed: number
  readonly eosTokenIds: readonly number[]
  readonly #history = new Set<number>()
  readonly #tokens: Int32Array
  readonly #logprobs: number[] = []
  readonly #limit: number
  readonly #least: number
  readonly #eos: ReadonlySet<number>
  readonly #suppressed: readonly number[]
  readonly #suppressedEarly: readonly number[]
  readonly #bias: SequenceBias
  readonly #badWords: readonly (readonly number[])[]
  readonly #ngram: number
  readonly #processors: readonly LogitsProcessor[]
  /** With the one that forces the end, where an end is to be forced. */
  readonly #lastProcessors: readonly LogitsProcessor[]
  readonly #text: StopText | undefined
  #written = ''
  #length: number
  #finishReason: FinishReason | undefined

  constructor({ promptIds, config, limit, seed, decoder, processors }: AnswerOptions) {
    this.promptTokens = promptIds.length
    this.temperature = config.doSample ? config.temperature : 0
    this.topK = config.topK
    this.topP = config.topP
    this.minP = config.minP
    this.repetitionPenalty = config.repetitionPenalty
    this.history = this.#history
    this.seed = seed
    this.eosTokenIds = config.eosTokenIds
    this.#tokens = new Int32Array(promptIds.length + limit)
    this.#tokens.set(promptIds)
    this.#length = promptIds.length
    this.#limit = limit
    this.#least = leastNewTokens(config, promptIds.length)
    this.#eos = new Set(config.eosTokenIds)
    this.#suppressed = config.suppressTokens
    this.#suppressedEarly = [...new Set([...config.suppressTokens, ...config.eosTokenIds])]
    this.#bias = orderedBias(config.sequenceBias)
    this.#badWords = config.badWordsIds.filter(([first, ...more]) => more.length > 0 || !this.#eos.has(first!))
    this.#ngram = config.noRepeatNgramSize
    this.#processors = processors
    const end = config.forcedEosTokenIds.filter((id) => !config.suppressTokens.includes(id))
    this.#lastProcessors = end.length > 0 ? [forceEnd(end), ...processors] : processors
    this.#text = decoder && new StopText(decoder, config.stopStrings)
    if (config.repetitionPenalty !== 1) for (const id of promptIds) this.#history.add(id)
  }

  /** Number of generated tokens, which is the place of the next one. */
  get position(): number { return this.#length - this.promptTokens }
  /** Tokens of prompt and answer. */
  get length(): number { return this.#length }
  get banned(): readonly number[] {
    const fixed = this.position < this.#least ? this.#suppressedEarly : this.#suppressed
    if (this.#badWords.length === 0 && this.#ngram === 0) return fixed
    const ids = this.tokens(0, this.#length)
    return [...fixed, ...completions(this.#badWords, ids), ...this.#ngram > 0 ? repetitions(ids, this.#ngram) : []]
  }
  get bias(): ReadonlyMap<number, number> { return biasAfter(this.#bias, this.tokens(0, this.#length)) }
  /** Functions that change the next token's logits last. */
  get processors(): readonly LogitsProcessor[] { return this.remaining === 1 ? this.#lastProcessors : this.#processors }
  /** Whether what bans or changes the next token depends on the tokens before it, or is done here and not on the device. */
  get isWatched(): boolean {
    return this.repetitionPenalty !== 1 || this.#bias.length + this.#badWords.length + this.#ngram + this.#lastProcessors.length > 0
  }
  /** The most tokens that may still come. */
  get remaining(): number { return this.#limit - this.position }
  get finished(): boolean { return this.#finishReason !== undefined }

  /** Tokens `begin` to `end` of prompt and answer. */
  tokens(begin: number, end: number): Int32Array { return this.#tokens.subarray(begin, end) }

  /** Takes the next token and says what became of it. */
  push(tokenId: number, logprob: number): GeneratedToken {
    this.#tokens[this.#length++] = tokenId
    this.#logprobs.push(logprob)
    if (this.repetitionPenalty !== 1) this.#history.add(tokenId)
    if (this.#eos.has(tokenId)) this.#finishReason = 'stop'
    let text = this.#finishReason ? '' : this.#text?.push(tokenId) ?? ''
    if (this.#text?.stopped) this.#finishReason = 'stopString'
    else if (this.position === this.#limit) this.#finishReason ??= 'length'
    if (this.#finishReason) text += this.#text?.end() ?? ''
    this.#written += text
    return { tokenId, logprob, text }
  }

  /** Ends the answer early. */
  abort(): void {
    if (this.#finishReason) return
    this.#finishReason = 'aborted'
    this.#written += this.#text?.end() ?? ''
  }

  output(): GenerationOutput {
    return {
      tokenIds: Array.from(this.tokens(this.promptTokens, this.#length)), text: this.#written, logprobs: this.#logprobs,
      finishReason: this.#finishReason ?? 'aborted', promptTokens: this.promptTokens,
    }
  }
}
