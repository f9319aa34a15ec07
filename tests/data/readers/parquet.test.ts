// Proves that Parquet files are read by row group, nested messages included, and that a damaged file is a DataError.
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { parquetWriteBuffer } from 'hyparquet-writer'
import { DataError } from '../../../src/errors.ts'
import { readRow } from '../../../src/data/formats.ts'
import { parquetReader } from '../../../src/data/readers/parquet.ts'
import { collect, temporaryFolder, write } from '../support.ts'

const folder = temporaryFolder()
const texts = Array.from({ length: 100 }, (_, i) => `text ${i} ß`)
const file = write(folder, 'rows.parquet', new Uint8Array(parquetWriteBuffer({
  columnData: [{ name: 'text', data: texts, type: 'STRING' }, { name: 'n', data: texts.map((_, i) => BigInt(i)), type: 'INT64' }],
  rowGroupSize: 30,
})))

describe('parquetReader', () => {
  it('reads all row groups, or from any row on', async () => {
    const rows = await collect(parquetReader(file).rows())
    expect(rows.map(({ row }) => row.text)).toEqual(texts)
    expect(rows[99]).toMatchObject({ row: { n: 99 }, record: 99 })
    for (const skip of [29, 30, 65, 100]) {
      const rest = await collect(parquetReader(file).rows({ skip }))
      expect(rest.map(({ record }) => record)).toEqual(texts.map((_, i) => i).slice(skip))
    }
  })

  it('reads lists of messages', async () => {
    const messages = [[{ role: 'user', content: 'Hi' }, { role: 'assistant', content: 'Hello' }], [{ role: 'user', content: 'Bye' }]]
    const nested = write(folder, 'nested.parquet', new Uint8Array(parquetWriteBuffer({ columnData: [{ name: 'messages', data: messages, type: 'JSON' }] })))
    expect((await collect(parquetReader(nested).rows())).map(({ row }) => row.messages)).toEqual(messages)
  })

  it.each(['snappy', 'zstd', 'gzip', 'none'])('reads what pyarrow writes with compression %s', async (compression) => {
    const recorded = fileURLToPath(new URL(`../../recorded/data/messages-${compression}.parquet`, import.meta.url))
    const rows = await collect(parquetReader(recorded).rows())
    expect(rows.map(({ row }) => row)).toEqual(Array.from({ length: 25 }, (_, i) => {
      const question = { role: 'user', content: `Frage ${i} ü`, tool_calls: null }
      const call = [{ type: 'function', function: { name: 'f', arguments: String(i) } }]
      const messages = i % 5
        ? [question, { role: 'assistant', content: `Antwort ${i}`, tool_calls: null }]
        : [{ role: 'system', content: 'kurz', tool_calls: null }, question, { role: 'assistant', content: null, tool_calls: call }]
      return { id: i, score: i / 2, messages, missing: i % 2 ? null : 'here' }
    }))
    expect(readRow(rows[5]!)).toMatchObject({ kind: 'messages', messages: [{ role: 'system' }, { role: 'user' }, { role: 'assistant', content: null }] })
    expect(readRow(rows[1]!)).toEqual({ kind: 'messages', messages: [{ role: 'user', content: 'Frage 1 ü' }, { role: 'assistant', content: 'Antwort 1' }] })
  })

  it('answers damage with a DataError', async () => {
    const bytes = readFileSync(file)
    await expect(collect(parquetReader(write(folder, 'cut.parquet', bytes.subarray(0, bytes.length - 9))).rows())).rejects.toThrow(DataError)
    await expect(collect(parquetReader(write(folder, 'text.parquet', 'no parquet at all')).rows())).rejects.toThrow(/text\.parquet: cannot read Parquet/)
    await expect(collect(parquetReader(write(folder, 'empty.parquet', '')).rows())).rejects.toThrow(DataError)
    for (let at = 0; at < bytes.length; at += 97) {
      const mutant = Buffer.from(bytes)
      mutant[at] = mutant[at]! ^ 0x55
      const result: unknown = await collect(parquetReader(write(folder, 'mutant.parquet', mutant)).rows()).catch((error: unknown) => error)
      if (!Array.isArray(result)) expect(result).toBeInstanceOf(DataError)
    }
  })
})
