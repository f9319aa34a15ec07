// Proves that a failure at any single file operation leaves what was saved before intact, and that damage is found.
import { mkdirSync, readFileSync, readdirSync, writeFileSync, existsSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { AnnealError, DiskFullError, FileFormatError } from '../../src/errors.ts'
import { manifestName, recoverLeftovers, replaceDirectory, replaceFile, requireFreeSpace, verifyDirectory } from '../../src/files/atomic.ts'
import { FileAccessError } from '../../src/errors.ts'
import type { FileSystem } from '../../src/files/filesystem.ts'
import { writeSafetensors } from '../../src/files/safetensors-writer.ts'
import { failingFileSystem, pattern, temporaryFolder } from './helpers.ts'

const errnos = ['ENOSPC', 'EIO', 'EACCES'] as const

/** Runs `attempt` with the k-th operation failing, for k = 1, 2, … until one goes through without a failure. */
async function forEveryFailure(errno: string, attempt: (fileSystem: ReturnType<typeof failingFileSystem>, k: number) => Promise<void>): Promise<number> {
  for (let k = 1; ; k++) {
    const fileSystem = failingFileSystem(k, errno)
    await attempt(fileSystem, k)
    if (fileSystem.failed === undefined) return k - 1
    expect(k).toBeLessThan(500)
  }
}

/** What a save writes: a nested folder, a file in two pieces, a safetensors file. */
const fill = (content: string, fileSystem: FileSystem) => async (folder: string): Promise<void> => {
  await fileSystem.mkdir(join(folder, 'sub'))
  await replaceFile(join(folder, 'sub', 'a.txt'), content, { fileSystem })
  await writeSafetensors(join(folder, 'model.safetensors'), [{ name: 'w', dtype: 'U8', shape: [5000], bytes: pattern(5000, content.length) }], { content }, fileSystem)
}

describe('replaceFile', () => {
  it.each(errnos)('holds the old or the new content after %s at any operation', async (errno) => {
    const folder = temporaryFolder()
    const path = join(folder, 'a.json')
    const failures = await forEveryFailure(errno, async (fileSystem) => {
      writeFileSync(path, 'old')
      const error = await replaceFile(path, 'new', { fileSystem }).catch((e: unknown) => e)
      if (fileSystem.failed === undefined) expect(readFileSync(path, 'utf8')).toBe('new')
      else {
        expect(['old', 'new']).toContain(readFileSync(path, 'utf8'))
        if (error !== undefined) expect(error).toBeInstanceOf(errno === 'ENOSPC' ? DiskFullError : FileAccessError)
      }
      expect(readdirSync(folder)).toEqual(['a.json'])
    })
    expect(failures).toBeGreaterThanOrEqual(8)
  })

  it('names path and bytes needed when the disk is full', async () => {
    const path = join(temporaryFolder(), 'a.bin')
    await expect(replaceFile(path, new Uint8Array(1234), { fileSystem: failingFileSystem(3, 'ENOSPC') }))
      .rejects.toThrow(`${path}: the disk is full (1.23 kB needed)`)
  })

  it.each([['EFBIG', /larger than the system allows/], ['EDQUOT', /quota/]])('takes %s for a full disk', async (errno, message) => {
    const error: unknown = await replaceFile(join(temporaryFolder(), 'a'), 'x', { fileSystem: failingFileSystem(3, errno) }).catch((e: unknown) => e)
    expect(error).toBeInstanceOf(DiskFullError)
    expect((error as Error).message).toMatch(message)
  })

  it('names a folder that is missing', async () => {
    await expect(replaceFile(join(temporaryFolder(), 'no', 'a'), 'x')).rejects.toThrow(FileAccessError)
  })

  it('asks for room before it writes', async () => {
    const path = join(temporaryFolder(), 'a')
    await expect(requireFreeSpace(path, Number.MAX_SAFE_INTEGER)).rejects.toThrow(DiskFullError)
    await expect(requireFreeSpace(path, 1)).resolves.toBeUndefined()
  })
})

describe('replaceDirectory', () => {
  it.each(errnos)('leaves the old directory or the new, whole, after %s at any operation', async (errno) => {
    const folder = temporaryFolder()
    const path = join(folder, 'checkpoint-1')
    const contentOf = async () => { await verifyDirectory(path); return readFileSync(join(path, 'sub', 'a.txt'), 'utf8') }
    await replaceDirectory(path, fill('old', failingFileSystem(0, '')))
    let replaced = 0
    const failures = await forEveryFailure(errno, async (fileSystem) => {
      const error = await replaceDirectory(path, fill('newer', fileSystem), { fileSystem, bytesNeeded: 6000 }).catch((e: unknown) => e)
      const content = await contentOf()
      if (error === undefined) expect(content).toBe('newer')
      else {
        expect(error).toBeInstanceOf(AnnealError)
        expect(error).toBeInstanceOf(errno === 'ENOSPC' ? DiskFullError : FileAccessError)
      }
      if (content === 'newer') { replaced++; await replaceDirectory(path, fill('old', failingFileSystem(0, ''))) }
      await recoverLeftovers(folder, () => true)
      expect(readdirSync(folder)).toEqual(['checkpoint-1'])
    })
    expect(failures).toBeGreaterThan(40)
    expect(replaced).toBeGreaterThanOrEqual(1)
  })

  it('loses nothing when every operation fails from the k-th on, as on a disk that is gone', async () => {
    const folder = temporaryFolder()
    const path = join(folder, 'checkpoint-1')
    for (let k = 1; ; k++) {
      await replaceDirectory(path, fill('old', failingFileSystem(0, '')))
      const fileSystem = failingFileSystem(k, 'EIO', true)
      await replaceDirectory(path, fill('newer', fileSystem), { fileSystem }).catch(() => undefined)
      await recoverLeftovers(folder, () => true)
      await verifyDirectory(path)
      expect(['old', 'newer']).toContain(readFileSync(join(path, 'sub', 'a.txt'), 'utf8'))
      if (fileSystem.failed === undefined) break
      expect(k).toBeLessThan(500)
    }
  })

  it('passes the writer\'s own error on and cleans up', async () => {
    const folder = temporaryFolder()
    await expect(replaceDirectory(join(folder, 'x'), () => Promise.reject(new RangeError('mine')))).rejects.toThrow(RangeError)
    expect(readdirSync(folder)).toEqual([])
  })

  it('lists every file in the manifest, also of odd names', async () => {
    const path = join(temporaryFolder(), 'x')
    await replaceDirectory(path, (folder) => {
      mkdirSync(join(folder, 'a', 'b'), { recursive: true })
      for (const name of ['__proto__', '10', '9', 'a/b/c', 'é']) writeFileSync(join(folder, name), name)
      return Promise.resolve()
    })
    const manifest = await verifyDirectory(path)
    expect(Object.keys(manifest.files).sort()).toEqual(['10', '9', '__proto__', 'a/b/c', 'é'])
  })
})

describe('recoverLeftovers', () => {
  it('puts back what was about to be replaced and removes what was half written, of dead processes only', async () => {
    const folder = temporaryFolder()
    const dead = 2 ** 22 + 1
    for (const name of [`a.old-${dead}`, `a.tmp-${dead}`, 'b', `b.old-${dead}`, `c.tmp-${process.ppid}`, `other.tmp-${dead}`]) {
      mkdirSync(join(folder, name))
      writeFileSync(join(folder, name, 'name'), name)
    }
    await recoverLeftovers(folder, (name) => name !== 'other')
    expect(readdirSync(folder).sort()).toEqual(['a', 'b', `c.tmp-${process.ppid}`, `other.tmp-${dead}`])
    expect(readFileSync(join(folder, 'a', 'name'), 'utf8')).toBe(`a.old-${dead}`)
    expect(readFileSync(join(folder, 'b', 'name'), 'utf8')).toBe('b')
  })
})

describe('verifyDirectory', () => {
  const sealed = async () => {
    const path = join(temporaryFolder(), 'x')
    await replaceDirectory(path, fill('content', failingFileSystem(0, '')))
    return path
  }

  it('finds every one of 1,000 flipped bits', async () => {
    const path = await sealed()
    const files = ['model.safetensors', 'sub/a.txt', manifestName]
    let seed = 7
    const random = (below: number) => { seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0; return Math.floor((seed / 2 ** 32) * below) }
    for (let i = 0; i < 1000; i++) {
      const file = join(path, files[i % 3]!)
      const good = readFileSync(file)
      const bad = Buffer.from(good)
      bad[random(bad.length)]! ^= 1 << random(8)
      writeFileSync(file, bad)
      await expect(verifyDirectory(path), `flip ${i}`).rejects.toThrow(FileFormatError)
      writeFileSync(file, good)
    }
    await verifyDirectory(path)
  })

  it.each<[string, (path: string) => void, RegExp]>([
    ['a missing manifest', (path) => { writeFileSync(join(path, manifestName), '') }, /manifest\.json:1:1: expected a value, got the end of the file/],
    ['a shortened file', (path) => { writeFileSync(join(path, 'sub', 'a.txt'), 'con') }, /a\.txt: expected 7 bytes, got 3/],
    ['a changed file', (path) => { writeFileSync(join(path, 'sub', 'a.txt'), 'kontent') }, /a\.txt: expected SHA-256/],
    ['a manifest of another shape', (path) => { writeFileSync(join(path, manifestName), '{"version":1,"files":[]}') }, /not a manifest/],
  ])('names %s', async (_, damage, message) => {
    const path = await sealed()
    damage(path)
    await expect(verifyDirectory(path)).rejects.toThrow(message)
  })

  it('does not mind files added later', async () => {
    const path = await sealed()
    writeFileSync(join(path, 'notes.txt'), 'mine')
    await expect(verifyDirectory(path)).resolves.toBeDefined()
  })

  it('refuses a path that is no directory', async () => {
    const folder = temporaryFolder()
    writeFileSync(join(folder, 'f'), '')
    symlinkSync('nowhere', join(folder, 'link'))
    for (const name of ['f', 'link', 'missing']) await expect(verifyDirectory(join(folder, name))).rejects.toThrow(FileFormatError)
    expect(existsSync(join(folder, 'missing'))).toBe(false)
  })
})
