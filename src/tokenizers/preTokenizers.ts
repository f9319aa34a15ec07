import { TokenizerError } from '../errors.ts'
import { numeric, punctuation, whitespace } from './characters.ts'
import { toByteChars } from './byteLevel.ts'
import { Fields } from './fields.ts'
import { Pattern, type PatternSpan } from './pattern.ts'
import { scriptOf } from './scripts.ts'

/** What a split does with the text it matched. */
export type SplitBehavior = 'Removed' | 'Isolated' | 'MergedWithPrevious' | 'MergedWithNext' | 'Contiguous'
const behaviors: readonly SplitBehavior[] = ['Removed', 'Isolated', 'MergedWithPrevious', 'MergedWithNext', 'Contiguous']

/** Cuts texts into words. `atStart` tells whether the first one begins the whole input. */
export type PreTokenizer = (texts: readonly string[], atStart: boolean) => readonly string[]

/** A pre-tokenizer split in two, so that byte-level models can work on raw text and skip the mapping of bytes to characters. */
export interface PreTokenizerPlan {
  /** Cuts the text; undefined if nothing is cut. */
  split: PreTokenizer | undefined
  /** The words are to be read as UTF-8 bytes. */
  byteLevel: boolean
}

/** Builds the pre-tokenizer of a tokenizer.json. */
export function createPreTokenizer(value: unknown, path: string): PreTokenizerPlan {
  if (value === null || value === undefined) return { split: undefined, byteLevel: false }
  const parts = flatten(new Fields(value, path), 0)
  const last = parts.at(-1)
  const byteLevel = last?.string('type') === 'ByteLevel' && !parts.slice(0, -1).some((part) => part.string('type') === 'ByteLevel')
  const steps = parts.map((part, index) => step(part, byteLevel && index === parts.length - 1)).filter((each) => each !== undefined)
  if (steps.length === 0) return { split: undefined, byteLevel }
  if (steps.length === 1) return { split: steps[0], byteLevel }
  return { split: (texts, atStart) => steps.reduce<readonly string[]>((current, each) => each(current, atStart), texts), byteLevel }
}

function flatten(fields: Fields, depth: number): Fields[] {
  if (depth > 20) throw new TokenizerError(`${fields.path}: sequences nested deeper than 20`)
  if (fields.string('type') !== 'Sequence') return [fields]
  return fields.objects('pretokenizers').flatMap((part) => flatten(part, depth + 1))
}

function step(fields: Fields, rawBytes: boolean): PreTokenizer | undefined {
  const type = fields.string('type')
  switch (type) {
    case 'ByteLevel': return byteLevel(fields, rawBytes)
    case 'Split': return split(fields)
    case 'Metaspace': return metaspace(fields)
    case 'Whitespace': return each((text) => text.match(words) ?? [])
    case 'WhitespaceSplit': return each((text) => cut(text, matchSpans(text, whitespace), 'Removed'))
    case 'BertPreTokenizer': return each((text) => cut(text, matchSpans(text, whitespace), 'Removed')
      .flatMap((word) => cut(word, matchSpans(word, punctuation), 'Isolated')))
    case 'Punctuation': {
      const behavior = fields.oneOf('behavior', behaviors, 'Isolated')
      return each((text) => cut(text, matchSpans(text, punctuation), behavior))
    }
    case 'Digits': {
      const behavior = fields.boolean('individual_digits', false) ? 'Isolated' : 'Contiguous'
      return each((text) => cut(text, matchSpans(text, numeric), behavior))
    }
    case 'CharDelimiterSplit': {
      const delimiter = fields.string('delimiter')
      return each((text) => text.split(delimiter))
    }
    case 'FixedLength': {
      const length = fields.count('length', 5)
      if (length === 0) fields.fail('length', 'must be at least 1')
      return each((text) => {
        const chars = Array.from(text)
        return Array.from({ length: Math.ceil(chars.length / length) }, (_, i) => chars.slice(i * length, (i + 1) * length).join(''))
      })
    }
    case 'UnicodeScripts': return each(splitByScript)
    default: return fields.fail('type', `unknown pre-tokenizer ${JSON.stringify(type)}`)
  }
}

const words = /[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]+|[^\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}\p{White_Space}]+/gu

function each(work: (text: string) => readonly string[]): PreTokenizer {
  return (texts) => {
    if (texts.length === 1) {
      const pieces = work(texts[0]!)
      return pieces.includes('') ? pieces.filter((piece) => piece !== '') : pieces
    }
    const out: string[] = []
    for (const text of texts) for (const piece of work(text)) if (piece !== '') out.push(piece)
    return out
  }
}

function byteLevel(fields: Fields, rawBytes: boolean): PreTokenizer | undefined {
  const prefixSpace = fields.boolean('add_prefix_space', true)
  const useRegex = fields.boolean('use_regex', true)
  if (!prefixSpace && !useRegex && rawBytes) return undefined
  const finish = rawBytes ? (piece: string) => piece : toByteChars
  return each((text) => {
    const padded = prefixSpace && !text.startsWith(' ') ? ` ${text}` : text
    const pieces = useRegex ? isolated(padded, Pattern.gpt2) : [padded]
    return rawBytes ? pieces : pieces.map(finish)
  })
}

function isolated(text: string, pattern: Pattern): readonly string[] {
  return pattern.cover(text) ?? cut(text, pattern.spans(text), 'Isolated')
}

function split(fields: Fields): PreTokenizer {
  const where = fields.object('pattern')
  const pattern = where.has('String')
    ? Pattern.literal(where.string('String'), where.path)
    : new Pattern(where.string('Regex'), where.path)
  const behavior = fields.oneOf('behavior', behaviors)
  const invert = fields.boolean('invert', false)
  if (behavior === 'Isolated' || (behavior === 'Removed' && invert)) {
    return each((text) => pattern.cover(text) ?? cut(text, inverted(pattern.spans(text), invert), behavior))
  }
  return each((text) => cut(text, inverted(pattern.spans(text), invert), behavior))
}

function inverted(spans: PatternSpan[], invert: boolean): PatternSpan[] {
  return invert ? spans.map((span) => ({ ...span, match: !span.match })) : spans
}

function metaspace(fields: Fields): PreTokenizer {
  const mark = fields.string('replacement', '\u2581')
  if (Array.from(mark).length !== 1) fields.fail('replacement', `must be one character, got ${JSON.stringify(mark)}`)
  const legacy = fields.boolean('add_prefix_space', true) ? 'always' : 'never'
  const scheme = fields.oneOf('prepend_scheme', ['always', 'first', 'never'], legacy)
  const cutWords = fields.boolean('split', true)
  return (texts, atStart) => {
    const out: string[] = []
    texts.forEach((text, index) => {
      const marked = text.replaceAll(' ', mark)
      const prepend = scheme === 'always' || (scheme === 'first' && atStart && index === 0)
      const whole = prepend && !marked.startsWith(mark) ? mark + marked : marked
      if (cutWords) splitBefore(whole, mark, out)
      else if (whole !== '') out.push(whole)
    })
    return out
  }
}

/** Cuts in front of each mark. */
function splitBefore(text: string, mark: string, out: string[]): void {
  let start = 0
  while (start < text.length) {
    const next = text.indexOf(mark, start + 1)
    const end = next < 0 ? text.length : next
    out.push(text.slice(start, end))
    start = end
  }
}

function matchSpans(text: string, pattern: RegExp): PatternSpan[] {
  const spans: PatternSpan[] = []
  let end = 0
  for (const match of text.matchAll(pattern)) {
    if (match.index > end) spans.push({ start: end, end: match.index, match: false })
    end = match.index + match[0].length
    spans.push({ start: match.index, end, match: true })
  }
  if (end < text.length) spans.push({ start: end, end: text.length, match: false })
  return spans
}

/** Cuts a text at its spans, as the behaviour says. */
export function cut(text: string, spans: readonly PatternSpan[], behavior: SplitBehavior): string[] {
  const slice = (span: { start: number, end: number }) => text.slice(span.start, span.end)
  switch (behavior) {
    case 'Removed': return spans.filter((span) => !span.match).map(slice)
    case 'Isolated': return spans.map(slice)
    case 'Contiguous': return joined(spans, (previous, span) => previous.match === span.match).map(slice)
    case 'MergedWithPrevious': return joined(spans, (previous, span) => span.match && !previous.match).map(slice)
    case 'MergedWithNext': return joined(spans.toReversed(), (next, span) => span.match && !next.match).toReversed().map(slice)
  }
}

/** Joins each span to the one before it where `belongs` says so; `belongs` sees the kind of the last span joined. */
function joined(spans: readonly PatternSpan[], belongs: (previous: PatternSpan, span: PatternSpan) => boolean): PatternSpan[] {
  const out: PatternSpan[] = []
  let previous: PatternSpan | undefined
  for (const span of spans) {
    const last = out.at(-1)
    if (last && previous && belongs(previous, span)) {
      last.start = Math.min(last.start, span.start)
      last.end = Math.max(last.end, span.end)
    } else {
      out.push({ ...span })
    }
    previous = span
  }
  return out
}

/** Cuts where the script changes. Blanks before the first script are dropped, as Hugging Face's does. */
function splitByScript(text: string): string[] {
  const out: string[] = []
  let start: number | undefined
  let at = 0
  let last: string | undefined
  for (const char of text) {
    const script = scriptOf(char)
    if (script !== 'Any' && script !== last) {
      if (start !== undefined) out.push(text.slice(start, at))
      start = at
      last = script
    }
    at += char.length
  }
  if (start !== undefined) out.push(text.slice(start))
  return out
}
