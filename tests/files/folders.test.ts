// Proves that folders are made with those above them, and that one which cannot be made is an error soon.
import { existsSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { join, relative } from 'node:path'
import { expect, test } from 'vitest'
import { FileAccessError } from '../../src/errors.ts'
import { makeFolder } from '../../src/files/filesystem.ts'
import { lockDirectory } from '../../src/files/lock.ts'
import { temporaryFolder } from './helpers.ts'

test('makes what is missing, at the same time too, and takes what is there', async () => {
  const folder = temporaryFolder()
  const deep = join(folder, 'a', 'b', 'c')
  await Promise.all([makeFolder(deep), makeFolder(join(deep, 'd')), makeFolder(deep), makeFolder(join(folder, 'a', 'e'))])
  await makeFolder(deep)
  await makeFolder(relative('', join(folder, 'f', 'g')))
  symlinkSync(deep, join(folder, 'link'))
  await makeFolder(join(folder, 'link'))
  for (const path of [join(deep, 'd'), join(folder, 'a', 'e'), join(folder, 'f', 'g')]) expect(statSync(path).isDirectory()).toBe(true)
})

test('a file in the way is named', async () => {
  const file = join(temporaryFolder(), 'file')
  writeFileSync(file, 'mine')
  for (const path of [file, join(file, 'out'), join(file, 'out', 'deep')]) {
    await expect(makeFolder(path)).rejects.toBeInstanceOf(FileAccessError)
    await expect(makeFolder(path)).rejects.toThrow(`${path}: cannot write: E`)
  }
  await expect(lockDirectory(file)).rejects.toBeInstanceOf(FileAccessError)
})

// A folder that is there and refuses new ones with ENOENT; only Linux has one.
test('a folder that takes no new ones is no endless search', async () => {
  const path = existsSync('/proc/self') ? '/proc/anneal/out' : join(temporaryFolder(), '\0', 'out')
  await expect(makeFolder(path)).rejects.toThrow()
  await expect(lockDirectory(path)).rejects.toThrow()
})
