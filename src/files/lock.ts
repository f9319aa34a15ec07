import { constants, copyFile, link, open, readFile, unlink } from 'node:fs/promises'
import { readFileSync, unlinkSync } from 'node:fs'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { randomUUID } from 'node:crypto'
import { z } from 'zod'
import { FileAccessError, LockedError } from '../errors.ts'
import { lazily } from '../options.ts'
import { onEarlyEnd } from './earlyEnd.ts'
import { errnoOf, isMissing, makeFolders, writeError } from './filesystem.ts'

/** The file that marks an output directory as in use. */
export const lockName = '.anneal.lock'

const holderSchema = lazily(() => z.object({ pid: z.number(), host: z.string(), since: z.string(), processStart: z.string().nullable(), token: z.string() }))
type Holder = z.infer<typeof holderSchema>

/** A held lock; release it when the run ends. A killed run's lock is recognised as stale by the next. */
export interface DirectoryLock {
  readonly path: string
  release(): Promise<void>
  [Symbol.asyncDispose](): Promise<void>
}

/** When a process began, in clock ticks since boot, so that a reused pid is told apart; null where the system does not say. */
function processStart(pid: number): string | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? null
  } catch {
    return null
  }
}

function isStale(holder: Holder | null): boolean {
  if (!holder) return true
  if (holder.host !== hostname()) return false
  try { process.kill(holder.pid, 0) } catch (error) { return errnoOf(error) !== 'EPERM' }
  const start = processStart(holder.pid)
  return holder.processStart !== null && start !== null && start !== holder.processStart
}

/** Undefined when the file is gone, null when it was cut short by a crash. */
async function readHolder(path: string): Promise<Holder | null | undefined> {
  try {
    const parsed = holderSchema.safeParse(JSON.parse(await readFile(path, 'utf8')))
    return parsed.success ? parsed.data : null
  } catch (error) {
    if (error instanceof SyntaxError) return null
    if (isMissing(error)) return undefined
    throw error
  }
}

/**
 * Puts the draft in place as the lock; false while a live process holds it. A stale lock is removed only by the one that holds the lock on
 * removing it, which is a lock like any other and named after what it removes: what stands at `path` cannot have changed in between.
 */
async function acquire(draft: string, path: string): Promise<boolean> {
  for (let attempt = 0; attempt < 3; attempt++) {
    try {
      await publish(draft, path)
      return true
    } catch (error) {
      if (errnoOf(error) !== 'EEXIST') throw error
    }
    const holder = await readHolder(path)
    // Released in between: there is nothing to remove, and what stands here next is another's.
    if (holder === undefined) continue
    if (!isStale(holder)) return false
    const removal = `${path}.${holder?.token.slice(0, 8) ?? 'unreadable'}`
    if (!(await acquire(draft, removal))) return false
    try {
      const now = await readHolder(path)
      if (now !== undefined && now?.token === holder?.token) await unlink(path)
    } finally {
      await unlink(removal)
    }
  }
  return false
}

/**
 * Claims an output directory for this process; throws LockedError while another run uses it. A lock whose process is gone is
 * taken over; a lock of another machine (shared disk) is respected, since its process cannot be seen from here.
 */
export async function lockDirectory(folder: string): Promise<DirectoryLock> {
  const path = join(folder, lockName)
  const mine: Holder = { pid: process.pid, host: hostname(), since: new Date().toISOString(), processStart: processStart(process.pid), token: randomUUID() }
  try {
    await makeFolders(folder)
    // The lock appears complete: written under another name, then linked.
    const draft = `${path}.${mine.token}`
    const file = await open(draft, 'wx', 0o644)
    try { await file.writeFile(JSON.stringify(mine) + '\n') } finally { await file.close() }
    try {
      if (!(await acquire(draft, path))) throw locked(folder, path, await readHolder(path))
      return heldLock(path, mine)
    } finally {
      await unlink(draft)
    }
  } catch (error) {
    if (errnoOf(error) === 'EEXIST' || errnoOf(error) === 'ENOTDIR') throw new FileAccessError(`${folder}: expected a folder to write into, got a file; choose another output directory`, { cause: error })
    throw writeError(error, path)
  }
}

/** Puts the lock in place, failing with EEXIST if there is one. File systems without hard links get a plain exclusive copy. */
async function publish(draft: string, path: string): Promise<void> {
  try {
    await link(draft, path)
  } catch (error) {
    if (!['EPERM', 'ENOTSUP', 'ENOSYS', 'EOPNOTSUPP'].includes(errnoOf(error) ?? '')) throw error
    await copyFile(draft, path, constants.COPYFILE_EXCL)
  }
}

function heldLock(path: string, mine: Holder): DirectoryLock {
  const released = onEarlyEnd({ undo: () => { if (readFileSync(path, 'utf8').includes(mine.token)) unlinkSync(path) } })
  const release = async () => {
    released()
    if ((await readHolder(path))?.token === mine.token) await unlink(path)
  }
  return { path, release, [Symbol.asyncDispose]: release }
}

function locked(folder: string, path: string, holder: Holder | null | undefined): LockedError {
  const who = holder ? `process ${holder.pid} on ${holder.host} since ${holder.since}` : 'another process'
  return new LockedError(`${folder} is in use by ${who}; wait for it to end, choose another output directory, or remove ${path} if that run is gone`)
}
