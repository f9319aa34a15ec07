import type { AddedToken } from './addedTokens.ts'

/** Writes a tokenizer.json with another list of added tokens, in the layout of Hugging Face's serializer. */
export function formatTokenizerJSON(source: string, added: readonly AddedToken[]): string {
  const parsed = JSON.parse(source) as Record<string, unknown>
  return stringifyTokenizer({ ...parsed, added_tokens: added.map(toJSON) })
}

function toJSON(token: AddedToken): Record<string, unknown> {
  const { id, content, singleWord, lstrip, rstrip, normalized, special } = token
  return { id, content, single_word: singleWord, lstrip, rstrip, normalized, special }
}

/**
 * The parts of a tokenizer.json as text: two blanks of indentation, the vocabulary by id and Unigram scores with a decimal
 * point, as Hugging Face writes them.
 */
export function stringifyTokenizer(parts: Record<string, unknown>): string {
  const model = parts['model'] as Record<string, unknown>
  const lines = Object.entries(parts).map(([key, value]) => {
    if (key !== 'model') return `  ${JSON.stringify(key)}: ${indented(value)}`
    const fields = Object.entries(model).map(([name, field]) => `    ${JSON.stringify(name)}: ${name === 'vocab' ? vocabulary(field) : indented(field, 2)}`)
    return `  "model": {\n${fields.join(',\n')}\n  }`
  })
  return `{\n${lines.join(',\n')}\n}`
}

function indented(value: unknown, levels = 1): string {
  return JSON.stringify(value, undefined, 2).replaceAll('\n', `\n${'  '.repeat(levels)}`)
}

/** A model's `vocab`: an object or a map from token to id, or Unigram's list of pairs. */
function vocabulary(vocab: unknown): string {
  if (Array.isArray(vocab)) {
    const pairs = (vocab as [string, number][]).map(([token, score]) =>
      `      [\n        ${JSON.stringify(token)},\n        ${Number.isInteger(score) ? score.toFixed(1) : score}\n      ]`)
    return pairs.length > 0 ? `[\n${pairs.join(',\n')}\n    ]` : '[]'
  }
  const entries: [string, number][] = vocab instanceof Map
    ? [...(vocab as Map<string, number>)]
    : Object.entries(vocab as Record<string, number>)
  entries.sort((a, b) => a[1] - b[1])
  return entries.length > 0
    ? `{\n${entries.map(([token, id]) => `      ${JSON.stringify(token)}: ${id}`).join(',\n')}\n    }`
    : '{}'
}
