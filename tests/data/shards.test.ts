// Proves that shards give back what was put in, and that any damage to one is noticed.
import { readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import fc from 'fast-check'
import { DataError } from '../../src/errors.ts'
import { CachedDataset } from '../../src/data/cachedDataset.ts'
import { emptyStats } from '../../src/data/examples.ts'
import { encodeShard, inspectShard } from '../../src/data/shards.ts'
import type { Example } from '../../src/data/types.ts'
import { temporaryFolder, write } from './support.ts'

const folder = temporaryFolder()
const content = (examples: Example[]) =>
  ({ fingerprint: 'f', start: { reader: 0, record: 0 }, end: { reader: 1, record: 0 }, stats: emptyStats(), examples })
const example = (ids: number[]): Example => ({ inputIds: Int32Array.from(ids), labels: Int32Array.from(ids, (id, i) => i % 2 ? id : -100) })

describe('shards', () => {
  it('give back any examples, in two or four bytes an id', async () => {
    const list = fc.constantFrom(50000, 200000).chain((most) => fc.array(fc.array(fc.record({ id: fc.nat(most), trained: fc.boolean() }), { maxLength: 40 }), { maxLength: 12 }))
    await fc.assert(fc.asyncProperty(fc.array(list, { minLength: 1, maxLength: 4 }), async (shards) => {
      const infos = []
      for (const [i, rows] of shards.entries()) {
        const examples = rows.map((row) => ({ inputIds: Int32Array.from(row, ({ id }) => id), labels: Int32Array.from(row, ({ id, trained }) => trained ? id : -100) }))
        infos.push((await inspectShard(write(folder, `any-${i}.bin`, encodeShard(content(examples))), true))!)
      }
      using dataset = new CachedDataset(infos)
      const flat = shards.flat()
      expect(dataset.length).toBe(flat.length)
      for (const i of flat.map((_, index) => index).reverse()) {
        expect([...dataset.get(i).inputIds]).toEqual(flat[i]!.map(({ id }) => id))
        expect([...dataset.get(i).labels]).toEqual(flat[i]!.map(({ id, trained }) => trained ? id : -100))
        expect(dataset.lengthOf(i)).toBe(flat[i]!.length)
      }
    }), { numRuns: 40 })
  })

  it('store small vocabularies in half the space', () => {
    const size = (first: number) => encodeShard(content([example(Array.from({ length: 1000 }, (_, i) => first + i))])).length
    expect(size(65000) - size(64000)).toBe(2000)
  })

  it('notice a flipped bit in any byte and every shorter or longer file', async () => {
    const path = write(folder, 'damaged.bin', encodeShard(content([example([1, 2, 3]), example([4, 5])])))
    const good = readFileSync(path)
    for (let bit = 0; bit < good.length * 8; bit += 7) {
      const bad = Buffer.from(good)
      bad[bit >> 3]! ^= 1 << (bit & 7)
      writeFileSync(path, bad)
      await expect(inspectShard(path, true), `bit ${bit}`).rejects.toThrow(DataError)
    }
    for (const size of [0, 10, 16, 50, good.length - 1]) {
      writeFileSync(path, good)
      truncateSync(path, size)
      await expect(inspectShard(path, false)).rejects.toThrow(/the cache shard is damaged: .*delete the file to have it made again/)
    }
    writeFileSync(path, Buffer.concat([good, Buffer.alloc(1)]))
    await expect(inspectShard(path, false)).rejects.toThrow(/expected \d+ bytes, got/)
    writeFileSync(path, good)
    expect((await inspectShard(path, true))!.header.tokens).toBe(5)
  })

  it('are not there when the file is not', async () => {
    expect(await inspectShard(`${folder}/none.bin`, true)).toBeUndefined()
  })
})

describe('CachedDataset', () => {
  it('answers a file that shrinks while in use with an error', async () => {
    const path = write(folder, 'shrinks.bin', encodeShard(content([example(Array.from({ length: 5000 }, (_, i) => i % 1000))])))
    using dataset = new CachedDataset([(await inspectShard(path, true))!])
    expect(dataset.get(0).inputIds).toHaveLength(5000)
    truncateSync(path, 100)
    expect(() => dataset.get(0)).toThrow(/became shorter while it was in use/)
  })

  it('keeps few files open, and none after closing', async () => {
    const infos = []
    for (let i = 0; i < 100; i++) infos.push((await inspectShard(write(folder, `many-${i}.bin`, encodeShard(content([example([i, i])]))), true))!)
    const dataset = new CachedDataset(infos)
    for (let round = 0; round < 2; round++) for (let i = 0; i < 100; i++) expect(dataset.get(i).inputIds[0]).toBe(i)
    expect(() => dataset.get(100)).toThrow(DataError)
    dataset.close()
    expect(() => dataset.get(0)).toThrow(/it was closed/)
  })
})
