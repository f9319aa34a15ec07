// Proves that a lock which is released while another process looks at it does not cost a third its own.
import { existsSync, readFileSync, unlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, it, vi } from 'vitest'
import { lockDirectory, lockName } from '../../src/files/lock.ts'
import { temporaryFolder } from './helpers.ts'

const hooks = vi.hoisted(() => ({ beforeRead: (_path: string): void => undefined, beforeUnlink: (_path: string): void => undefined }))
vi.mock('node:fs/promises', async (original) => {
  const real = await original<typeof import('node:fs/promises')>()
  return {
    ...real,
    readFile: (path: string, encoding: 'utf8') => { hooks.beforeRead(path); return real.readFile(path, encoding) },
    unlink: (path: string) => { hooks.beforeUnlink(path); return real.unlink(path) },
  }
})

it('removes no lock that a third took after the release', async () => {
  const folder = temporaryFolder()
  const path = join(folder, lockName)
  await lockDirectory(folder)
  const third = JSON.stringify({ ...JSON.parse(readFileSync(path, 'utf8')) as object, token: 'third' })
  hooks.beforeRead = (read) => { if (read === path) { hooks.beforeRead = () => undefined; unlinkSync(path) } }
  let taken = false
  hooks.beforeUnlink = (gone) => { if (gone === path && !existsSync(path)) { taken = true; writeFileSync(path, third) } }
  const mine = await lockDirectory(folder)
  expect(taken).toBe(false)
  hooks.beforeUnlink = () => undefined
  await mine.release()
  expect(existsSync(path)).toBe(false)
})
