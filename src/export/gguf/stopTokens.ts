import { TokenizerError } from '../../errors.ts'
import type { CausalLanguageModel } from '../../models/index.ts'
import type { Tokenizer } from '../../tokenizers/index.ts'

/** What an assistant says in the probe; no template has it. */
const probe = 'annealprobe'

/** The special token that the chat template writes after what the assistant says; undefined where there is none. */
export function turnEnd(tokenizer: Tokenizer): string | undefined {
  if (tokenizer.chatTemplate === undefined) return undefined
  let rendered: string
  try {
    rendered = tokenizer.applyChatTemplate([{ role: 'user', content: 'a' }, { role: 'assistant', content: probe }], { tokenize: false })
  } catch (error) {
    // A template may refuse such a conversation; then it tells nothing.
    if (error instanceof TokenizerError) return undefined
    throw error
  }
  const at = rendered.lastIndexOf(probe)
  if (at < 0) return undefined
  const after = rendered.slice(at + probe.length)
  const first = tokenizer.specialStarts(after)[0]
  if (first === undefined) return undefined
  return tokenizer.specialTokens.filter((token) => after.startsWith(token, first)).sort((a, b) => b.length - a.length)[0]
}

export interface StopTokens {
  readonly eos: number | undefined
  /** The end of a turn, where it is another token. */
  readonly eot: number | undefined
  readonly eom: number | undefined
}

/** eos_token_id of generation_config.json. */
function generationStops({ generationConfig }: CausalLanguageModel): number[] {
  return [generationConfig?.eos_token_id ?? []].flat().filter((id): id is number => typeof id === 'number')
}

/**
 * Every token that ends an answer: the tokenizer's and the model's EOS, those of generation_config.json, and the one the chat template ends a turn
 * with. `appended` is what the tokenizer puts behind a text, which llama.cpp takes to be eos. llama.cpp stops at eos, eot and eom; more than three are named in `warnings`.
 */
export function stopTokens(model: CausalLanguageModel, tokenizer: Tokenizer, appended: number | undefined, warnings: string[]): StopTokens {
  const end = turnEnd(tokenizer)
  const ids = [appended, tokenizer.eosTokenId, end === undefined ? undefined : tokenizer.tokenToId(end), ...generationStops(model), ...model.config.eosTokenIds]
  const [eos, eot, eom, ...more] = [...new Set(ids.filter((id) => id !== undefined))]
  if (eos === undefined) warnings.push('the model has no end-of-sequence token: llama.cpp will not know when to stop; set eosToken in the tokenizer')
  if (more.length > 0) warnings.push(`GGUF has room for three stop tokens; left out: ${more.map((id) => JSON.stringify(tokenizer.idToToken(id) ?? id)).join(', ')}`)
  return { eos, eot, eom }
}
