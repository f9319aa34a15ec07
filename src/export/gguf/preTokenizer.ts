import { ConfigError } from '../../errors.ts'

type Part = Readonly<Record<string, unknown>>

const isPart = (value: unknown): value is Part => typeof value === 'object' && value !== null && !Array.isArray(value)

/** The steps of a tokenizer.json's pre_tokenizer, sequences taken apart. */
export function preTokenizerParts(value: unknown): Part[] {
  if (!isPart(value)) return []
  return value.type === 'Sequence' && Array.isArray(value.pretokenizers) ? value.pretokenizers.flatMap(preTokenizerParts) : [value]
}

const contractions = String.raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)`
const rest = String.raw` ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
const upper = String.raw`[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`
const lower = String.raw`[\p{Ll}\p{Lm}\p{Lo}\p{M}]`

/** Split patterns and llama.cpp's name of the pre-tokenizer that has them. */
const patterns: Readonly<Record<string, string>> = {
  [String.raw`${contractions}|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|${rest}`]: 'llama-bpe',
  [String.raw`${contractions}|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|${rest}`]: 'qwen2',
  [String.raw`${upper}*${lower}+|${upper}+${lower}*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`]: 'tekken',
  [String.raw`${upper}*${lower}+${contractions}?|${upper}+${lower}*${contractions}?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`]: 'gpt-4o',
}

const regexOf = (part: Part | undefined): string | undefined =>
  part?.type === 'Split' && isPart(part.pattern) && typeof part.pattern.Regex === 'string' && part.behavior !== 'Removed' ? part.pattern.Regex : undefined

/** llama.cpp's name for how a byte-level tokenizer cuts text into words, by its pattern; undefined where llama.cpp's has none such. */
export function detectPreTokenizer(preTokenizer: unknown): string | undefined {
  const parts = preTokenizerParts(preTokenizer)
  const bytes = parts.at(-1)
  if (bytes?.type !== 'ByteLevel' || bytes.add_prefix_space === true) return undefined
  const before = parts.slice(0, -1)
  if (before.length > 1) return undefined
  const usesRegex = bytes.use_regex !== false
  if (before.length === 0) return usesRegex ? 'gpt-2' : undefined
  if (before[0]!.type === 'Digits' && before[0]!.individual_digits === true && usesRegex) return 'smollm'
  const regex = regexOf(before[0])
  return regex === undefined || usesRegex ? undefined : patterns[regex]
}

/** As detectPreTokenizer(); `forced` names one to write instead. Throws ConfigError for an unknown pattern. */
export function preTokenizerName(preTokenizer: unknown, forced: string | undefined): string {
  const found = forced ?? detectPreTokenizer(preTokenizer)
  if (found !== undefined) return found
  throw new ConfigError(`tokenizer.json: pre_tokenizer: expected a pattern that llama.cpp has (gpt-2, smollm, ${Object.values(patterns).join(', ')}), got ${JSON.stringify(preTokenizer).slice(0, 200)}; `
    + 'if llama.cpp knows it by a name, pass that as preTokenizer (--pre-tokenizer)')
}

/** The pre_tokenizer of tokenizer.json that a name stands for; undefined for one not known here. */
export function preTokenizerNamed(name: string): object | undefined {
  const byteLevel = (useRegex: boolean) => ({ type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: useRegex })
  if (name === 'gpt-2') return byteLevel(true)
  if (name === 'smollm') return { type: 'Sequence', pretokenizers: [{ type: 'Digits', individual_digits: true }, byteLevel(true)] }
  const regex = Object.keys(patterns).find((pattern) => patterns[pattern] === name)
  if (regex === undefined) return undefined
  return { type: 'Sequence', pretokenizers: [{ type: 'Split', pattern: { Regex: regex }, behavior: 'Isolated', invert: false }, byteLevel(false)] }
}
