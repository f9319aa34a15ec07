import { createHash } from 'node:crypto'
import { existsSync, renameSync, rmSync } from 'node:fs'
import { basename, dirname, join, resolve } from 'node:path'
import { DiskFullError, FileFormatError, LockedError } from '../errors.ts'
import { onEarlyEnd } from './earlyEnd.ts'
import { errnoOf, formatBytes, nodeFileSystem, readError, readFully, writeError, writeFully, isMissing, type FileSystem, type OpenFile } from './filesystem.ts'
import { decodeUtf8, parseStrictJson, type JsonValue } from './json.ts'

export interface AtomicOptions {
  /** Refuse beforehand, with DiskFullError, when less than this is free. */
  bytesNeeded?: number
  fileSystem?: FileSystem
}

/** The file that seals a directory: size and SHA-256 of every other file. */
export const manifestName = 'manifest.json'

export interface Manifest { files: Record<string, { bytes: number, sha256: string }> }

/** `name.tmp-<pid>`: what a write in progress is called; `name.old-<pid>`: what it replaces, for the instant between two renames. */
const leftover = /^(.+)\.(tmp|old)-(\d+)$/

/** What a write of `path` in progress is called. */
export const temporaryOf = (path: string): string => `${path}.tmp-${process.pid}`

/** Temporary directories this process is writing right now: no one's leftovers. */
const inProgress = new Set<string>()

export const isTemporaryName = (name: string): boolean => leftover.test(name)

/** Throws DiskFullError when the folder of `path` has less than `bytesNeeded` free. */
export async function requireFreeSpace(path: string, bytesNeeded: number, fileSystem: FileSystem = nodeFileSystem): Promise<void> {
  const folder = dirname(path)
  const free = await fileSystem.freeBytes(folder).catch((error: unknown) => { throw writeError(error, folder) })
  if (free < bytesNeeded) {
    throw new DiskFullError(`${path}: ${formatBytes(bytesNeeded)} needed, ${formatBytes(free)} free; free space or choose another output directory. What was saved before is intact`)
  }
}

/** Makes renames in a folder durable. Windows cannot open a folder and needs none of it. */
async function syncFolder(path: string, fileSystem: FileSystem): Promise<void> {
  if (process.platform === 'win32') return
  const folder = await fileSystem.open(path, 'r')
  try { await folder.sync() } finally { await folder.close() }
}

/** Writes, syncs and closes one file. */
async function writeSynced(path: string, write: (file: OpenFile) => Promise<void>, fileSystem: FileSystem): Promise<void> {
  const file = await fileSystem.open(path, 'w+')
  try {
    await write(file)
    await file.sync()
  } finally {
    await file.close()
  }
}

/**
 * Writes a file so that it appears under its name only when complete and synced; a crash or an error at any instant leaves
 * what stood there before. `content` is the bytes, or a function that writes them into the open file.
 */
export async function replaceFile(
  path: string, content: Uint8Array | string | ((file: OpenFile) => Promise<void>), options: AtomicOptions = {},
): Promise<void> {
  const fileSystem = options.fileSystem ?? nodeFileSystem
  const bytes = typeof content === 'string' ? Buffer.from(content) : content
  const bytesNeeded = typeof bytes === 'function' ? options.bytesNeeded : bytes.byteLength
  const temporary = temporaryOf(path)
  const done = onEarlyEnd({ undo: () => { rmSync(temporary, { force: true }) } })
  try {
    if (bytesNeeded) await requireFreeSpace(path, bytesNeeded, fileSystem)
    await writeSynced(temporary, typeof bytes === 'function' ? bytes : (file) => writeFully(file, bytes, 0), fileSystem)
    await fileSystem.rename(temporary, path)
    await syncFolder(dirname(path), fileSystem)
  } catch (error) {
    await removeQuietly(temporary, fileSystem)
    throw writeError(error, path, bytesNeeded)
  } finally {
    done()
  }
}

/** Cleaning up must not hide the error that made it necessary; recoverLeftovers catches what stays. */
async function removeQuietly(path: string, fileSystem: FileSystem): Promise<void> {
  await fileSystem.rm(path).catch(() => undefined)
}

/**
 * Writes a directory so that it appears under its name only when complete: `write` fills a temporary sibling, every file is
 * synced, a manifest of sizes and SHA-256 sums is written last, then one rename. A directory of that name is replaced.
 */
export async function replaceDirectory(path: string, write: (folder: string) => Promise<void>, options: AtomicOptions = {}): Promise<void> {
  const fileSystem = options.fileSystem ?? nodeFileSystem
  const parent = dirname(path)
  const temporary = temporaryOf(path)
  const old = `${path}.old-${process.pid}`
  if (inProgress.has(resolve(temporary))) throw new LockedError(`${path} is being written already; await the first save before the next of that name`)
  inProgress.add(resolve(temporary)).add(resolve(old))
  const done = onEarlyEnd({ undo: () => {
    if (existsSync(old) && !existsSync(path)) renameSync(old, path)
    for (const half of [temporary, old]) rmSync(half, { recursive: true, force: true })
  } })
  try {
    await fileSystem.mkdir(parent)
    if (options.bytesNeeded) await requireFreeSpace(path, options.bytesNeeded, fileSystem)
    await fileSystem.rm(temporary)
    await fileSystem.mkdir(temporary)
    await write(temporary)
    await seal(temporary, fileSystem)
    if (await exists(path, fileSystem)) {
      await fileSystem.rm(old)
      await fileSystem.rename(path, old)
      try {
        await fileSystem.rename(temporary, path)
      } catch (error) {
        await fileSystem.rename(old, path)
        throw error
      }
      await syncFolder(parent, fileSystem)
      await removeQuietly(old, fileSystem)
    } else {
      await fileSystem.rename(temporary, path)
      await syncFolder(parent, fileSystem)
    }
  } catch (error) {
    await removeQuietly(temporary, fileSystem)
    throw writeError(error, path, options.bytesNeeded)
  } finally {
    done()
    inProgress.delete(resolve(temporary))
    inProgress.delete(resolve(old))
  }
}

async function exists(path: string, fileSystem: FileSystem): Promise<boolean> {
  try {
    await fileSystem.stat(path)
    return true
  } catch (error) {
    if (isMissing(error)) return false
    throw error
  }
}

/** Names of the files below a folder, with forward slashes, sorted; and its folders, deepest first. */
async function walk(root: string, fileSystem: FileSystem, at = ''): Promise<{ files: string[], folders: string[] }> {
  const files: string[] = []
  const folders: string[] = []
  for (const entry of await fileSystem.readdir(join(root, at))) {
    const name = at ? `${at}/${entry.name}` : entry.name
    if (!entry.directory) { files.push(name); continue }
    const below = await walk(root, fileSystem, name)
    files.push(...below.files)
    folders.push(...below.folders, name)
  }
  return { files: files.sort(), folders }
}

/** Hashes what is on disk, not what was meant to be, in pieces of 1 MiB. */
async function hashFile(path: string, fileSystem: FileSystem, sync: boolean): Promise<{ bytes: number, sha256: string }> {
  const file = await fileSystem.open(path, sync ? 'r+' : 'r')
  try {
    const hash = createHash('sha256')
    const piece = Buffer.allocUnsafeSlow(1 << 20)
    let bytes = 0
    for (;;) {
      const got = await readFully(file, piece, bytes)
      hash.update(piece.subarray(0, got))
      bytes += got
      if (got < piece.length) break
    }
    if (sync) await file.sync()
    return { bytes, sha256: hash.digest('hex') }
  } finally {
    await file.close()
  }
}

const manifestText = (manifest: Manifest): string => JSON.stringify({ version: 1, files: manifest.files }, undefined, 2) + '\n'

/** Syncs every file below the folder and writes the manifest last. */
async function seal(folder: string, fileSystem: FileSystem): Promise<void> {
  const { files, folders } = await walk(folder, fileSystem)
  const manifest: Manifest = { files: Object.create(null) as Manifest['files'] }
  for (const name of files) if (name !== manifestName) manifest.files[name] = await hashFile(join(folder, name), fileSystem, true)
  for (const name of folders) await syncFolder(join(folder, name), fileSystem)
  await writeSynced(join(folder, manifestName), (file) => writeFully(file, Buffer.from(manifestText(manifest)), 0), fileSystem)
  await syncFolder(folder, fileSystem)
}

/** Reads a manifest; throws FileFormatError when it is missing or not exactly what seal() writes. */
export async function readManifest(folder: string, fileSystem: FileSystem = nodeFileSystem): Promise<Manifest> {
  const path = join(folder, manifestName)
  let bytes: Uint8Array
  try {
    bytes = await fileSystem.readFile(path)
  } catch (error) {
    if (isMissing(error) || errnoOf(error) === 'ENOTDIR') throw new FileFormatError(`${path}: missing; the directory was not written to its end`, { cause: error })
    throw readError(error, path)
  }
  const text = decodeUtf8(bytes, path)
  const value = parseStrictJson(text, path, { uniqueKeys: true, wholeNumbers: true })
  if (!isManifest(value) || manifestText(value) !== text) throw new FileFormatError(`${path}: not a manifest as anneal writes it; the directory is damaged`)
  return value
}

function isManifest(value: JsonValue): value is { files: Record<string, { bytes: number, sha256: string }> } {
  const object = (v: JsonValue | undefined): v is { [key: string]: JsonValue } => typeof v === 'object' && v !== null && !Array.isArray(v)
  return object(value) && value.version === 1 && object(value.files)
    && Object.values(value.files).every((file) => object(file) && typeof file.bytes === 'number' && typeof file.sha256 === 'string')
}

/** Checks every file of a sealed directory against its manifest; throws FileFormatError naming the first that differs. */
export async function verifyDirectory(folder: string, fileSystem: FileSystem = nodeFileSystem): Promise<Manifest> {
  const manifest = await readManifest(folder, fileSystem)
  const sizes = await Promise.all(Object.keys(manifest.files).map(async (name) => {
    const size = await fileSystem.stat(join(folder, name)).then((info) => info.size, (error: unknown) => { if (isMissing(error)) return undefined; throw readError(error, join(folder, name)) })
    return [name, size] as const
  }))
  for (const [name, size] of sizes) {
    const { bytes } = manifest.files[name]!
    if (size !== bytes) throw new FileFormatError(`${join(folder, name)}: expected ${bytes} bytes, got ${size ?? 'no file'}; the directory is damaged`)
  }
  for (const [name, { sha256 }] of Object.entries(manifest.files)) {
    const path = join(folder, name)
    const got = await hashFile(path, fileSystem, false).catch((error: unknown) => { throw readError(error, path) })
    if (got.sha256 !== sha256) throw new FileFormatError(`${path}: expected SHA-256 ${sha256}, got ${got.sha256}; the file is damaged`)
  }
  return manifest
}

const isAlive = (pid: number): boolean => {
  try { process.kill(pid, 0); return true } catch (error) { return errnoOf(error) === 'EPERM' }
}

/**
 * Clears what a killed process left in a folder: puts back a directory that was about to be replaced, removes half-written ones.
 * Leaves alone what belongs to a living process or to a save under way. Only names whose base passes `mine` are touched.
 */
export async function recoverLeftovers(folder: string, mine: (name: string) => boolean, fileSystem: FileSystem = nodeFileSystem): Promise<void> {
  const names = (await fileSystem.readdir(folder)).map((entry) => entry.name)
  for (const name of names) {
    const [, base, kind, pid] = leftover.exec(name) ?? []
    if (base === undefined || !mine(base) || inProgress.has(resolve(folder, name)) || (Number(pid) !== process.pid && isAlive(Number(pid)))) continue
    if (kind === 'old' && !names.includes(base)) await fileSystem.rename(join(folder, name), join(folder, base))
    else await fileSystem.rm(join(folder, name))
  }
}

/** Removes a directory in one visible step: renamed aside first, so no half-deleted one is ever found under its name. */
export async function removeDirectory(path: string, fileSystem: FileSystem = nodeFileSystem): Promise<void> {
  const aside = join(dirname(path), `${basename(path)}.tmp-${process.pid}`)
  await fileSystem.rm(aside)
  await fileSystem.rename(path, aside)
  await fileSystem.rm(aside)
}
