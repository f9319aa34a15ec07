import { mkdtempSync, rmSync, readFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { onTestFinished } from 'vitest'
import { nodeFileSystem, type FileSystem, type OpenFile } from '../../src/files/filesystem.ts'

/** A folder that lives as long as the test. */
export function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'anneal-'))
  onTestFinished(() => { rmSync(folder, { recursive: true, force: true }) })
  return folder
}

/** The recorded JSON of a topic. */
export function recorded(topic: string): unknown {
  return JSON.parse(readFileSync(new URL(`../recorded/${topic}/recorded.json`, import.meta.url), 'utf8'))
}

/** The bytes of tensor number `seed` in the recorded files; see record.py. */
export const pattern = (length: number, seed: number): Uint8Array => Uint8Array.from({ length }, (_, i) => ((i * 7 + seed) >> 2) & 1)

const operations = ['open', 'mkdir', 'rename', 'rm', 'readdir', 'stat', 'freeBytes', 'readFile'] as const

/**
 * The real file system, but the `failAt`-th operation (from 1, each read, write, sync and close of an open file counted too)
 * fails with `errno`; with `sticky`, all later ones as well. `count` tells how many were asked for.
 */
export function failingFileSystem(failAt: number, errno: string, sticky = false): FileSystem & { count: number, failed: string | undefined } {
  const step = (what: string): void => {
    state.count++
    if (state.count === failAt || (sticky && state.count > failAt)) {
      state.failed ??= what
      throw Object.assign(new Error(`${errno}: injected, ${what}`), { code: errno })
    }
  }
  const wrapFile = (file: OpenFile): OpenFile => ({
    fd: file.fd,
    read: async (...args) => { step('read'); return file.read(...args) },
    write: async (...args) => { step('write'); return file.write(...args) },
    sync: async () => { step('sync'); await file.sync() },
    stat: async () => { step('fstat'); return file.stat() },
    // A failing close still closes, as in POSIX.
    close: async () => { await file.close(); step('close') },
  })
  const wrapped = Object.fromEntries(operations.map((name) => [name, async (...args: unknown[]) => {
    step(name)
    return (nodeFileSystem[name] as (...args: unknown[]) => Promise<unknown>)(...args)
  }])) as unknown as FileSystem
  const state = Object.assign(wrapped, {
    count: 0,
    failed: undefined as string | undefined,
    open: async (path: string, flags: string) => { step('open'); return wrapFile(await nodeFileSystem.open(path, flags)) },
  })
  return state
}
