import vm from 'node:vm'
import { TokenizerError } from '../errors.ts'
import { translatePattern } from './oniguruma.ts'

/** Longest time one text may spend in an untrusted pattern. */
const patternTimeLimitMs = 1000
/** Shorter texts cannot make a pattern without nested repetition slow. */
const shortText = 1024
/** A long text is matched window by window, so that its words never exist all at once. */
const windowLength = 1 << 16

const gpt2 = String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`

/** Patterns of published models that run in linear time, known by heart so that they need no watchdog. */
const trusted = new Set([
  gpt2,
  String.raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`,
  String.raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`,
  String.raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`,
])

/** A piece of a text: from `start` to `end`, and whether the pattern matched it. */
export interface PatternSpan {
  start: number
  end: number
  match: boolean
}

/** A regular expression of a tokenizer.json, with Oniguruma's meaning, bounded in time. */
export class Pattern {
  readonly source: string
  readonly #global: RegExp
  readonly #sticky: RegExp
  readonly #trusted: boolean
  readonly #nested: boolean

  constructor(source: string, where: string) {
    this.source = source
    const { source: translated, nestedRepetition } = translatePattern(source, where)
    this.#nested = nestedRepetition
    this.#trusted = trusted.has(source)
    try {
      this.#global = new RegExp(translated, 'gv')
      this.#sticky = new RegExp(translated, 'yv')
    } catch (error) {
      throw new TokenizerError(`${where}: the pattern ${JSON.stringify(source)} is not a valid regular expression`, { cause: error })
    }
  }

  /** A pattern that matches `text` literally. */
  static literal(text: string, where: string): Pattern {
    return new Pattern(text.replace(/[\\^$.*+?()[\]{}|]/g, String.raw`\$&`), where)
  }

  static #gpt2: Pattern | undefined
  static get gpt2(): Pattern { return Pattern.#gpt2 ??= new Pattern(gpt2, 'the GPT-2 pattern') }

  /** All matches if they cover the text without a gap; undefined if they do not. */
  cover(text: string): string[] | undefined {
    if (text.length > windowLength) return this.#trusted ? this.#coverByWindows(text) : this.#coverSlowly(text)
    const matches = this.#guard(text, () => text.match(this.#global))
    if (matches === null) return undefined
    let length = 0
    for (const match of matches) length += match.length
    return length === text.length ? matches : undefined
  }

  /** Cuts the text into matches and the gaps between them, in order. */
  spans(text: string): PatternSpan[] {
    return this.#guard(text, () => {
      const spans: PatternSpan[] = []
      let end = 0
      for (const match of text.matchAll(this.#global)) {
        if (match.index > end) spans.push({ start: end, end: match.index, match: false })
        end = match.index + match[0].length
        spans.push({ start: match.index, end, match: true })
      }
      if (end < text.length) spans.push({ start: end, end: text.length, match: false })
      return spans
    })
  }

  replace(text: string, content: string): string {
    return this.#guard(text, () => text.replace(this.#global, () => content))
  }

  /** Trusted patterns look one character ahead and none back, so a match that ends before the window does is a match of the text. */
  #coverByWindows(text: string): string[] | undefined {
    const all: string[] = []
    let start = 0
    for (let length = windowLength; start < text.length;) {
      const end = Math.min(text.length, start + length)
      const matches = text.slice(start, end).match(this.#global)
      if (matches === null) return undefined
      if (end < text.length) matches.pop()
      if (matches.length === 0) {
        length *= 2
        continue
      }
      length = windowLength
      for (const match of matches) {
        all.push(match)
        start += match.length
      }
    }
    return all
  }

  #coverSlowly(text: string): string[] | undefined {
    return this.#guard(text, () => {
      const matches: string[] = []
      const sticky = this.#sticky
      let start = 0
      while (start < text.length) {
        sticky.lastIndex = start
        if (!sticky.test(text) || sticky.lastIndex === start) return undefined
        matches.push(text.slice(start, sticky.lastIndex))
        start = sticky.lastIndex
      }
      return matches
    })
  }

  /** Runs `work` under a watchdog unless the pattern and the length of the text make it needless. */
  #guard<T>(text: string, work: () => T): T {
    if (this.#trusted || (!this.#nested && text.length <= shortText)) return work()
    const limit = patternTimeLimitMs + text.length / 1000
    try {
      return runWithTimeLimit(work, limit)
    } catch (error) {
      if (!isTimeout(error)) throw error
      throw new TokenizerError(`the pattern ${JSON.stringify(this.source)} ran longer than ${Math.round(limit)} ms on a text of ` +
        `${text.length} characters and was stopped; use a tokenizer whose pattern does not backtrack so much, or shorter texts`)
    }
  }
}

const watched: { work: () => unknown } = { work: () => undefined }
// Made when first needed: a context takes longer than most of an import.
let runWatched: ((options: vm.RunningScriptOptions) => unknown) | undefined

function makeWatchdog(): (options: vm.RunningScriptOptions) => unknown {
  const context = vm.createContext(watched)
  const script = new vm.Script('work()')
  return (options) => script.runInContext(context, options) as unknown
}

/** Runs synchronous work that V8 stops after `limitMs`, regular expressions included. */
export function runWithTimeLimit<T>(work: () => T, limitMs: number): T {
  runWatched ??= makeWatchdog()
  watched.work = work
  try {
    return runWatched({ timeout: Math.ceil(limitMs) }) as T
  } finally {
    watched.work = () => undefined
  }
}

/** The error may come from another realm, so its class says nothing. */
export function isTimeout(error: unknown): boolean {
  return typeof error === 'object' && error !== null && 'code' in error && error.code === 'ERR_SCRIPT_EXECUTION_TIMEOUT'
}
