import { DataError } from '../../errors.ts'
import { readText } from './bytes.ts'
import { refuse } from './jsonl.ts'
import type { Reader, ReadOptions, SourceRow } from './types.ts'

const newlines = (text: string): number => /[\r\n]/.test(text) ? text.split(/\r\n|\n|\r/).length - 1 : 0

/** The delimiter that stands most often in the header, outside quotes. */
function delimiterOf(text: string): string {
  const header = /^(?:"(?:[^"]|"")*"|[^"\r\n])*/.exec(text)![0].replace(/"(?:[^"]|"")*"/g, '')
  const count = (delimiter: string): number => header.split(delimiter).length
  return [',', '\t', ';', '|'].reduce((best, delimiter) => count(delimiter) > count(best) ? delimiter : best)
}

/**
 * Cuts CSV text into whole records: a line break inside quotes does not end one, and a quote counts only at the start of a field.
 * `push` returns the text up to the last break it has seen outside quotes.
 */
class RecordCutter {
  private readonly delimiter: number
  private rest = ''
  private scanned = 0
  private cut = 0
  private state: 'start' | 'plain' | 'quoted' | 'closed' = 'start'

  constructor(delimiter: string) { this.delimiter = delimiter.charCodeAt(0) }

  push(text: string): string {
    this.rest += text
    for (; this.scanned < this.rest.length; this.scanned++) {
      const c = this.rest.charCodeAt(this.scanned)
      if (this.state === 'quoted') { if (c === 34) this.state = 'closed' }
      else if (c === 34 && this.state !== 'plain') this.state = 'quoted'
      else if (c === this.delimiter) this.state = 'start'
      else if (c === 10) { this.state = 'start'; this.cut = this.scanned + 1 }
      else this.state = 'plain'
    }
    const whole = this.rest.slice(0, this.cut)
    this.rest = this.rest.slice(this.cut)
    this.scanned -= this.cut
    this.cut = 0
    return whole
  }

  get pending(): number { return this.rest.length }
  end(): string { return this.rest }
}

/** A CSV (or TSV) file whose first record names the columns. The delimiter is found in the header: comma, tab, semicolon or bar. */
export function csvReader(file: string): Reader {
  async function* records(): AsyncGenerator<{ fields: string[], line: number, problem?: string }> {
    const { default: papa } = await import('papaparse')
    let cutter: RecordCutter | undefined
    let delimiter = ''
    let line = 1
    const parse = function* (text: string): Generator<{ fields: string[], line: number, problem?: string }> {
      const result = papa.parse<string[]>(text, { delimiter, skipEmptyLines: false })
      const problems = new Map(result.errors.filter((error) => error.type === 'Quotes').map((error) => [error.row, error.message]))
      for (const [i, fields] of result.data.entries()) {
        const problem = problems.get(i)
        const at = line
        line += 1 + fields.reduce((sum, field) => sum + newlines(field), 0)
        if (fields.length === 1 && fields[0] === '' && problem === undefined) continue
        yield problem === undefined ? { fields, line: at } : { fields, line: at, problem }
      }
    }
    for await (const piece of readText(file)) {
      if (!cutter) { delimiter = delimiterOf(piece); cutter = new RecordCutter(delimiter) }
      const whole = cutter.push(piece)
      if (cutter.pending > 64 * 2 ** 20) throw new DataError(`${file}:${line + newlines(whole)}: the record is longer than 64 MiB; a quote may not be closed`)
      if (whole === '') continue
      yield* parse(whole.replace(/\r?\n$/, ''))
    }
    if (cutter && cutter.end() !== '') yield* parse(cutter.end())
  }

  async function* rows(options: ReadOptions = {}): AsyncGenerator<SourceRow> {
    const skip = options.skip ?? 0
    let names: string[] | undefined
    let record = -1
    for await (const { fields, line, problem } of records()) {
      if (!names) { names = header(file, fields); continue }
      record++
      if (record < skip) continue
      if (problem !== undefined) { refuse({ file, line, record, problem: `${file}:${line}: ${problem}` }, options); continue }
      if (fields.length !== names.length) {
        refuse({ file, line, record, problem: `${file}:${line}: expected ${names.length} fields as in the header, got ${fields.length}` }, options)
        continue
      }
      yield { row: Object.fromEntries(names.map((name, i) => [name, fields[i]])), file, line, record }
    }
    if (!names) throw new DataError(`${file}: expected a header that names the columns, got an empty file`)
  }
  return { file, rows }
}

function header(file: string, fields: string[]): string[] {
  const names = fields.map((name) => name.trim())
  for (const [i, name] of names.entries()) {
    if (name === '__proto__') throw new DataError(`${file}:1: a column may not be named __proto__; rename it`)
    if (names.indexOf(name) !== i) throw new DataError(`${file}:1: two columns are named ${JSON.stringify(name)}; rename one`)
  }
  return names
}
