// Proves that one run at a time holds an output directory, and that the lock of a dead run is taken over.
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { LockedError } from '../../src/errors.ts'
import { FileAccessError } from '../../src/errors.ts'
import { lockDirectory, lockName } from '../../src/files/lock.ts'
import { temporaryFolder } from './helpers.ts'

const stored = (folder: string) => JSON.parse(readFileSync(join(folder, lockName), 'utf8')) as Record<string, unknown> & { token: string }

describe('lockDirectory', () => {
  it('makes the folder, excludes others and frees it', async () => {
    const folder = join(temporaryFolder(), 'run')
    const lock = await lockDirectory(folder)
    await expect(lockDirectory(folder)).rejects.toThrow(LockedError)
    await expect(lockDirectory(folder)).rejects.toThrow(new RegExp(`run is in use by process ${process.pid} on .* since 20`))
    await lock.release()
    await lock.release()
    expect(readdirSync(folder)).toEqual([])
    await using again = await lockDirectory(folder)
    expect(existsSync(again.path)).toBe(true)
  })

  it('excludes another process', async () => {
    const folder = temporaryFolder()
    await using _lock = await lockDirectory(folder)
    const module = new URL('../../src/files/lock.ts', import.meta.url).href
    const code = `import(${JSON.stringify(module)}).then((m) => m.lockDirectory(${JSON.stringify(folder)})).then(() => console.log('taken'), (e) => console.log(e.code))`
    const { stdout } = spawnSync(process.execPath, ['--import', import.meta.resolve('tsx'), '-e', code], { encoding: 'utf8' })
    expect(stdout.trim()).toBe('ERR_LOCKED')
  })

  it.each<[string, (mine: Record<string, unknown>) => string]>([
    ['a process that is gone', (mine) => JSON.stringify({ ...mine, pid: 2 ** 22 + 1 })],
    ['a reused process number', (mine) => JSON.stringify({ ...mine, processStart: '1' })],
    ['a file cut short', (mine) => JSON.stringify(mine).slice(0, 20)],
    ['an empty file', () => ''],
  ])('takes over the lock of %s', async (_, content) => {
    const folder = temporaryFolder()
    await lockDirectory(folder)
    const mine = stored(folder)
    writeFileSync(join(folder, lockName), content(mine))
    await using _lock = await lockDirectory(folder)
    expect(stored(folder)).toMatchObject({ pid: process.pid })
    expect(stored(folder).token).not.toBe(mine.token)
    expect(readdirSync(folder)).toEqual([lockName])
  })

  it('respects a lock of another machine', async () => {
    const folder = temporaryFolder()
    await lockDirectory(folder)
    writeFileSync(join(folder, lockName), JSON.stringify({ ...stored(folder), host: 'elsewhere', pid: 2 ** 22 + 1 }))
    await expect(lockDirectory(folder)).rejects.toThrow(/on elsewhere/)
    expect(readdirSync(folder)).toEqual([lockName])
  })

  it('gives one of many at once the lock', async () => {
    const folder = temporaryFolder()
    for (let round = 0; round < 50; round++) {
      const dead = await lockDirectory(folder)
      writeFileSync(dead.path, JSON.stringify({ ...stored(folder), pid: 2 ** 22 + 1 }))
      const results = await Promise.allSettled(Array.from({ length: 8 }, () => lockDirectory(folder)))
      const held = results.flatMap((result) => result.status === 'fulfilled' ? [result.value] : [])
      expect(held).toHaveLength(1)
      for (const result of results) if (result.status === 'rejected') expect(result.reason).toBeInstanceOf(LockedError)
      expect(readdirSync(folder)).toEqual([lockName])
      await held[0]!.release()
    }
  })

  it('goes on where a process died while it took a stale lock over', async () => {
    const folder = temporaryFolder()
    const { path } = await lockDirectory(folder)
    const dead = { ...stored(folder), pid: 2 ** 22 + 1 }
    writeFileSync(path, JSON.stringify(dead))
    writeFileSync(`${path}.${dead.token.slice(0, 8)}`, JSON.stringify({ ...dead, token: 'another' }))
    await using _lock = await lockDirectory(folder)
    expect(stored(folder)).toMatchObject({ pid: process.pid })
    expect(readdirSync(folder)).toEqual([lockName])
  })

  it('does not release a lock that another took over', async () => {
    const folder = temporaryFolder()
    const lock = await lockDirectory(folder)
    writeFileSync(join(folder, lockName), JSON.stringify({ ...stored(folder), token: 'other' }))
    await lock.release()
    expect(stored(folder).token).toBe('other')
  })

  it('names a path where no folder can be', async () => {
    const folder = temporaryFolder()
    writeFileSync(join(folder, 'file'), '')
    await expect(lockDirectory(join(folder, 'file'))).rejects.toThrow(FileAccessError)
  })
})
