// Proves that files are byte-identical to Python's save_file, and that every damaged file is refused with a named reason.
import { createHash } from 'node:crypto'
import { readFileSync, truncateSync, writeFileSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { FileFormatError, DiskFullError } from '../../src/errors.ts'
import { openSafetensors, readTensorBytes, safetensorsDtypes, tensorByteLength, type SafetensorsDtype } from '../../src/files/safetensors.ts'
import { writeSafetensors, type TensorSource } from '../../src/files/safetensors-writer.ts'
import { writeFully } from '../../src/files/filesystem.ts'
import { failingFileSystem, pattern, recorded, temporaryFolder } from './helpers.ts'

interface Recorded {
  written: { entries: [string, SafetensorsDtype, number[]][], metadata: Record<string, string> | null, bytes: number, sha256: string, header: string }[]
  hostile: { name: string, base64?: string, repeat?: number, accepted: boolean, why: string }[]
}
const { written, hostile } = recorded('files') as Recorded

const sourcesOf = (entries: Recorded['written'][number]['entries']): TensorSource[] =>
  entries.map(([name, dtype, shape], seed) => ({ name, dtype, shape, bytes: pattern(tensorByteLength(dtype, shape)!, seed) }))

const tensorFile = (header: string, data = new Uint8Array()): Buffer => {
  const json = Buffer.from(header)
  const start = Buffer.alloc(8)
  start.writeBigUInt64LE(BigInt(json.length))
  return Buffer.concat([start, json, data])
}

describe('writing', () => {
  it.each(written.map((file, i) => [i, file] as const))('file %i is byte-identical to Python\'s', async (_, { entries, metadata, bytes, sha256, header }) => {
    const path = join(temporaryFolder(), 'x.safetensors')
    await writeSafetensors(path, sourcesOf(entries), metadata ?? undefined)
    const data = readFileSync(path)
    expect(data.subarray(8, 8 + Buffer.byteLength(header)).toString()).toBe(header)
    expect(data.length).toBe(bytes)
    expect(createHash('sha256').update(data).digest('hex')).toBe(sha256)
  })

  it('gives the same file by bytes, by function and by writeTo', async () => {
    const folder = temporaryFolder()
    const [entries] = written.slice(3).map((file) => file.entries)
    const sources = sourcesOf(entries!) as (TensorSource & { bytes: Uint8Array })[]
    await writeSafetensors(join(folder, 'a'), sources, { format: 'pt' })
    await writeSafetensors(join(folder, 'b'), sources.map((source) => ({ ...source, bytes: () => Promise.resolve(source.bytes) })), { format: 'pt' })
    await writeSafetensors(join(folder, 'c'), sources.map(({ name, dtype, shape, bytes }) => ({ name, dtype, shape, writeTo: (file, offset) => writeFully(file, bytes, offset) })), { format: 'pt' })
    expect(readFileSync(join(folder, 'b')).equals(readFileSync(join(folder, 'a')))).toBe(true)
    expect(readFileSync(join(folder, 'c')).equals(readFileSync(join(folder, 'a')))).toBe(true)
  })

  it.each<[string, TensorSource[], RegExp]>([
    ['a wrong length', [{ name: 'a', dtype: 'F32', shape: [2], bytes: new Uint8Array(7) }], /tensor "a": expected 8 bytes for F32 \[2\], got 7/],
    ['a name twice', [1, 2].map(() => ({ name: 'a', dtype: 'U8', shape: [0], bytes: new Uint8Array() })), /"a": expected each name once/],
    ['an unknown dtype', [{ name: 'a', dtype: 'F33' as SafetensorsDtype, shape: [0], bytes: new Uint8Array() }], /expected a safetensors dtype, got F33/],
    ['a fractional size', [{ name: 'a', dtype: 'U8', shape: [1.5], bytes: new Uint8Array() }], /expected whole sizes/],
    ['a size beyond 2^53', [{ name: 'a', dtype: 'F64', shape: [2 ** 40, 2 ** 40], bytes: new Uint8Array() }], /below 2\^53/],
    ['an empty name', [{ name: '', dtype: 'U8', shape: [0], bytes: new Uint8Array() }], /an empty name/],
    ['the reserved name', [{ name: '__metadata__', dtype: 'U8', shape: [0], bytes: new Uint8Array() }], /reserved/],
    ['a writeTo that stops early', [{ name: 'a', dtype: 'U8', shape: [4], writeTo: (file, offset) => writeFully(file, new Uint8Array(2), offset) }], /wrote too much or too little/],
  ])('refuses %s and leaves the old file', async (_, tensors, message) => {
    const folder = temporaryFolder()
    const path = join(folder, 'x.safetensors')
    writeFileSync(path, 'old')
    await expect(writeSafetensors(path, tensors)).rejects.toThrow(FileFormatError)
    await expect(writeSafetensors(path, tensors)).rejects.toThrow(message)
    expect(readFileSync(path, 'utf8')).toBe('old')
    expect(readdirSync(folder)).toEqual(['x.safetensors'])
  })

  it('says beforehand when the disk is too small', async () => {
    const path = join(temporaryFolder(), 'x.safetensors')
    const small = { ...failingFileSystem(0, ''), freeBytes: () => Promise.resolve(100) }
    await expect(writeSafetensors(path, [{ name: 'a', dtype: 'U8', shape: [1000], bytes: () => { throw new Error('not reached') } }], {}, small))
      .rejects.toThrow(expect.objectContaining({ constructor: DiskFullError, message: expect.stringMatching(/1\.\d+ kB needed, 100 bytes free/) as string }) as Error)
  })
})

describe('reading', () => {
  it('gives back every tensor, whatever its dtype and shape', async () => {
    const dtype = fc.constantFrom(...(Object.keys(safetensorsDtypes) as SafetensorsDtype[]).filter((d) => safetensorsDtypes[d] >= 8))
    const tensor = fc.record({ dtype, shape: fc.array(fc.nat(5), { maxLength: 4 }) })
    const names = fc.string({ minLength: 1, maxLength: 12, unit: 'grapheme' }).filter((name) => name !== '__metadata__')
    await fc.assert(fc.asyncProperty(fc.dictionary(names, tensor, { maxKeys: 8, noNullPrototype: true }), fc.dictionary(fc.string(), fc.string(), { noNullPrototype: true }), async (tensors, metadata) => {
      const path = join(temporaryFolder(), 'x.safetensors')
      const sources = Object.entries(tensors).map(([name, { dtype, shape }], seed) => ({ name, dtype, shape, bytes: pattern(tensorByteLength(dtype, shape)!, seed) }))
      await writeSafetensors(path, sources, metadata)
      await using file = await openSafetensors(path)
      expect({ ...file.metadata }).toEqual(metadata)
      expect([...file.tensors.keys()].sort()).toEqual(Object.keys(tensors).sort())
      for (const { name, dtype, shape, bytes } of sources) {
        expect(file.tensors.get(name)).toMatchObject({ dtype, shape, byteLength: bytes.length })
        expect(await readTensorBytes(file, name)).toEqual(bytes)
      }
    }), { numRuns: 60 })
  })

  it('gives absolute offsets', async () => {
    const path = join(temporaryFolder(), 'x.safetensors')
    await writeSafetensors(path, sourcesOf([['a', 'U8', [3]], ['b', 'F32', [1]]]))
    await using file = await openSafetensors(path)
    const { byteOffset } = file.entry('a')
    expect(readFileSync(path).subarray(byteOffset, byteOffset + 3)).toEqual(Buffer.from(pattern(3, 0)))
    expect(file.entry('b').byteOffset % 8).toBe(0)
    expect(() => file.entry('aa')).toThrow(/no tensor "aa"; did you mean "a"\?/)
  })

  it('is as strict as the reference, or stricter where its own README forbids the file', async () => {
    const path = join(temporaryFolder(), 'x.safetensors')
    const verdicts: [string, boolean, boolean][] = []
    for (const { name, base64, repeat, accepted } of hostile) {
      writeFileSync(path, base64 === undefined ? tensorFile(`{"a":${'['.repeat(repeat!)}${']'.repeat(repeat!)}}`) : Buffer.from(base64, 'base64'))
      const error = await openSafetensors(path).then((file) => file.close(), (e: unknown) => e)
      if (error !== undefined) expect(error, name).toBeInstanceOf(FileFormatError)
      if (error !== undefined) expect((error as Error).message, name).toContain(path)
      verdicts.push([name, accepted, error === undefined])
    }
    expect(verdicts).toHaveLength(93)
    expect(verdicts.filter(([, peer, ours]) => ours && !peer)).toEqual([])
    expect(verdicts.filter(([, peer, ours]) => peer && !ours).map(([name]) => name)).toEqual(['leading space', 'zero times huge', 'duplicate name', 'metadata null', 'unknown field', 'name empty', 'name with nul'])
  })

  it.each([
    ['{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,9007199254740993]}}', /expected a whole number from 0 to 2\^53 - 1, got 9007199254740993/],
    ['{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}', /tensor "a": expected 8 bytes \(F32 \[2\]\), got 4/],
    ['{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}', /tensor "b": expected its data to begin at 4, got 2; it overlaps/],
    ['{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}', /tensor "b": .* there is a hole before it/],
    ['{"a":{"dtype":"U8","shape":[9],"data_offsets":[0,9]}}', /expected 9 bytes of tensor data, got 8; the file is truncated/],
    ['{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"a":{}}', /x\.safetensors: header:1:54: the name "a" stands twice/],
  ])('names file, tensor, expected and got: %s', async (header, message) => {
    const path = join(temporaryFolder(), 'x.safetensors')
    writeFileSync(path, tensorFile(header, new Uint8Array(8)))
    await expect(openSafetensors(path)).rejects.toThrow(message)
  })

  it('gives an error, not a signal, when the file shrinks after opening', async () => {
    const path = join(temporaryFolder(), 'x.safetensors')
    await writeSafetensors(path, sourcesOf([['a', 'U8', [1000]]]))
    await using file = await openSafetensors(path)
    truncateSync(path, 500)
    await expect(file.readTensorBytes('a')).rejects.toThrow(/expected 1000 bytes, got \d+; the file was changed while open/)
  })

  it('never crashes on a mutated file', async () => {
    const folder = temporaryFolder()
    const path = join(folder, 'x.safetensors')
    await writeSafetensors(path, sourcesOf(written[3]!.entries), { format: 'pt' })
    const good = readFileSync(path)
    let seed = 1
    const random = (below: number) => { seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0; return seed % below }
    let refused = 0
    for (let i = 0; i < 2000; i++) {
      let bad = Buffer.from(good)
      for (let flips = 1 + random(3); flips > 0; flips--) bad[random(600)] = random(4) ? random(256) : 0x30 + random(10)
      if (random(8) === 0) bad = bad.subarray(0, random(bad.length))
      writeFileSync(path, bad)
      const error = await openSafetensors(path).then((file) => file.close(), (e: unknown) => e)
      if (error !== undefined) { expect(error).toBeInstanceOf(FileFormatError); refused++ }
    }
    expect(refused).toBeGreaterThan(1500)
  })
})
