import { TokenizerError } from '../errors.ts'
import { isWordAt, isWordFrom, skipSpaces, skipSpacesBack } from './characters.ts'
import { Fields } from './fields.ts'
import type { Normalizer } from './normalizers.ts'

/** A token that is cut out of the text before anything else. */
export interface AddedToken {
  id: number
  content: string
  /** Only between characters that are not part of a word. */
  singleWord: boolean
  /** Takes the white space on its left. */
  lstrip: boolean
  /** Takes the white space on its right. */
  rstrip: boolean
  /** Is looked for after normalisation, in its normalised form. */
  normalized: boolean
  /** A control token: left out by `skipSpecialTokens`, and not recognised with `allowSpecial: false`. */
  special: boolean
}

/** How a token to be added behaves; what is left out is false, except `normalized`, which defaults to not special. */
export type AddedTokenOptions = Partial<Omit<AddedToken, 'id' | 'content'>>

/** A stretch of text, or a token found in it. */
export type Section = { text: string, atStart: boolean } | { id: number }

/** The model's vocabulary, as far as added tokens must know it. */
interface ModelVocabulary {
  readonly size: number
  tokenToId(token: string): number | undefined
}

/** The tokens beside the model's vocabulary and how they are found in a text. */
export class AddedVocabulary {
  readonly #model: ModelVocabulary
  readonly #normalizer: Normalizer | undefined
  readonly #byContent = new Map<string, AddedToken>()
  readonly #byId = new Map<number, AddedToken>()
  #nextId: number
  #raw: Matcher | undefined
  #normalized: Matcher | undefined
  #special: Matcher | undefined
  #stale = true

  constructor(model: ModelVocabulary, normalizer: Normalizer | undefined) {
    this.#model = model
    this.#normalizer = normalizer
    this.#nextId = model.size
  }

  /** Takes the `added_tokens` of a tokenizer.json. Their ids must be those that Hugging Face's numbering would give. */
  load(list: readonly Fields[]): void {
    const tokens = list.map((fields) => ({ fields, token: readAddedToken(fields) })).sort((a, b) => a.token.id - b.token.id)
    for (const { fields, token } of tokens) {
      if (token.content === '') fields.fail('content', 'is empty; an added token must have text')
      const other = this.#byId.get(token.id)
      if (other) fields.fail('id', `${JSON.stringify(other.content)} and ${JSON.stringify(token.content)} have the same id ${token.id}`)
      if (this.#byContent.has(token.content)) fields.fail('content', `${JSON.stringify(token.content)} is there twice`)
      const expected = this.#model.tokenToId(token.content) ?? this.#nextId
      if (token.id !== expected) {
        fields.fail('id', `${JSON.stringify(token.content)} has id ${token.id}, but its number must be ${expected}: ` +
          'a token of the model keeps its id, and new ones follow the vocabulary without holes')
      }
      this.#insert(token)
    }
  }

  #insert(token: AddedToken): void {
    this.#byContent.set(token.content, token)
    this.#byId.set(token.id, token)
    if (token.id >= this.#nextId) this.#nextId = token.id + 1
    this.#stale = true
  }

  /** Adds a token, or changes the options of one that is there. Returns whether the vocabulary grew. */
  add(content: string, options: AddedTokenOptions): boolean {
    if (content === '') throw new TokenizerError('an added token must have text; got an empty string')
    const special = options.special ?? false
    const id = this.#byContent.get(content)?.id ?? this.#model.tokenToId(content)
    this.#insert({
      id: id ?? this.#nextId,
      content,
      singleWord: options.singleWord ?? false,
      lstrip: options.lstrip ?? false,
      rstrip: options.rstrip ?? false,
      normalized: options.normalized ?? !special,
      special,
    })
    return id === undefined
  }

  get(content: string): AddedToken | undefined {
    return this.#byContent.get(content)
  }

  byId(id: number): AddedToken | undefined {
    return this.#byId.get(id)
  }

  /** All of them, by id. */
  list(): AddedToken[] {
    return [...this.#byId.values()].sort((a, b) => a.id - b.id)
  }

  /** How many are not in the model's vocabulary. */
  get extra(): number {
    let count = 0
    for (const content of this.#byContent.keys()) if (this.#model.tokenToId(content) === undefined) count++
    return count
  }

  #refresh(): void {
    if (!this.#stale) return
    const tokens = [...this.#byContent.values()].sort((a, b) => Number(b.special) - Number(a.special) || a.id - b.id)
    this.#raw = Matcher.of(tokens.filter((token) => !token.normalized), (content) => content)
    this.#normalized = Matcher.of(tokens.filter((token) => token.normalized), this.#normalizer ?? ((content) => content))
    this.#special = Matcher.of(tokens.filter((token) => token.special), (content) => content)
    this.#stale = false
  }

  /** Where special tokens are spelled in a text. */
  specialStarts(text: string): number[] {
    this.#refresh()
    return this.#special?.starts(text) ?? []
  }

  /** Cuts a text at its added tokens and normalises what lies between them. Special tokens that start at `plainAt` are mere text. */
  sections(text: string, allowSpecial: boolean, plainAt: ReadonlySet<number> = nowhere): Section[] {
    this.#refresh()
    const raw = this.#raw?.find(text, allowSpecial, plainAt) ?? [{ start: 0, end: text.length, id: undefined }]
    if (!this.#normalizer && !this.#normalized) {
      return raw.map(({ start, end, id }) => id === undefined
        ? { text: start === 0 && end === text.length ? text : text.slice(start, end), atStart: start === 0 }
        : { id })
    }
    const out: Section[] = []
    for (const { start, end, id } of raw) {
      if (id !== undefined) {
        out.push({ id })
        continue
      }
      const slice = text.slice(start, end)
      const piece = this.#normalizer ? this.#normalizer(slice) : slice
      if (!this.#normalized) {
        out.push({ text: piece, atStart: start === 0 })
        continue
      }
      // Normalising moves characters, so in a stretch with plain places no special token is looked for.
      const allowed = allowSpecial && !(plainAt.size > 0 && [...plainAt].some((at) => at >= start && at < end))
      for (const found of this.#normalized.find(piece, allowed, nowhere)) {
        out.push(found.id === undefined
          ? { text: piece.slice(found.start, found.end), atStart: start === 0 && found.start === 0 }
          : { id: found.id })
      }
    }
    return out
  }
}

const nowhere: ReadonlySet<number> = new Set()

interface Found {
  start: number
  end: number
  id: number | undefined
}

/** Finds tokens, leftmost first and the longest of those that start at the same place. */
class Matcher {
  readonly #pattern: RegExp
  readonly #tokens: ReadonlyMap<string, AddedToken>

  private constructor(tokens: ReadonlyMap<string, AddedToken>) {
    this.#tokens = tokens
    const longestFirst = [...tokens.keys()].sort((a, b) => b.length - a.length)
    this.#pattern = new RegExp(longestFirst.map((content) => content.replace(/[\\^$.*+?()[\]{}|/]/g, String.raw`\$&`)).join('|'), 'g')
  }

  static of(tokens: readonly AddedToken[], normalize: (content: string) => string): Matcher | undefined {
    const byText = new Map<string, AddedToken>()
    for (const token of tokens) {
      const text = normalize(token.content)
      if (text !== '' && !byText.has(text)) byText.set(text, token)
    }
    return byText.size > 0 ? new Matcher(byText) : undefined
  }

  starts(text: string): number[] {
    return Array.from(text.matchAll(this.#pattern), (match) => match.index)
  }

  find(text: string, allowSpecial: boolean, plainAt: ReadonlySet<number>): Found[] {
    const out: Found[] = []
    let done = 0
    for (const match of text.matchAll(this.#pattern)) {
      const token = this.#tokens.get(match[0])!
      if (token.special && (!allowSpecial || plainAt.has(match.index))) continue
      let start = match.index
      let end = start + match[0].length
      if (token.singleWord && (isWordAt(text, start) || isWordFrom(text, end))) continue
      if (token.lstrip) start = Math.max(skipSpacesBack(text, start), done)
      if (token.rstrip) end = skipSpaces(text, end)
      if (done < start) out.push({ start: done, end: start, id: undefined })
      out.push({ start, end, id: token.id })
      done = end
    }
    if (done < text.length) out.push({ start: done, end: text.length, id: undefined })
    return out
  }
}

function readAddedToken(fields: Fields): AddedToken {
  const special = fields.boolean('special', false)
  return {
    id: fields.count('id'),
    content: fields.string('content'),
    singleWord: fields.boolean('single_word', false),
    lstrip: fields.boolean('lstrip', false),
    rstrip: fields.boolean('rstrip', false),
    normalized: fields.boolean('normalized', !special),
    special,
  }
}
