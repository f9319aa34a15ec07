import { rmSync } from 'node:fs'
import { readdir, rename, rmdir } from 'node:fs/promises'
import { dirname, resolve } from 'node:path'
import { during } from '../activity.ts'
import { temporaryOf } from './atomic.ts'
import { onEarlyEnd } from './earlyEnd.ts'
import { isMissing, makeFolder, nodeFileSystem, writeError } from './filesystem.ts'

/**
 * Lets `write` fill a folder. Where there is none, or an empty one, it appears when all of it is written; in one that holds files already each file is
 * replaced by itself, and the others stay.
 */
export async function fillFolder(path: string, write: (folder: string) => Promise<void>): Promise<void> {
  const names = await readdir(path).catch((error: unknown) => {
    if (isMissing(error)) return undefined
    throw writeError(error, path)
  })
  if (names && names.length > 0) {
    await during({ what: `writing ${path}`, kept: () => `${path} may hold files of before and new ones; run the command again` }, () => write(path))
    return
  }
  const temporary = temporaryOf(resolve(path))
  const done = onEarlyEnd({ undo: () => { rmSync(temporary, { recursive: true, force: true }) } })
  try {
    await makeFolder(dirname(temporary))
    await nodeFileSystem.rm(temporary)
    await during({ what: `writing ${path}` }, () => write(temporary))
    if (names) await rmdir(path)
    await rename(temporary, path)
  } catch (error) {
    await nodeFileSystem.rm(temporary).catch(() => undefined)
    throw writeError(error, path)
  } finally {
    done()
  }
}
