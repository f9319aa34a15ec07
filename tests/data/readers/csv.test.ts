// Proves that CSV rows keep their fields and line numbers whatever the quoting, and that a wrong record is named.
import { describe, expect, it } from 'vitest'
import fc from 'fast-check'
import { DataError } from '../../../src/errors.ts'
import { csvReader } from '../../../src/data/readers/csv.ts'
import { collect, temporaryFolder, write } from '../support.ts'

const folder = temporaryFolder()
const read = (content: string, name = 'rows.csv', options = {}) => collect(csvReader(write(folder, name, content)).rows(options))

describe('csvReader', () => {
  it('reads quotes, line breaks in fields, doubled quotes, CRLF and a byte order mark', async () => {
    const rows = await read('\ufeffprompt,completion\r\n"a, b","c\n""d"""\r\nx,\r\n\r\ny,z')
    expect(rows.map(({ row, line }) => ({ ...row, line }))).toEqual([
      { prompt: 'a, b', completion: 'c\n"d"', line: 2 }, { prompt: 'x', completion: '', line: 4 }, { prompt: 'y', completion: 'z', line: 6 },
    ])
  })

  it.each([['\t', 'rows.tsv'], [';', 'rows.csv'], ['|', 'rows.csv']])('finds the delimiter %j', async (delimiter, name) => {
    const rows = await read(`text${delimiter}label\nhello${delimiter}1\n`, name)
    expect(rows[0]!.row).toEqual({ text: 'hello', label: '1' })
  })

  it('finds the delimiter in the header, not in the fields', async () => {
    expect((await read('"a,b,c";text\n1;"one, two"\n2;x,y,z\n')).map(({ row }) => row.text)).toEqual(['one, two', 'x,y,z'])
    expect((await read('text\n"hello, world"\nbye\n')).map(({ row }) => row.text)).toEqual(['hello, world', 'bye'])
  })

  it('refuses a record with another number of fields, a header with twins, and an empty file', async () => {
    await expect(read('a,b\n1,2\n3\n', 'short.csv')).rejects.toThrow(/short\.csv:3: expected 2 fields as in the header, got 1/)
    await expect(read('a,a\n1,2\n', 'twins.csv')).rejects.toThrow(/two columns are named "a"/)
    await expect(read('', 'empty.csv')).rejects.toThrow(/expected a header/)
    await expect(read('a,b\n1,"2\n', 'open.csv')).rejects.toThrow(DataError)
    const rows = await read('a,b\n1,2\n3\n4,5\n', 'skip.csv', { onBadRow: 'skip' })
    expect(rows.map(({ record }) => record)).toEqual([0, 2])
  })

  it('takes a quote inside a plain field as it stands', async () => {
    const rows = await read('size,text\n5" pipe,x\n"a\nb",y"z"\n7",w\n')
    expect(rows.map(({ row, line }) => [row.size, row.text, line])).toEqual([['5" pipe', 'x', 2], ['a\nb', 'y"z"', 3], ['7"', 'w', 5]])
  })

  it('answers any damage of a file with its rows or a DataError', async () => {
    const base = 'a,b\n"x, ß","y\nz"\n1,2\r\n"q""q",3\n'
    await fc.assert(fc.asyncProperty(fc.nat(base.length - 1), fc.integer({ min: 0, max: 255 }), async (at, byte) => {
      const bytes = Buffer.from(base)
      bytes[at] = byte
      const result: unknown = await collect(csvReader(write(folder, 'mutant.csv', bytes)).rows()).catch((error: unknown) => error)
      if (!Array.isArray(result)) expect(result).toBeInstanceOf(DataError)
    }), { numRuns: 200 })
  })

  it('reads back any fields', async () => {
    const field = fc.string({ unit: fc.constantFrom('a', 'ß', ',', '"', '\n', ' ', '\t', '🦊') }).filter((text) => text.trim() !== '')
    await fc.assert(fc.asyncProperty(fc.array(fc.tuple(field, field)), async (list) => {
      const quoted = list.map((fields) => fields.map((text) => `"${text.replaceAll('"', '""')}"`).join(','))
      const rows = await read(['first,second', ...quoted].join('\n'), 'any.csv')
      expect(rows.map(({ row }) => [row.first, row.second])).toEqual(list)
    }), { numRuns: 100 })
  })

  it('reads records across the chunks of a large file', async () => {
    const list = Array.from({ length: 30000 }, (_, i) => `${i},"line\none, ${'x'.repeat(i % 40)}"`)
    const rows = await read(['n,text', ...list].join('\n'), 'large.csv')
    expect(rows).toHaveLength(30000)
    expect(rows[29999]).toMatchObject({ row: { n: '29999', text: `line\none, ${'x'.repeat(29999 % 40)}` }, line: 2 + 2 * 29999, record: 29999 })
  })
})
