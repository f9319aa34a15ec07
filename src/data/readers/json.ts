import { DataError } from '../../errors.ts'
import { lineAndColumn } from '../../files/json.ts'
import { decodeStrict, maxRecordBytes, readBytes, readLines } from './bytes.ts'
import { jsonlReader, parseRow, refuse } from './jsonl.ts'
import type { Reader, ReadOptions, SourceRow } from './types.ts'

const quote = 34, backslash = 92, comma = 44, colon = 58, openBrace = 123, closeBrace = 125, openBracket = 91, closeBracket = 93
const isBlank = (c: number): boolean => c === 32 || c === 10 || c === 13 || c === 9

/** An element of the array: its bytes and the line and column (from 1) where it starts. */
interface Element { bytes: Buffer, line: number, column: number }

/**
 * Cuts a JSON file into the elements of its array, `[…]` or `{"data": […]}`, without holding more than one of them.
 * It only follows strings and brackets; each element is parsed, and judged, by its reader.
 */
class ArraySplitter {
  readonly file: string
  private depth = 0
  private inString = false
  private escaped = false
  private arrayDepth = 0
  private key: number[] | undefined
  private lastKey = ''
  private afterColon = false
  private parts: Buffer[] = []
  private size = 0
  private collecting = false
  private wantsElement = false
  private line = 1
  private column = 0
  private startLine = 1
  private startColumn = 1
  finished = false
  found = false

  constructor(file: string) { this.file = file }

  fail(why: string): never {
    throw new DataError(`${this.file}:${this.line}:${Math.max(1, this.column)}: ${why}; fix the file`)
  }

  push(chunk: Buffer): Element[] {
    const done: Element[] = []
    let start = this.collecting ? 0 : -1
    for (let i = 0; i < chunk.length; i++) {
      const c = chunk[i]!
      if (c === 10) { this.line++; this.column = 0 } else if ((c & 0xc0) !== 0x80) this.column++
      if (this.inString) { this.stringByte(c); continue }
      if (isBlank(c)) continue
      if (this.finished) { this.trailing(c); continue }
      const inArray = this.found && this.depth === this.arrayDepth
      if (inArray && (c === comma || c === closeBracket)) {
        if (this.collecting) {
          this.parts.push(chunk.subarray(start, i))
          done.push(this.element())
          start = -1
        } else if (c === comma || this.wantsElement) this.fail(`expected an object, got "${String.fromCharCode(c)}"`)
        this.wantsElement = c === comma
      } else if (inArray && !this.collecting) {
        this.collecting = true
        this.wantsElement = false
        start = i
        this.startLine = this.line
        this.startColumn = this.column
      }
      this.structure(c)
    }
    if (this.collecting) {
      this.size += chunk.length - start
      if (this.size > maxRecordBytes) this.fail(`the element that starts at line ${this.startLine} is longer than ${maxRecordBytes >> 20} MiB`)
      this.parts.push(chunk.subarray(start))
    }
    return done
  }

  private element(): Element {
    const bytes = this.parts.length === 1 ? this.parts[0]! : Buffer.concat(this.parts)
    this.parts = []
    this.size = 0
    this.collecting = false
    return { bytes, line: this.startLine, column: this.startColumn }
  }

  private stringByte(c: number): void {
    if (this.escaped) this.escaped = false
    else if (c === backslash) this.escaped = true
    else if (c === quote) {
      this.inString = false
      if (this.key) { this.lastKey = Buffer.from(this.key).toString(); this.key = undefined }
      return
    }
    if (this.key && this.key.length < 64) this.key.push(c)
  }

  /** After `{"data": […]` other keys may follow; after the whole value nothing may. */
  private trailing(c: number): void {
    if (this.depth === 0) this.fail(`expected the end of the file, got ${JSON.stringify(String.fromCharCode(c))}`)
    this.structure(c)
  }

  private structure(c: number): void {
    if (c === quote) {
      this.inString = true
      if (this.depth === 1 && !this.found && !this.afterColon) this.key = []
    } else if (c === openBrace || c === openBracket) {
      const opensData = this.depth === 0 ? c === openBracket : this.depth === 1 && this.afterColon && this.lastKey === 'data' && c === openBracket
      this.depth++
      if (opensData && !this.found) { this.found = true; this.arrayDepth = this.depth }
      this.afterColon = false
    } else if (c === closeBrace || c === closeBracket) {
      if (this.depth === 0) this.fail(`unexpected ${JSON.stringify(String.fromCharCode(c))}`)
      if (this.found && this.depth === this.arrayDepth) {
        if (c === closeBrace) this.fail('expected "," or "]" after an element, got "}"')
        this.finished = true
      }
      this.depth--
    } else if (c === colon && this.depth === 1) this.afterColon = true
    else if (c === comma && this.depth === 1) this.afterColon = false
    else if (this.depth === 0) this.fail(`expected "[" or "{", got ${JSON.stringify(String.fromCharCode(c))}`)
  }

  end(): void {
    if (!this.found) {
      if (this.line === 1 && this.column === 0) this.fail('expected an array of rows, got an empty file')
      this.fail(this.depth > 0 ? 'the file ends inside a value' : 'expected an array of rows, or an object with a "data" array; give one object a line the name .jsonl')
    }
    if (this.depth > 0 || this.inString) this.fail('the file ends inside a value; it may be cut off')
  }
}

/** True if the first of several lines is a whole object, so that the file is JSON lines whatever its name. */
async function isJsonLines(file: string): Promise<boolean> {
  let first = true
  for await (const { bytes, tooLong } of readLines(file)) {
    const text = tooLong ? '' : bytes.toString('latin1').trim()
    if (text === '' && !tooLong) continue
    if (!first) return true
    if (!text.startsWith('{') || parseRow(text).row === undefined) return false
    first = false
  }
  return false
}

/** A JSON file: an array of objects, an object with such an array under `data`, or one object a line. */
export function jsonReader(file: string): Reader {
  async function* rows(options: ReadOptions = {}): AsyncGenerator<SourceRow> {
    if (await isJsonLines(file)) { yield* jsonlReader(file).rows(options); return }
    const splitter = new ArraySplitter(file)
    const skip = options.skip ?? 0
    let record = -1
    for await (const chunk of readBytes(file)) {
      for (const { bytes, line, column } of splitter.push(chunk)) {
        record++
        if (record < skip) continue
        const text = decodeStrict(bytes)
        if (text === undefined) { refuse({ file, line, record, problem: `${file}:${line}:${column}: the row is not UTF-8` }, options); continue }
        const parsed = parseRow(text)
        if (parsed.row) { yield { row: parsed.row, file, line, record }; continue }
        const at = lineAndColumn(text, parsed.offset)
        const where = at.line === 1 ? `${line}:${column + at.column - 1}` : `${line + at.line - 1}:${at.column}`
        refuse({ file, line, record, problem: `${file}:${where}: ${parsed.problem}` }, options)
      }
    }
    splitter.end()
  }
  return { file, rows }
}
