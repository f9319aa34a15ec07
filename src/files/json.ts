import { readFile, stat } from 'node:fs/promises'
import { FileFormatError } from '../errors.ts'
import { formatBytes, readError } from './filesystem.ts'

export type JsonValue = null | boolean | number | string | JsonValue[] | { [key: string]: JsonValue }

/** Where a text stops being JSON: offset in UTF-16 units, line and column from 1. */
export interface JsonProblem { message: string, offset: number, line: number, column: number }

export interface StrictJsonOptions {
  /** Refuse an object that names the same key twice. */
  uniqueKeys?: boolean
  /** Refuse numbers that are not whole, negative, or 2^53 and more (they would be rounded). */
  wholeNumbers?: boolean
}

const maxDepth = 512

class Problem extends Error {
  readonly offset: number
  constructor(message: string, offset: number) { super(message); this.offset = offset }
}

/** A strict JSON parser (RFC 8259) that knows where it stands; JSON.parse is faster but hides positions and duplicate keys. */
class Parser {
  readonly text: string
  readonly options: StrictJsonOptions
  at = 0

  constructor(text: string, options: StrictJsonOptions) { this.text = text; this.options = options }

  document(): JsonValue {
    const value = this.value(0)
    this.blank()
    if (this.at < this.text.length) throw new Problem(`expected the end of the file, got ${this.here()}`, this.at)
    return value
  }

  blank(): void {
    for (;;) {
      const c = this.text.charCodeAt(this.at)
      if (c !== 32 && c !== 10 && c !== 13 && c !== 9) return
      this.at++
    }
  }

  /** What stands at the current place, for messages. */
  here(): string {
    if (this.at >= this.text.length) return 'the end of the file'
    return JSON.stringify(String.fromCodePoint(this.text.codePointAt(this.at)!))
  }

  value(depth: number): JsonValue {
    this.blank()
    if (depth > maxDepth) throw new Problem(`nested deeper than ${maxDepth} levels`, this.at)
    const c = this.text[this.at]
    if (c === '{') return this.object(depth)
    if (c === '[') return this.array(depth)
    if (c === '"') return this.string()
    if (c === '-' || (c !== undefined && c >= '0' && c <= '9')) return this.number()
    for (const [word, value] of [['true', true], ['false', false], ['null', null]] as const) {
      if (this.text.startsWith(word, this.at)) { this.at += word.length; return value }
    }
    const bare = /(?:NaN|Infinity|None|True|False|undefined)/y
    bare.lastIndex = this.at
    const word = bare.exec(this.text)?.[0]
    throw new Problem(word ? `${word} is not JSON` : `expected a value, got ${this.here()}`, this.at)
  }

  object(depth: number): JsonValue {
    const result: { [key: string]: JsonValue } = {}
    this.at++
    this.blank()
    if (this.text[this.at] === '}') { this.at++; return result }
    for (;;) {
      this.blank()
      if (this.text[this.at] !== '"') throw new Problem(`expected a name in double quotes, got ${this.here()}`, this.at)
      const start = this.at
      const key = this.string()
      if (this.options.uniqueKeys && Object.hasOwn(result, key)) throw new Problem(`the name ${JSON.stringify(key)} stands twice`, start)
      this.blank()
      if (this.text[this.at] !== ':') throw new Problem(`expected ":" after a name, got ${this.here()}`, this.at)
      this.at++
      const value = this.value(depth + 1)
      if (key === '__proto__') Object.defineProperty(result, key, { value, writable: true, enumerable: true, configurable: true })
      else result[key] = value
      this.blank()
      const c = this.text[this.at]
      if (c !== ',' && c !== '}') throw new Problem(`expected "," or "}" after a value, got ${this.here()}`, this.at)
      this.at++
      if (c === '}') return result
    }
  }

  array(depth: number): JsonValue {
    const result: JsonValue[] = []
    this.at++
    this.blank()
    if (this.text[this.at] === ']') { this.at++; return result }
    for (;;) {
      result.push(this.value(depth + 1))
      this.blank()
      const c = this.text[this.at]
      if (c !== ',' && c !== ']') throw new Problem(`expected "," or "]" after a value, got ${this.here()}`, this.at)
      this.at++
      if (c === ']') return result
    }
  }

  string(): string {
    const start = this.at++
    for (;;) {
      const c = this.text.charCodeAt(this.at)
      if (c === 34) break
      if (this.at >= this.text.length) throw new Problem('a string is not closed', start)
      if (c < 32) throw new Problem(`a string may not contain the control character ${this.here()}; write it as an escape`, this.at)
      if (c === 92) {
        const escape = /\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})/y
        escape.lastIndex = this.at
        const found = escape.exec(this.text)
        if (!found) throw new Problem('unknown escape in a string', this.at)
        this.at += found[0].length
      } else this.at++
    }
    this.at++
    return JSON.parse(this.text.slice(start, this.at)) as string
  }

  number(): number {
    const start = this.at
    const form = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y
    form.lastIndex = start
    const found = form.exec(this.text)
    if (!found) throw new Problem('malformed number', start)
    this.at += found[0].length
    const next = this.text[this.at]
    if (next !== undefined && /[0-9.eE+-]/.test(next)) throw new Problem('malformed number', start)
    const value = Number(found[0])
    if (this.options.wholeNumbers && !(/^\d+$/.test(found[0]) && Number.isSafeInteger(value))) {
      throw new Problem(`expected a whole number from 0 to 2^53 - 1, got ${found[0].slice(0, 40)}`, start)
    }
    return value
  }
}

/** Line and column, from 1, of an offset. A line ends at LF, CRLF or CR. */
export function lineAndColumn(text: string, offset: number): { line: number, column: number } {
  let line = 1
  let start = 0
  for (const end of text.slice(0, offset).matchAll(/\r\n|\n|\r/g)) { line++; start = end.index + end[0].length }
  return { line, column: offset - start + 1 }
}

/** Why and where `text` is not JSON; undefined when it is. */
export function findJsonProblem(text: string, options: StrictJsonOptions = {}): JsonProblem | undefined {
  try {
    new Parser(text, options).document()
    return undefined
  } catch (error) {
    if (!(error instanceof Problem)) throw error
    return { message: error.message, offset: error.offset, ...lineAndColumn(text, error.offset) }
  }
}

/** Parses JSON with the strict rules asked for; throws FileFormatError `file:line:column: why`. */
export function parseStrictJson(text: string, file: string, options: StrictJsonOptions): JsonValue {
  try {
    return new Parser(text, options).document()
  } catch (error) {
    if (!(error instanceof Problem)) throw error
    const { line, column } = lineAndColumn(text, error.offset)
    throw new FileFormatError(`${file}:${line}:${column}: ${error.message}`)
  }
}

/** Parses JSON as JSON.parse does; throws FileFormatError `file:line:column: why; fix the line`. A leading byte order mark is skipped. */
export function parseJson(text: string, file: string): JsonValue {
  const body = text.startsWith('\ufeff') ? text.slice(1) : text
  try {
    return JSON.parse(body) as JsonValue
  } catch (error) {
    const problem = findJsonProblem(body)
    const where = problem ? `${file}:${problem.line}:${problem.column}: ${problem.message}` : `${file}: ${(error as Error).message}`
    throw new FileFormatError(`${where}; fix the file or fetch it again`, { cause: error })
  }
}

/** Decodes UTF-8 and refuses bytes that are not; `name` says whose bytes they are. */
export function decodeUtf8(bytes: Uint8Array, name: string): string {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
  } catch (error) {
    throw new FileFormatError(`${name}: expected UTF-8 text, got other bytes`, { cause: error })
  }
}

/** Reads and parses a JSON file of at most `maxBytes` (default 512 MiB). */
export async function readJson(path: string, maxBytes = 512 * 2 ** 20): Promise<JsonValue> {
  try {
    const { size } = await stat(path)
    if (size > maxBytes) throw new FileFormatError(`${path}: expected at most ${formatBytes(maxBytes)} of JSON, got ${formatBytes(size)}`)
    return parseJson(decodeUtf8(await readFile(path), path), path)
  } catch (error) {
    throw readError(error, path)
  }
}

/** Reads a JSON file that must hold an object at its top. */
export async function readJsonObject(path: string): Promise<{ [key: string]: JsonValue }> {
  const value = await readJson(path)
  if (value === null || typeof value !== 'object' || Array.isArray(value)) {
    const got = value === null ? 'null' : Array.isArray(value) ? 'an array' : `a ${typeof value}`
    throw new FileFormatError(`${path}: expected a JSON object, got ${got}`)
  }
  return value
}
