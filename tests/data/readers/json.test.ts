// Proves that JSON arrays are read row by row, wherever the chunks of the file fall, and that damage is placed by line and column.
import { describe, expect, it } from 'vitest'
import fc from 'fast-check'
import { DataError } from '../../../src/errors.ts'
import { jsonReader } from '../../../src/data/readers/json.ts'
import { collect, temporaryFolder, write } from '../support.ts'

const folder = temporaryFolder()
const read = (content: string, name = 'rows.json') => collect(jsonReader(write(folder, name, content)).rows())

describe('jsonReader', () => {
  it.each([
    ['[]', []],
    ['[{"a":1},{"a":2}]', [1, 2]],
    [' \ufeff\n[\n {"a": 1} ,\r\n {"a":2, "b":[{"c":"],}["}]}\n]\n'.trimStart(), [1, 2]],
    ['{"version":"1","meta":{"data":[{"a":9}]},"data":[{"a":1},{"a":2}],"more":[1,{"x":"]"}]}', [1, 2]],
    ['{"a":1}\n{"a":2}\n', [1, 2]],
    ['[{"a":"quote \\" bracket ] brace }"},{"a":2}]', ['quote " bracket ] brace }', 2]],
  ])('reads %j', async (content, values) => {
    expect((await read(content)).map(({ row }) => row.a)).toEqual(values)
  })

  it.each([
    ['', 'expected an array of rows, got an empty file'],
    ['[{"a":1},{"a":2}', 'the file ends inside a value'],
    ['[{"a":1},]', '1:10: expected an object'],
    ['[,{"a":1}]', '1:2: expected an object'],
    ['[{"a":1}\n,\n {"a" 2}]', '3:7: expected ":" after a name'],
    ['[{"a":1},\n 5]', '2:2: expected a JSON object, got a number'],
    ['[{"a":1}] x', 'expected the end of the file'],
    ['{"rows":[{"a":1}]}', 'expected an array of rows, or an object with a "data" array'],
    ['"text"', 'expected'],
    ['[{"a":1}}', 'expected'],
    ['[{"a":1} {"a":2}]', 'expected the end'],
  ])('refuses %j', async (content, message) => {
    const error: unknown = await read(content, 'bad.json').catch((reason: unknown) => reason)
    expect(error).toBeInstanceOf(DataError)
    expect((error as Error).message).toContain('bad.json:')
    expect((error as Error).message).toContain(message)
  })

  it('reads back any rows in any layout', async () => {
    const layout = fc.constantFrom<[number | undefined, boolean]>([undefined, false], [2, false], [undefined, true], [2, true])
    await fc.assert(fc.asyncProperty(fc.array(fc.dictionary(fc.string({ unit: 'binary' }).filter((key) => key !== '__proto__'), fc.jsonValue())), layout, async (list, [indent, nested]) => {
      const plain = JSON.parse(JSON.stringify(list, (key, value: unknown) => key === '__proto__' ? undefined : value)) as unknown[]
      const rows = await read(JSON.stringify(nested ? { data: plain } : plain, null, indent), 'any.json')
      expect(rows.map(({ row }) => row)).toEqual(plain)
    }), { numRuns: 100 })
  })

  it('answers any damage of a file with its rows or a DataError', async () => {
    const base = Buffer.from('{"v":[1],"data":[{"a":"ß\\"]"},{"b":[{}]}\n],"more":{}}\n')
    await fc.assert(fc.asyncProperty(fc.nat(base.length - 1), fc.integer({ min: 0, max: 255 }), async (at, byte) => {
      const bytes = Buffer.from(base)
      bytes[at] = byte
      const result: unknown = await collect(jsonReader(write(folder, 'mutant.json', bytes)).rows()).catch((error: unknown) => error)
      if (!Array.isArray(result)) { expect(result).toBeInstanceOf(DataError); expect((result as Error).message).toMatch(/mutant\.json:/) }
    }), { numRuns: 300 })
  })

  it('reads rows across the chunks of a large file and can start in the middle', async () => {
    const list = Array.from({ length: 20000 }, (_, i) => ({ i, text: 'ä'.repeat(i % 50) }))
    const file = write(folder, 'large.json', JSON.stringify(list))
    const rows = await collect(jsonReader(file).rows())
    expect(rows.map(({ row }) => row)).toEqual(list)
    expect((await collect(jsonReader(file).rows({ skip: 19999 })))[0]).toMatchObject({ row: { i: 19999 }, record: 19999 })
  })
})
