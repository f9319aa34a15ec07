import { DataError, TokenizerError } from '../errors.ts'
import type { PreferenceRow, RankedRow, StepwiseRow, TripleRow, UnpairedRow } from './preference.ts'
import type { Tokenization } from './examples.ts'
import { ignoreIndex, type ChatMessage, type Content, type ConversationOptions } from './types.ts'

/** A prompt and a completion in tokens, the prompt's first. */
export interface CompletionExample {
  inputIds: Int32Array
  promptLength: number
}
export interface PairExample { chosen: CompletionExample, rejected: CompletionExample, margin: number | undefined }
/** A pair with a gold completion of the same prompt. */
export interface TripleExample extends PairExample { reference: CompletionExample }
/** Not truncated: the completion also stands behind another row's prompt, for the KL estimate. */
export interface UnpairedExample { promptIds: Int32Array, completionIds: Int32Array, label: boolean }
export interface RankedExample { responses: CompletionExample[], scores: number[] }
/** `labels` is 0 or 1 at the last token of a step and -100 elsewhere. */
export interface StepwiseExample { inputIds: Int32Array, labels: Int32Array }

export interface PreferenceTokenOptions {
  /** Longest prompt with its completion; null never truncates. */
  maxLength: number | null
  truncationMode: 'keep_start' | 'keep_end'
}

/** Why a row gave no example. */
export type DropReason = 'promptTooLong' | 'pairTooLong' | 'equalAfterTruncation'

interface Parts { prompt: Int32Array, completion: Int32Array, mismatch: boolean }
interface Extras { tools?: unknown[], chatTemplateKwargs?: Record<string, unknown> }

const asMessages = (content: Content): ChatMessage[] | undefined => (typeof content === 'string' ? undefined : content)

/** Cuts prompt and completion to maxLength tokens. */
export function truncated(prompt: Int32Array, completion: Int32Array, { maxLength, truncationMode }: PreferenceTokenOptions): CompletionExample {
  const total = prompt.length + completion.length
  const excess = maxLength === null ? 0 : Math.max(0, total - maxLength)
  const all = new Int32Array(total)
  all.set(prompt)
  all.set(completion, prompt.length)
  if (truncationMode === 'keep_end') return { inputIds: all.slice(excess), promptLength: Math.max(0, prompt.length - excess) }
  return { inputIds: all.slice(0, total - excess), promptLength: Math.min(prompt.length, total - excess) }
}

const same = (a: Int32Array, b: Int32Array): boolean => a.length === b.length && a.every((id, i) => id === b[i])

/**
 * Tokenizes preference rows as TRL's trainers do: prompt and completion together, the prompt's own number of tokens (with the generation prompt)
 * telling where the completion begins; texts end with EOS. Unlike TRL, names of special tokens inside texts stay text.
 */
export class PreferenceTokens {
  readonly #tokenization: Tokenization
  readonly #options: PreferenceTokenOptions
  /** Rows whose prompt alone gives other tokens than the beginning of prompt and completion together. */
  boundaryMismatches = 0
  /** Completions that lost their end. */
  truncatedEnds = 0

  constructor(tokenization: Tokenization, options: PreferenceTokenOptions) {
    this.#tokenization = tokenization
    this.#options = options
  }

  /** A pair, both truncated; a prompt that fills maxLength alone leaves nothing to compare. */
  pair(row: PreferenceRow, place: string): PairExample | DropReason {
    const [chosen, rejected] = [this.#parts(row.prompt, row.chosen, row, place), this.#parts(row.prompt, row.rejected, row, place)]
    if (this.#promptFills(chosen) || this.#promptFills(rejected)) return 'promptTooLong'
    const pair = { chosen: this.#cut(chosen), rejected: this.#cut(rejected), margin: row.margin }
    return same(pair.chosen.inputIds, pair.rejected.inputIds) ? 'equalAfterTruncation' : pair
  }

  /** A pair and its gold completion, all truncated. */
  triple(row: TripleRow, place: string): TripleExample | DropReason {
    const pair = this.pair(row, place)
    if (typeof pair === 'string') return pair
    const reference = this.#parts(row.prompt, row.reference, row, place)
    return this.#promptFills(reference) ? 'promptTooLong' : { ...pair, reference: this.#cut(reference) }
  }

  /** A pair that fits whole: a reward is of a whole text, so longer ones are left out rather than cut. */
  wholePair(row: PreferenceRow, place: string): PairExample | DropReason {
    const [chosen, rejected] = [this.#whole(row.prompt, row.chosen, row, place), this.#whole(row.prompt, row.rejected, row, place)]
    const { maxLength } = this.#options
    const fits = ({ prompt, completion }: Parts): boolean => maxLength === null || prompt.length + completion.length <= maxLength
    if (!fits(chosen) || !fits(rejected)) return 'pairTooLong'
    return { chosen: this.#cut(chosen), rejected: this.#cut(rejected), margin: row.margin }
  }

  unpaired(row: UnpairedRow, place: string): UnpairedExample | DropReason {
    const parts = this.#parts(row.prompt, row.completion, row, place)
    return this.#promptFills(parts) ? 'promptTooLong' : { promptIds: parts.prompt, completionIds: parts.completion, label: row.label }
  }

  ranked(row: RankedRow, place: string): RankedExample | DropReason {
    const all = row.completions.map((completion) => this.#parts(row.prompt, completion, row, place))
    if (all.some((parts) => this.#promptFills(parts))) return 'promptTooLong'
    return { responses: all.map((parts) => this.#cut(parts)), scores: row.scores }
  }

  /** As TRL's PRMTrainer: BOS, the prompt, then each step and the separator, whose last token is judged. */
  stepwise({ prompt, steps, labels }: StepwiseRow, { stepSeparator, lastOnly }: { stepSeparator: string, lastOnly: boolean }): StepwiseExample | DropReason {
    const { tokenizer } = this.#tokenization
    const encode = (text: string): number[] => tokenizer.encode(text, { addSpecialTokens: false, allowSpecial: false })
    const ids = [...tokenizer.bosTokenId == null ? [] : [tokenizer.bosTokenId], ...encode(prompt)]
    const marks: number[] = ids.map(() => ignoreIndex)
    for (const [i, step] of steps.entries()) {
      const tokens = [...encode(step), ...encode(stepSeparator)]
      ids.push(...tokens)
      const counted = !lastOnly || i === steps.length - 1
      marks.push(...tokens.slice(1).map(() => ignoreIndex), counted ? Number(labels[i]) : ignoreIndex)
    }
    const kept = this.#options.maxLength ?? ids.length
    const example = { inputIds: Int32Array.from(ids.slice(0, kept)), labels: Int32Array.from(marks.slice(0, kept)) }
    return example.labels.every((label) => label === ignoreIndex) ? 'promptTooLong' : example
  }

  #promptFills({ prompt, completion }: Parts): boolean {
    const { maxLength, truncationMode } = this.#options
    return completion.length === 0 || (maxLength !== null && truncationMode === 'keep_start' && prompt.length >= maxLength)
  }

  #cut({ prompt, completion }: Parts): CompletionExample {
    const { maxLength, truncationMode } = this.#options
    if (maxLength !== null && truncationMode === 'keep_start' && prompt.length + completion.length > maxLength) this.truncatedEnds++
    return truncated(prompt, completion, this.#options)
  }

  #parts(prompt: Content, completion: Content, extras: Extras, place: string): Parts {
    const { promptIds, ids } = this.#ids(prompt, completion, extras, place)
    let mismatch = promptIds.length > ids.length
    for (let i = 0; i < promptIds.length && !mismatch; i++) mismatch = promptIds[i] !== ids[i]
    if (mismatch) this.boundaryMismatches++
    return { prompt: Int32Array.from(promptIds), completion: Int32Array.from(ids).slice(promptIds.length), mismatch }
  }

  /** Prompt and completion as they are tokenized together: an encoder's prompt alone would end with [SEP]. */
  #whole(prompt: Content, completion: Content, extras: Extras, place: string): Parts {
    const { promptIds, ids } = this.#ids(prompt, completion, extras, place)
    return { prompt: Int32Array.from(ids.slice(0, promptIds.length)), completion: Int32Array.from(ids.slice(promptIds.length)), mismatch: false }
  }

  #ids(prompt: Content, completion: Content, extras: Extras, place: string): { promptIds: number[], ids: number[] } {
    const { tokenizer } = this.#tokenization
    const [opening, turns] = [asMessages(prompt), asMessages(completion)]
    if (opening && turns) {
      const render = (messages: ChatMessage[], options: ConversationOptions): number[] => Array.from(this.#render(messages, { ...extras, ...options, assistantMask: false }, place))
      return { promptIds: render(opening, { addGenerationPrompt: true }), ids: render([...opening, ...turns], {}) }
    }
    const encode = (text: string): number[] => tokenizer.encode(text, { addSpecialTokens: true, allowSpecial: false })
    const ids = encode((prompt as string) + (completion as string))
    if (tokenizer.eosTokenId != null && ids.at(-1) !== tokenizer.eosTokenId) ids.push(tokenizer.eosTokenId)
    return { promptIds: encode(prompt as string), ids }
  }

  #render(messages: ChatMessage[], options: ConversationOptions, place: string): ArrayLike<number> {
    try {
      return this.#tokenization.tokenizeConversation(messages, options).inputIds
    } catch (error) {
      if (error instanceof TokenizerError) throw new DataError(`${place}: ${error.message}`, { cause: error })
      throw error
    }
  }
}
