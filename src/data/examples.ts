import { DataError, TokenizerError } from '../errors.ts'
import type { DataRow } from './formats.ts'
import { ignoreIndex, type ChatMessage, type ConversationOptions, type Example, type TextTokenizer, type TokenizedConversation } from './types.ts'

export interface ExampleOptions {
  /** Longest example in tokens; null never truncates. Default 1024. */
  maxLength?: number | null
  /** Which end of a longer example stays. Default 'keep_start'. */
  truncationMode?: 'keep_start' | 'keep_end'
  /** Train on completions only. Default true for rows with a prompt and a completion; an error for others. */
  completionOnlyLoss?: boolean
  /** Train on the assistant's tokens only, as the chat template marks them. Default false. */
  assistantOnlyLoss?: boolean
  /** Put EOS after texts and completions that are no conversation. Default true. */
  appendEos?: boolean
  /** Add BOS and the like as the tokenizer does for a text. Default true. */
  addSpecialTokens?: boolean
  /** Read the names of special tokens inside texts as special tokens. Default false; Hugging Face's behaviour is true. */
  allowSpecial?: boolean
}

/** A tokenizer, and what renders conversations for it. */
export interface Tokenization {
  tokenizer: TextTokenizer
  tokenizeConversation: (messages: ChatMessage[], options?: ConversationOptions) => TokenizedConversation
}

/** What was noticed while rows became examples; all are counts of rows but for the tokens. */
export interface ExampleStats {
  rows: number
  examples: number
  tokens: number
  trainedTokens: number
  /** Longer than `maxLength`. */
  truncated: number
  /** Of these, rows whose last trained token (as a rule EOS) was cut off; such rows teach the model not to stop. */
  truncatedEnd: number
  /** Kept rows that train no EOS token. */
  withoutTrainedEos: number
  /** Dropped because no token was left to train on. */
  emptyMask: number
  /** Rows whose prompt alone gives other tokens than the start of prompt and completion together. */
  boundaryMismatch: number
  /** Rows that are conversations, or prompts with completions. */
  dialogues: number
  /** Malformed rows passed over by onBadRow: 'skip'. */
  badRows: number
}

export const emptyStats = (): ExampleStats => ({
  rows: 0, examples: 0, tokens: 0, trainedTokens: 0, truncated: 0, truncatedEnd: 0, withoutTrainedEos: 0, emptyMask: 0, boundaryMismatch: 0, dialogues: 0, badRows: 0,
})

/** Adds `more` to `sum`. */
export function addStats(sum: ExampleStats, more: ExampleStats): void {
  for (const key of Object.keys(sum) as (keyof ExampleStats)[]) sum[key] += more[key]
}

/** The tokens of a row before truncation; `mask[i]` tells whether token i is trained. */
interface Tokens { ids: ArrayLike<number>, mask: Uint8Array, boundaryMismatch: boolean }

interface Extras { tools?: unknown[], chatTemplateKwargs?: Record<string, unknown> }

const isMessages = (content: string | ChatMessage[]): content is ChatMessage[] => typeof content !== 'string'

/**
 * Turns rows into examples as TRL's SFTTrainer does: prompt and completion are tokenized together, the prompt's own number of
 * tokens (with the generation prompt) is where the completion starts, and the loss masks are combined by AND.
 * Unlike TRL, the names of special tokens in plain texts stay text unless `allowSpecial` is set.
 */
export class ExampleMaker {
  private readonly tokenization: Tokenization
  private readonly options: ExampleOptions
  readonly stats = emptyStats()

  constructor(tokenization: Tokenization, options: ExampleOptions = {}) {
    this.tokenization = tokenization
    this.options = options
  }

  /** The example, or undefined if no token is left to train on. `place` opens error messages. */
  make(row: DataRow, place: string): Example | undefined {
    const { ids, mask, boundaryMismatch } = this.tokens(row, place)
    const { stats } = this
    const { maxLength = 1024, truncationMode = 'keep_start' } = this.options
    stats.rows++
    if (boundaryMismatch) stats.boundaryMismatch++
    if (row.kind !== 'text') stats.dialogues++
    let start = 0
    let end = ids.length
    if (maxLength !== null && end > maxLength) {
      stats.truncated++
      if (truncationMode === 'keep_end') start = end - maxLength
      else {
        end = maxLength
        if (mask.lastIndexOf(1) >= end) stats.truncatedEnd++
      }
    }
    const inputIds = new Int32Array(end - start)
    const labels = new Int32Array(end - start)
    let trained = 0
    let eosTrained = false
    for (let i = start; i < end; i++) {
      const id = ids[i]!
      inputIds[i - start] = id
      // The first token of a sequence has no predecessor that could predict it.
      if (mask[i] === 1 && i > start) { trained++; eosTrained ||= id === this.tokenization.tokenizer.eosTokenId }
      labels[i - start] = mask[i] === 1 ? id : ignoreIndex
    }
    if (trained === 0) { stats.emptyMask++; return undefined }
    stats.examples++
    stats.tokens += inputIds.length
    stats.trainedTokens += trained
    if (!eosTrained) stats.withoutTrainedEos++
    return { inputIds, labels }
  }

  private tokens(row: DataRow, place: string): Tokens {
    const { completionOnlyLoss, assistantOnlyLoss = false } = this.options
    if (completionOnlyLoss && row.kind !== 'promptCompletion') throw new DataError(`${place}: completionOnlyLoss needs rows with prompt and completion, got ${row.kind}; for conversations use assistantOnlyLoss`)
    switch (row.kind) {
      case 'text': {
        if (assistantOnlyLoss) throw new DataError(`${place}: assistantOnlyLoss needs conversations, got text; leave it out`)
        const ids = this.encode(row.text, row.piece === undefined || row.piece === 'first', row.piece === undefined || row.piece === 'last')
        return { ids, mask: new Uint8Array(ids.length).fill(1), boundaryMismatch: false }
      }
      case 'messages': {
        const { inputIds, assistantMask } = this.render(row.messages, row, { assistantMask: assistantOnlyLoss }, place)
        const mask = assistantOnlyLoss ? Uint8Array.from(assistantMask) : new Uint8Array(inputIds.length).fill(1)
        return { ids: inputIds, mask, boundaryMismatch: false }
      }
      case 'promptCompletion': return this.promptCompletion(row, place)
      case 'prompt': case 'preference': case 'unpairedPreference':
        throw new DataError(`${place}: the row is ${described[row.kind]}; supervised training needs text, messages, or prompt and completion`)
    }
  }

  private promptCompletion(row: DataRow & { kind: 'promptCompletion' }, place: string): Tokens {
    const { completionOnlyLoss = true, assistantOnlyLoss = false } = this.options
    let prompt: ArrayLike<number>
    let ids: ArrayLike<number>
    let mask: Uint8Array
    if (isMessages(row.prompt) && isMessages(row.completion)) {
      prompt = this.render(row.prompt, row, { addGenerationPrompt: true, assistantMask: false }, place).inputIds
      const whole = this.render([...row.prompt, ...row.completion], row, { assistantMask: assistantOnlyLoss }, place)
      ids = whole.inputIds
      mask = assistantOnlyLoss ? Uint8Array.from(whole.assistantMask) : new Uint8Array(ids.length).fill(1)
    } else {
      if (assistantOnlyLoss) throw new DataError(`${place}: assistantOnlyLoss needs conversations, got a prompt and a completion of text; leave it out`)
      prompt = this.encode(row.prompt as string, true, false)
      ids = this.encode((row.prompt as string) + (row.completion as string), true, true)
      mask = new Uint8Array(ids.length).fill(1)
    }
    let boundaryMismatch = prompt.length > ids.length
    for (let i = 0; i < prompt.length && !boundaryMismatch; i++) boundaryMismatch = prompt[i] !== ids[i]
    if (completionOnlyLoss) mask.fill(0, 0, Math.min(prompt.length, mask.length))
    return { ids, mask, boundaryMismatch }
  }

  private render(messages: ChatMessage[], row: Extras, options: ConversationOptions, place: string): TokenizedConversation {
    const { allowSpecial = false } = this.options
    const extras = { ...row.tools && { tools: row.tools }, ...row.chatTemplateKwargs && { chatTemplateKwargs: row.chatTemplateKwargs } }
    try {
      return this.tokenization.tokenizeConversation(messages, { ...extras, ...options, allowSpecial })
    } catch (error) {
      if (error instanceof TokenizerError) throw new DataError(`${place}: ${error.message}`, { cause: error })
      throw error
    }
  }

  private encode(text: string, begins: boolean, ends: boolean): number[] {
    const { tokenizer } = this.tokenization
    const { addSpecialTokens = true, allowSpecial = false, appendEos = true } = this.options
    const ids = tokenizer.encode(text, { addSpecialTokens: addSpecialTokens && begins, allowSpecial })
    if (ends && appendEos && tokenizer.eosTokenId != null && ids.at(-1) !== tokenizer.eosTokenId) ids.push(tokenizer.eosTokenId)
    return ids
  }
}

const described = { prompt: 'a prompt without a completion', preference: 'a pair of chosen and rejected', unpairedPreference: 'a completion with a label' }

/** The advice that goes with an empty loss mask. */
export const emptyMaskAdvice = 'raise maxLength if prompts fill it; with assistantOnlyLoss check that the chat template marks the assistant\'s turns (see `anneal inspect`)'
