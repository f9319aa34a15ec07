// Proves that data which is empty, packed in another way than its name says, or not on disk is named as what it is.
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { expect, test } from 'vitest'
import { loadDataset } from '../../src/data/index.ts'
import { temporaryFolder } from '../files/helpers.ts'
import { recordedTokenizer } from '../export/fixtures.ts'

const tokenizer = recordedTokenizer('gpt2')
const rows = '{"text":"a row"}\n{"text":"another"}\n'

const load = (name: string, content: string | Buffer): Promise<unknown> => {
  const files = join(temporaryFolder(), name)
  writeFileSync(files, content)
  return loadDataset({ tokenizer, files, cacheDir: false, onBadRow: 'skip' })
}

test.each<[string, string | Buffer, RegExp]>([
  ['empty.jsonl', '', /empty\.jsonl: expected rows to train on, got none; the data is empty$/],
  ['blank.jsonl', '\n \n\n', /blank\.jsonl: expected rows to train on, got none/],
  ['empty.csv', 'text\n', /empty\.csv: expected rows to train on, got none/],
  ['rows.jsonl', gzipSync(rows), /rows\.jsonl: expected text, got gzipped data; let its name end in \.gz$/],
  ['rows.txt', Buffer.of(0x28, 0xb5, 0x2f, 0xfd, 0, 0), /rows\.txt: expected text, got Zstandard data; unpack it with zstd -d$/],
  ['rows.json', Buffer.from('PK\u0003\u0004....'), /rows\.json: expected text, got a zip archive; unpack it$/],
  ['rows.jsonl.zst', Buffer.of(0x28, 0xb5, 0x2f, 0xfd), /rows\.jsonl\.zst: expected plain or gzipped data, got another compression; unpack it first, for example with zstd -d$/],
  ['rows.foo', rows, /rows\.foo: unknown ending; expected \.txt/],
])('%s', async (name, content, message) => {
  await expect(load(name, content)).rejects.toThrow(message)
})

test('no rows at all are told as such', async () => {
  await expect(loadDataset({ tokenizer, rows: [] })).rejects.toThrow('rows: expected rows to train on, got none')
})
