// Proves that files, folders and globs name files in one fixed order, and that what names nothing is an error.
import { describe, expect, it } from 'vitest'
import { expandFiles, fileTypeOf, openReader } from '../../../src/data/readers/open.ts'
import { collect, temporaryFolder, write } from '../support.ts'

const folder = temporaryFolder()
const a = write(folder, 'docs/a.md', 'A')
const b = write(folder, 'docs/deep/b.TXT', 'B')
const c = write(folder, 'c.jsonl', '{"text":"C"}')
write(folder, 'docs/image.png', 'not data')

describe('expandFiles', () => {
  it('gives each file once, in a fixed order', async () => {
    expect(await expandFiles(['c.jsonl', 'docs/**/*.md', a], { cwd: folder })).toEqual([c, a])
    expect(await expandFiles('docs', { cwd: folder })).toEqual([a, b])
    expect(await expandFiles(`${folder}/**/*.jsonl`)).toEqual([c])
  })

  it('names what matches nothing', async () => {
    await expect(expandFiles('none.jsonl', { cwd: folder })).rejects.toThrow(/none\.jsonl: no such file/)
    await expect(expandFiles('docs/*.parquet', { cwd: folder })).rejects.toThrow(/docs\/\*\.parquet: no file matches/)
    await expect(expandFiles([])).rejects.toThrow(/expected at least one/)
  })
})

describe('openReader', () => {
  it('goes by the ending, or by what it is told', async () => {
    expect(fileTypeOf('x.JSONL.GZ')).toBe('jsonl')
    expect(fileTypeOf('x.tar')).toBeUndefined()
    expect(() => openReader('x.bin')).toThrow(/x\.bin: unknown ending/)
    expect(() => openReader('x.parquet.gz')).toThrow(/unpack it/)
    const code = write(folder, 'code.ts', 'const x = 1')
    expect(await collect(openReader(code, { fileType: 'text' }).rows())).toMatchObject([{ row: { text: 'const x = 1' } }])
  })
})
