import { ConfigError } from '../../errors.ts'
import type { Tokenizer } from '../../tokenizers/index.ts'

/** A tokenizer and the rows of its model's embedding. */
export interface Vocabulary { tokenizer: Tokenizer; rows: number; where: string }

/** The first token that the two write with different ids, in words. */
function difference(a: Tokenizer, b: Tokenizer): string | undefined {
  const [first, second] = [a.vocab(), b.vocab()]
  for (const [token, id] of first) {
    const other = second.get(token)
    if (other !== id) return `${JSON.stringify(token)} is ${id} in one and ${other ?? 'missing'} in the other`
  }
  const extra = [...second.keys()].find((token) => !first.has(token))
  return extra === undefined ? undefined : `only one has ${JSON.stringify(extra)}`
}

/**
 * How many rows of the output layers mean the same token in both models. Rows that no token names are padding, and their number may differ. Throws
 * ConfigError naming the first token that the tokenizers do not share.
 */
export function sharedVocabulary(student: Vocabulary, teacher: Vocabulary): number {
  const found = difference(student.tokenizer, teacher.tokenizer)
  if (found !== undefined) {
    throw new ConfigError(`teacher: ${teacher.where} and ${student.where} have different tokenizers: ${found}. Distil between models of one tokenizer, match their sorted distributions with objective 'uld', or let the teacher write text with \`anneal teach --write sequences\` and fine-tune on it`)
  }
  return Math.min(student.rows, teacher.rows)
}
