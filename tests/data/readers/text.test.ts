// Proves that text files come whole, in pieces that join to the file, by paragraph or by line.
import { describe, expect, it } from 'vitest'
import { textReader } from '../../../src/data/readers/text.ts'
import { collect, temporaryFolder, write } from '../support.ts'

const folder = temporaryFolder()

describe('textReader', () => {
  it('gives a document, paragraphs or lines', async () => {
    const file = write(folder, 'a.md', '\ufeff# Title\r\n\r\nOne\ntwo\n\n\n  \nThree\n')
    expect((await collect(textReader(file).rows())).map(({ row }) => row.text)).toEqual(['# Title\r\n\r\nOne\ntwo\n\n\n  \nThree\n'])
    expect((await collect(textReader(file, 'paragraph').rows())).map(({ row, line }) => [row.text, line])).toEqual([['# Title', 1], ['One\ntwo', 3], ['Three', 8]])
    expect((await collect(textReader(file, 'line').rows())).map(({ row, line }) => [row.text, line])).toEqual([['# Title', 1], ['One', 3], ['two', 4], ['Three', 8]])
  })

  it('gives a long document in pieces that join to it, cut between words and never inside a character', async () => {
    const words = Array.from({ length: 90000 }, (_, i) => ['word', '🦊', 'ßß'][i % 3]! + String(i)).join(' ')
    const rows = await collect(textReader(write(folder, 'long.txt', words)).rows())
    expect(rows.length).toBeGreaterThan(2)
    expect(rows.map(({ row }) => row.text).join('')).toBe(words)
    expect(rows.map(({ piece }) => piece)).toEqual(['first', ...rows.slice(2).map(() => 'middle'), 'last'])
    expect(rows.every(({ row }) => Buffer.from(row.text as string).toString() === row.text)).toBe(true)
    const foxes = '🦊'.repeat(300000)
    const unbroken = await collect(textReader(write(folder, 'foxes.txt', foxes)).rows())
    expect(unbroken.map(({ row }) => row.text).join('')).toBe(foxes)
    expect(unbroken.every(({ row }) => Buffer.from(row.text as string).toString() === row.text)).toBe(true)
  })

  it('leaves out blank files and refuses what is not UTF-8', async () => {
    expect(await collect(textReader(write(folder, 'blank.txt', ' \n\t\n')).rows())).toEqual([])
    const binary = Buffer.from([0x61, 0x80, 0x81])
    await expect(collect(textReader(write(folder, 'binary.txt', binary)).rows())).rejects.toThrow(/binary\.txt: expected UTF-8 text/)
    await expect(collect(textReader(write(folder, 'binary.txt', binary), 'line').rows())).rejects.toThrow(/binary\.txt:1: the line is not UTF-8/)
  })
})
