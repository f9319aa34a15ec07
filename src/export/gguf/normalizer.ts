import { ConfigError } from '../../errors.ts'

type Part = Readonly<Record<string, unknown>>
const isPart = (value: unknown): value is Part => typeof value === 'object' && value !== null && !Array.isArray(value)

function parts(value: unknown): Part[] {
  if (!isPart(value)) return []
  return value.type === 'Sequence' && Array.isArray(value.normalizers) ? value.normalizers.flatMap(parts) : [value]
}

/** What a tokenizer does to text before it cuts it, as far as llama.cpp can do it too. */
export interface NormalizerFacts {
  /** A blank in front of the text. */
  readonly prepends: boolean
  /** Runs of blanks become one. */
  readonly removesExtraBlanks: boolean
  /** SentencePiece's table of replacements. */
  readonly precompiled: Uint8Array | undefined
}

const patternOf = (part: Part): string | undefined => {
  const { pattern } = part
  if (!isPart(pattern)) return undefined
  return typeof pattern.String === 'string' ? pattern.String : typeof pattern.Regex === 'string' ? pattern.Regex : undefined
}

const mark = '▁'

/** Reads the normalizer of a tokenizer.json. Unicode normal forms are named in `warnings`; what changes more is refused. */
export function readNormalizer(normalizer: unknown, model: 'gpt2' | 'llama' | 't5', warnings: string[]): NormalizerFacts {
  let [prepends, removesExtraBlanks] = [false, false]
  let precompiled: Uint8Array | undefined
  for (const part of parts(normalizer)) {
    const pattern = patternOf(part)
    if (part.type === 'NFC' || part.type === 'NFKC') {
      // NFC changes nothing in text as it is usually written; converters for llama.cpp leave it out silently.
      if (part.type === 'NFKC') warnings.push('the tokenizer brings text into the form NFKC, llama.cpp does not: full-width and ligature characters are read otherwise there')
    } else if (model !== 'gpt2' && part.type === 'Prepend' && part.prepend === mark) prepends = true
    else if (model !== 'gpt2' && part.type === 'Replace' && pattern === ' ' && part.content === mark) continue
    else if (model === 't5' && part.type === 'Replace' && pattern === ' {2,}') removesExtraBlanks = true
    else if (model === 't5' && part.type === 'Precompiled' && typeof part.precompiled_charsmap === 'string') precompiled = Buffer.from(part.precompiled_charsmap, 'base64')
    else throw new ConfigError(`tokenizer.json: normalizer: expected what llama.cpp can do with this kind of tokenizer, got ${JSON.stringify(part).slice(0, 120)}; export a Hugging Face folder instead`)
  }
  return { prepends, removesExtraBlanks, precompiled }
}
