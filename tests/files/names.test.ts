// Proves that no file name from an index or a list can lead out of its folder, by POSIX's rules or Windows'.
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { FileFormatError } from '../../src/errors.ts'
import { nameProblem, resolveExistingInside, resolveInside } from '../../src/files/names.ts'
import { FileAccessError } from '../../src/errors.ts'
import { temporaryFolder } from './helpers.ts'

const bad = [
  '', '.', '..', '../x', '../../etc/passwd', 'a/../../x', 'a/..', 'a/../b', '/etc/passwd', '//server/share', '\\\\server\\share', '..\\x', 'a\\b', 'C:\\x', 'C:x', 'c:/x', 'file:///etc/passwd',
  'a\0b', 'a\nb', '\u007f', 'a//b', 'a/', './a', 'a/./b', 'con', 'CON', 'nul.txt', 'a/AUX', 'com1', 'COM¹', 'lpt9.safetensors', 'conin$', 'a.', 'a ', ' a', 'a/b./c', 'x:stream', 'a*b', 'a?b', 'a|b', '"a"', '<a>',
  '\ud800', 'x'.repeat(256), 'é'.repeat(128), Array.from({ length: 600 }, () => 'a').join('/'),
]
const good = ['model.safetensors', 'model-00001-of-00002.safetensors', 'sub/model.safetensors', '.hidden', 'a b', '..a', 'a..b', '...x', 'console', 'com', 'nullable', 'é/ü', '日本語.json', '__proto__']

describe('nameProblem', () => {
  it.each(bad.map((name) => [name.slice(0, 30), name]))('refuses %j', (_, name) => {
    expect(nameProblem(name)).toBeTypeOf('string')
    expect(() => resolveInside('/models/a', name, 'index.json')).toThrow(FileFormatError)
    expect(() => resolveInside('/models/a', name, 'index.json')).toThrow(/^index\.json: the file name ".*" is refused/s)
  })

  it.each(good)('accepts %j', (name) => { expect(resolveInside('/models/a', name, 'x')).toBe(join('/models/a', name)) })

  it('keeps whatever it accepts inside', () => {
    const part = fc.oneof(fc.constantFrom('..', '.', '', 'a', '/', '\\', 'C:'), fc.string())
    fc.assert(fc.property(fc.array(part, { maxLength: 6 }).map((parts) => parts.join('/')), (name) => {
      if (nameProblem(name) === undefined) expect(resolveInside('/models/a', name, 'x').startsWith('/models/a/')).toBe(true)
    }), { numRuns: 2000 })
  })
})

describe('resolveExistingInside', () => {
  it('follows links and refuses those that leave', async () => {
    const root = temporaryFolder()
    const folder = join(root, 'model')
    mkdirSync(join(folder, 'sub'), { recursive: true })
    mkdirSync(join(root, 'model-evil'))
    writeFileSync(join(root, 'secret'), '')
    writeFileSync(join(root, 'model-evil', 'secret'), '')
    writeFileSync(join(folder, 'sub', 'real'), '')
    symlinkSync('sub/real', join(folder, 'inner'))
    symlinkSync('../secret', join(folder, 'outer'))
    symlinkSync('..', join(folder, 'up'))
    symlinkSync('../model-evil/secret', join(folder, 'sibling'))
    symlinkSync('nowhere', join(folder, 'dangling'))
    await expect(resolveExistingInside(folder, 'inner', 'index')).resolves.toBe(join(folder, 'inner'))
    for (const name of ['outer', 'up/secret', 'up', 'sibling']) await expect(resolveExistingInside(folder, name, 'index')).rejects.toThrow(/is a link that leaves the folder/)
    for (const name of ['dangling', 'missing']) await expect(resolveExistingInside(folder, name, 'index')).rejects.toThrow(FileAccessError)
  })

  it('accepts the links of Hugging Face\'s cache, to the blobs of the same repository', async () => {
    const root = temporaryFolder()
    for (const path of ['models--a/blobs', 'models--a/snapshots/123', 'models--b/blobs']) mkdirSync(join(root, path), { recursive: true })
    const snapshot = join(root, 'models--a/snapshots/123')
    for (const repo of ['models--a', 'models--b']) writeFileSync(join(root, repo, 'blobs', 'f00d'), '')
    symlinkSync('../../blobs/f00d', join(snapshot, 'model.safetensors'))
    symlinkSync('../../../models--b/blobs/f00d', join(snapshot, 'other.safetensors'))
    await expect(resolveExistingInside(snapshot, 'model.safetensors', 'x')).resolves.toBe(join(snapshot, 'model.safetensors'))
    await expect(resolveExistingInside(snapshot, 'other.safetensors', 'x')).rejects.toThrow(FileFormatError)
  })
})
