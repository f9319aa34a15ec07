import { appendFile, open, mkdir, rename, rm, readdir, stat, statfs, readFile, writeFile } from 'node:fs/promises'
import { dirname } from 'node:path'
import { AnnealError, DiskFullError, FileAccessError } from '../errors.ts'

/** An open file: what node's FileHandle gives, reduced to what anneal uses. `fd` is for native code. */
export interface OpenFile {
  readonly fd: number
  read(buffer: Uint8Array, offset: number, length: number, position: number): Promise<{ bytesRead: number }>
  write(buffer: Uint8Array, offset: number, length: number, position: number): Promise<{ bytesWritten: number }>
  sync(): Promise<void>
  stat(): Promise<{ size: number }>
  close(): Promise<void>
}

/** Every file operation that writing a model or a checkpoint needs. Tests pass one that fails at the k-th call. */
export interface FileSystem {
  open(path: string, flags: string): Promise<OpenFile>
  mkdir(path: string): Promise<void>
  rename(from: string, to: string): Promise<void>
  rm(path: string): Promise<void>
  readdir(path: string): Promise<{ name: string, directory: boolean }[]>
  stat(path: string): Promise<{ size: number, directory: boolean }>
  freeBytes(path: string): Promise<number>
  readFile(path: string): Promise<Uint8Array>
}

/** The real file system. `mkdir` makes parents, `rm` removes a tree and accepts a missing path. */
export const nodeFileSystem: FileSystem = {
  open: (path, flags) => open(path, flags, 0o644),
  mkdir: makeFolders,
  rename,
  rm: (path) => rm(path, { recursive: true, force: true }),
  readdir: async (path) =>
    (await readdir(path, { withFileTypes: true })).map((entry) => ({ name: entry.name, directory: entry.isDirectory() })),
  stat: async (path) => {
    const info = await stat(path)
    return { size: info.size, directory: info.isDirectory() }
  },
  freeBytes: async (path) => {
    const info = await statfs(path)
    return info.bavail * info.bsize
  },
  readFile,
}

/** The errno name of an error (`ENOENT`), or undefined. */
export function errnoOf(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined
}

/** True for a path that is not there. */
export const isMissing = (error: unknown): boolean => errnoOf(error) === 'ENOENT'

/** `1.50 GB`, as disks count. */
export function formatBytes(bytes: number): string {
  const units = ['bytes', 'kB', 'MB', 'GB', 'TB']
  let unit = 0
  let value = bytes
  while (value >= 1000 && unit < units.length - 1) { value /= 1000; unit++ }
  return unit === 0 ? `${bytes} bytes` : `${value.toFixed(2)} ${units[unit]!}`
}

/** Turns an operating system error met while writing `path` into anneal's; typed errors pass through unchanged. */
export function writeError(error: unknown, path: string, bytesNeeded?: number): Error {
  if (error instanceof AnnealError) return error
  const errno = errnoOf(error)
  const need = bytesNeeded === undefined ? '' : ` (${formatBytes(bytesNeeded)} needed)`
  if (errno === 'ENOSPC' || errno === 'EDQUOT' || errno === 'EFBIG') {
    const what = { ENOSPC: 'the disk is full', EDQUOT: 'the disk quota is used up', EFBIG: 'the file is larger than the system allows' }[errno]
    return new DiskFullError(`${path}: ${what}${need}; free space or choose another output directory. What was saved before is intact`, { cause: error })
  }
  if (errno === undefined) return error instanceof Error ? error : new Error(String(error))
  const hints: Record<string, string> = {
    EACCES: 'check who may write there', EPERM: 'check who may write there', EROFS: 'the file system is read-only; choose another output directory',
    EIO: 'the device reports an error; check the disk', ENOENT: 'a folder on the way does not exist', EMFILE: 'too many open files; raise ulimit -n',
  }
  const hint = hints[errno] ?? 'check the path'
  return new FileAccessError(`${path}: cannot write: ${errno}; ${hint}. What was saved before is intact`, { cause: error })
}

/** Turns an operating system error met while reading `path` into a FileAccessError. */
export function readError(error: unknown, path: string): Error {
  if (error instanceof AnnealError) return error
  const errno = errnoOf(error)
  if (errno === undefined) return error instanceof Error ? error : new Error(String(error))
  const hints: Record<string, string> = { ENOENT: 'no such file; check the path', EACCES: 'check who may read it', EISDIR: 'it is a folder; give a file', ENOTDIR: 'a file stands where a folder was expected' }
  return new FileAccessError(`${path}: cannot read: ${errno}; ${hints[errno] ?? 'check the path'}`, { cause: error })
}

/** Makes a folder and those above it, where they are missing. */
export async function makeFolder(path: string): Promise<void> {
  await makeFolders(path).catch((error: unknown) => { throw writeError(error, path) })
}

/** As mkdir() of Node with `recursive`, which never returns where a folder that is there refuses a new one with ENOENT, as /proc does. */
export async function makeFolders(path: string): Promise<void> {
  try {
    await mkdir(path)
  } catch (error) {
    if (errnoOf(error) === 'EEXIST' && await stat(path).then((found) => found.isDirectory(), () => false)) return
    const parent = dirname(path)
    if (!isMissing(error) || parent === path) throw error
    if (!await stat(parent).catch(() => undefined)) await makeFolders(parent)
    await mkdir(path).catch((again: unknown) => { if (errnoOf(again) !== 'EEXIST') throw again })
  }
}

/** Writes a text where nothing is lost if half of it is there: a log, or data that is made again. */
export async function writeText(path: string, text: string): Promise<void> {
  await writeFile(path, text).catch((error: unknown) => { throw writeError(error, path, Buffer.byteLength(text)) })
}

export async function appendText(path: string, text: string): Promise<void> {
  await appendFile(path, text).catch((error: unknown) => { throw writeError(error, path, Buffer.byteLength(text)) })
}

/** Node moves at most 2 GiB a call. */
const maxTransfer = 1 << 30

/** Writes all of `bytes` at `position`, in as many calls as it takes. */
export async function writeFully(file: OpenFile, bytes: Uint8Array, position: number): Promise<void> {
  let done = 0
  while (done < bytes.byteLength) {
    const { bytesWritten } = await file.write(bytes, done, Math.min(maxTransfer, bytes.byteLength - done), position + done)
    done += bytesWritten
  }
}

/** Fills `target` from `position`; returns how many bytes there were, fewer than asked at the end of the file. */
export async function readFully(file: OpenFile, target: Uint8Array, position: number): Promise<number> {
  let done = 0
  while (done < target.byteLength) {
    const { bytesRead } = await file.read(target, done, Math.min(maxTransfer, target.byteLength - done), position + done)
    if (bytesRead === 0) break
    done += bytesRead
  }
  return done
}
