import { describe, type Fields } from '../fields.ts'

/** Ids above this are taken for damage: no published vocabulary comes near. */
const largestId = 1 << 24

/** Entries that are read between two chances for other work to have its turn. */
export const entriesPerTurn = 1024

/** The entries of a vocabulary both ways. */
export interface Vocabulary { ids: Map<string, number>, tokens: (string | undefined)[] }

/** Reads `vocab`, an object from token to id. */
export function* readVocabulary(fields: Fields): Generator<undefined, Vocabulary> {
  const ids = new Map<string, number>()
  const tokens: (string | undefined)[] = []
  const source = fields.object('vocab').value
  for (const token of Object.keys(source)) {
    const id = source[token]
    if (typeof id !== 'number' || !Number.isInteger(id) || id < 0 || id > largestId) {
      fields.fail('vocab', `the id of ${JSON.stringify(token)} must be a whole number from 0 to ${largestId}, got ${describe(id)}`)
    }
    const other = tokens[id]
    if (other !== undefined) {
      fields.fail('vocab', `${JSON.stringify(other)} and ${JSON.stringify(token)} have the same id ${id}; ids must be unique`)
    }
    ids.set(token, id)
    tokens[id] = token
    if (ids.size % entriesPerTurn === 0) yield
  }
  return { ids, tokens }
}

/** The id of the unknown token, if one is named. */
export function readUnknown(fields: Fields, ids: ReadonlyMap<string, number>): number | undefined {
  const token = fields.optionalString('unk_token')
  return token === undefined ? undefined : ids.get(token)
}
