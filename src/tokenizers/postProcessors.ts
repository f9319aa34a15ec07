import { TokenizerError } from '../errors.ts'
import { describe, Fields } from './fields.ts'

/** A stretch of ids. Type ids tell the two texts of a pair apart. */
export interface Sequence {
  ids: readonly number[]
  typeId: number
}

/** Adds the special tokens around one text or a pair. */
export type PostProcessor = (first: Sequence, second: Sequence | undefined) => Sequence[]

/** Builds the post-processor of a tokenizer.json; undefined where nothing is added. */
export function createPostProcessor(value: unknown, path: string, size: number): PostProcessor | undefined {
  if (value === null || value === undefined) return undefined
  return build(new Fields(value, path), size, 0)
}

function build(fields: Fields, size: number, depth: number): PostProcessor | undefined {
  if (depth > 20) throw new TokenizerError(`${fields.path}: sequences nested deeper than 20`)
  const type = fields.string('type')
  switch (type) {
    case 'ByteLevel': return undefined
    case 'TemplateProcessing': return template(fields, size)
    case 'BertProcessing': return bert(fields)
    case 'RobertaProcessing': return roberta(fields)
    case 'Sequence': {
      const parts = fields.objects('processors').map((part) => build(part, size, depth + 1)).filter((part) => part !== undefined)
      if (parts.length > 1) fields.fail('processors', `${parts.length} of them add tokens; at most one may`)
      return parts[0]
    }
    default: return fields.fail('type', `unknown post-processor ${JSON.stringify(type)}`)
  }
}

function namedToken(fields: Fields, key: string): number {
  const pair = fields.array(key)
  const id = pair[1]
  if (typeof pair[0] !== 'string' || typeof id !== 'number' || !Number.isSafeInteger(id) || id < 0) {
    fields.fail(key, `expected a token and its id, got ${describe(pair)}`)
  }
  return id
}

function bert(fields: Fields): PostProcessor {
  const cls = namedToken(fields, 'cls')
  const sep = namedToken(fields, 'sep')
  return (first, second) => {
    const out: Sequence[] = [{ ids: [cls], typeId: 0 }, { ids: first.ids, typeId: 0 }, { ids: [sep], typeId: 0 }]
    if (second) out.push({ ids: second.ids, typeId: 1 }, { ids: [sep], typeId: 1 })
    return out
  }
}

function roberta(fields: Fields): PostProcessor {
  const cls = namedToken(fields, 'cls')
  const sep = namedToken(fields, 'sep')
  return (first, second) => {
    const out: Sequence[] = [{ ids: [cls], typeId: 0 }, { ids: first.ids, typeId: 0 }, { ids: [sep], typeId: 0 }]
    if (second) out.push({ ids: [sep], typeId: 0 }, { ids: second.ids, typeId: 0 }, { ids: [sep], typeId: 0 })
    return out
  }
}

type Piece = { sequence: 'A' | 'B', typeId: number } | { ids: readonly number[], typeId: number }

function template(fields: Fields, size: number): PostProcessor {
  const specials = new Map<string, readonly number[]>()
  const table = fields.has('special_tokens') ? fields.object('special_tokens') : undefined
  for (const name of Object.keys(table?.value ?? {})) {
    const entry = table!.object(name)
    const ids = entry.array('ids')
    const valid = ids.filter((id): id is number => typeof id === 'number' && Number.isSafeInteger(id) && id >= 0 && id < size)
    if (valid.length !== ids.length) entry.fail('ids', `expected ids of the vocabulary of ${size}, got ${JSON.stringify(ids)}`)
    specials.set(name, valid)
  }
  const single = pieces(fields, 'single', specials)
  const pair = fields.has('pair') ? pieces(fields, 'pair', specials) : undefined
  return (first, second) => {
    const used = second && pair ? pair : single
    return used.map((piece) => {
      if ('ids' in piece) return piece
      return { ids: (piece.sequence === 'A' ? first : second)?.ids ?? [], typeId: piece.typeId }
    })
  }
}

function pieces(fields: Fields, key: 'single' | 'pair', specials: ReadonlyMap<string, readonly number[]>): Piece[] {
  return fields.objects(key).map((entry): Piece => {
    if (entry.has('Sequence')) {
      const sequence = entry.object('Sequence')
      return { sequence: sequence.oneOf('id', ['A', 'B']), typeId: sequence.count('type_id', 0) }
    }
    const special = entry.object('SpecialToken')
    const name = special.string('id')
    const ids = specials.get(name)
    if (!ids) return special.fail('id', `${JSON.stringify(name)} is not among the special_tokens of the template`)
    return { ids, typeId: special.count('type_id', 0) }
  })
}
