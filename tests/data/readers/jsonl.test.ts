// Proves that JSON lines are read whatever their line ends, and that every malformed line is named by file, line and column.
import { openSync, writeSync, closeSync } from 'node:fs'
import { gzipSync } from 'node:zlib'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import fc from 'fast-check'
import { DataError } from '../../../src/errors.ts'
import { jsonlReader } from '../../../src/data/readers/jsonl.ts'
import type { BadRow } from '../../../src/data/readers/types.ts'
import { collect, temporaryFolder, write } from '../support.ts'

const folder = temporaryFolder()
const read = (content: string | Uint8Array, name = 'rows.jsonl') => collect(jsonlReader(write(folder, name, content)).rows())

describe('jsonlReader', () => {
  it('reads LF, CRLF, a byte order mark, blank lines and a last line without end', async () => {
    const rows = await read('\ufeff{"a":1}\r\n\r\n  \n{"a":2}\n{"a":3}')
    expect(rows.map(({ row, line, record }) => [row.a, line, record])).toEqual([[1, 1, 0], [2, 4, 1], [3, 5, 2]])
  })

  it('does not end a line at U+2028 or U+0085', async () => {
    const rows = await read('{"a":"x\u2028y\u0085z"}\n')
    expect(rows[0]!.row.a).toBe('x\u2028y\u0085z')
  })

  it('reads gzip and reports a damaged one', async () => {
    const packed = gzipSync('{"a":1}\n{"a":2}\n')
    expect(await read(packed, 'rows.jsonl.gz')).toHaveLength(2)
    await expect(read(packed.subarray(0, 20), 'cut.jsonl.gz')).rejects.toThrow(/cut\.jsonl\.gz: damaged gzip data/)
    await expect(read('{"a":1}', 'plain.jsonl.gz')).rejects.toThrow(DataError)
  })

  it.each([
    ['{"a":1}\n{"a":1 "b":2}', '2:8: expected "," or "}" after a value, got "\\""'],
    ['{"a":1}\n\n{"a":', '3:6: expected a value, got the end of the line'],
    ['{"a":NaN}', '1:6: NaN is not JSON'],
    ['{"a":"x', '1:6: a string is not closed'],
    ["{'a':1}", '1:2: expected a name in double quotes'],
    ['[1]', '1:1: expected a JSON object, got an array'],
    ['  7', '1:3: expected a JSON object, got a number'],
    ['null', '1:1: expected a JSON object, got null'],
    ['{"a":1}}', '1:8: expected the end of the'],
    ['{"a":"\t"}', '1:7: a string may not contain the control character'],
  ])('names file, line, column and reason of %j', async (content, message) => {
    const error: unknown = await read(content, 'bad.jsonl').catch((reason: unknown) => reason)
    expect(error).toBeInstanceOf(DataError)
    expect((error as Error).message).toContain(`bad.jsonl:${message}`)
    expect((error as Error).message).toContain(`onBadRow: 'skip'`)
  })

  it('refuses bytes that are not UTF-8, and UTF-16', async () => {
    await expect(read(Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x7d]), 'latin.jsonl')).rejects.toThrow(/latin\.jsonl:1:1: the line is not UTF-8/)
    await expect(read(Buffer.from('\ufeff{"a":1}', 'utf16le'), 'wide.jsonl')).rejects.toThrow(/expected UTF-8, got UTF-16/)
  })

  it('skips malformed lines when asked, counts them as records and reports each', async () => {
    const bad: BadRow[] = []
    const file = write(folder, 'mixed.jsonl', '{"a":1}\nbroken\n{"a":2}\n')
    const rows = await collect(jsonlReader(file).rows({ onBadRow: 'skip', onSkipped: (row) => bad.push(row) }))
    expect(rows.map(({ record }) => record)).toEqual([0, 2])
    expect(bad).toMatchObject([{ line: 2, record: 1 }])
    expect(await collect(jsonlReader(file).rows({ skip: 2 }))).toMatchObject([{ row: { a: 2 }, line: 3, record: 2 }])
  })

  it('keeps __proto__ from reaching anything', async () => {
    const rows = await read('{"__proto__":{"polluted":1},"a":{"__proto__":{"polluted":1}},"\\u005f_proto__":{"polluted":1}}\n{"constructor":{"prototype":{"polluted":1}}}')
    expect(Object.keys(rows[0]!.row)).toEqual(['a'])
    expect((rows[0]!.row as { polluted?: unknown }).polluted).toBeUndefined()
    expect(({} as { polluted?: unknown }).polluted).toBeUndefined()
  })

  it('refuses a line above 64 MiB, in bounded memory, and can pass over it', async () => {
    const path = join(folder, 'long.jsonl')
    const file = openSync(path, 'w')
    const block = Buffer.alloc(1 << 20, 'x')
    writeSync(file, '{"a":"')
    for (let i = 0; i < 65; i++) writeSync(file, block)
    writeSync(file, '"}\n{"a":2}\n')
    closeSync(file)
    await expect(collect(jsonlReader(path).rows())).rejects.toThrow(/long\.jsonl:1:1: the line is longer than 64 MiB/)
    const rows = await collect(jsonlReader(path).rows({ onBadRow: 'skip' }))
    expect(rows).toMatchObject([{ row: { a: 2 }, line: 2, record: 1 }])
  })


  it('reads back any rows, with any line ends', async () => {
    await fc.assert(fc.asyncProperty(fc.array(fc.record({ a: fc.string({ unit: 'binary' }), b: fc.jsonValue() })), fc.constantFrom('\n', '\r\n'), async (list, end) => {
      const rows = await read(list.map((row) => JSON.stringify(row)).join(end), 'any.jsonl')
      expect(rows.map(({ row }) => JSON.stringify(row.a))).toEqual(list.map((row) => JSON.stringify(row.a)))
    }), { numRuns: 60 })
  })

  it('answers any damage of a file with its rows or a DataError', async () => {
    const base = '{"messages":[{"role":"user","content":"Grüße \\u00e9"}],"n":-1.5e3}\n{"text":"b"}\n'
    await fc.assert(fc.asyncProperty(fc.nat(base.length - 1), fc.integer({ min: 0, max: 255 }), async (at, byte) => {
      const bytes = Buffer.from(base)
      bytes[at] = byte
      const result: unknown = await read(bytes, 'mutant.jsonl').catch((error: unknown) => error)
      if (!Array.isArray(result)) { expect(result).toBeInstanceOf(DataError); expect((result as Error).message).toMatch(/mutant\.jsonl:\d+:\d+: |UTF-16/) }
    }), { numRuns: 300 })
  })

  it('says that a file is missing', async () => {
    await expect(collect(jsonlReader(join(folder, 'none.jsonl')).rows())).rejects.toThrow(/none\.jsonl: cannot read: ENOENT/)
  })
})
