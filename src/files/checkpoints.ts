import { basename, join, resolve } from 'node:path'
import { ConfigError, FileFormatError } from '../errors.ts'
import { isTemporaryName, recoverLeftovers, removeDirectory, replaceDirectory, verifyDirectory, type Manifest } from './atomic.ts'
import { isMissing, nodeFileSystem, readError, type FileSystem } from './filesystem.ts'

/** A checkpoint directory, `checkpoint-<step>`. */
export interface Checkpoint { path: string, step: number }

export interface SaveCheckpointOptions {
  /** Keep this many, the newest first; the best and the newest always stay. Default: all. */
  saveTotalLimit?: number | undefined
  /** Path of the best checkpoint so far, never removed. */
  bestCheckpoint?: string | undefined
  /** Refuse beforehand, with DiskFullError, when less than this is free. */
  bytesNeeded?: number | undefined
  /** Told when an old checkpoint could not be removed; the new one is saved all the same. */
  onWarning?: ((message: string) => void) | undefined
  fileSystem?: FileSystem | undefined
}

const stepOf = (name: string): number | undefined => {
  const digits = /^checkpoint-(0|[1-9]\d{0,14})$/.exec(name)?.[1]
  return digits === undefined ? undefined : Number(digits)
}

/** The checkpoints of an output directory, oldest first, unverified; none when the directory does not exist. */
export async function listCheckpoints(outputDir: string, fileSystem: FileSystem = nodeFileSystem): Promise<Checkpoint[]> {
  const entries = await fileSystem.readdir(outputDir).catch((error: unknown) => {
    if (isMissing(error)) return []
    throw readError(error, outputDir)
  })
  return entries
    .flatMap(({ name, directory }) => {
      const step = stepOf(name)
      return directory && step !== undefined ? [{ path: join(outputDir, name), step }] : []
    })
    .sort((a, b) => a.step - b.step)
}

/**
 * Saves `checkpoint-<step>`: `write` fills a temporary folder, which is synced, sealed with a manifest and renamed; only then are
 * old checkpoints removed. A kill or an error at any instant leaves every earlier checkpoint whole. Returns the checkpoint's path.
 */
export async function saveCheckpoint(
  outputDir: string, step: number, write: (folder: string) => Promise<void>, options: SaveCheckpointOptions = {},
): Promise<string> {
  if (!Number.isSafeInteger(step) || step < 0) throw new ConfigError(`step: expected a whole number, got ${step}`)
  checkLimit(options.saveTotalLimit)
  const fileSystem = options.fileSystem ?? nodeFileSystem
  const path = join(outputDir, `checkpoint-${step}`)
  await recover(outputDir, fileSystem)
  await replaceDirectory(path, write, { fileSystem, ...(options.bytesNeeded === undefined ? {} : { bytesNeeded: options.bytesNeeded }) })
  await rotateCheckpoints(outputDir, { ...options, newest: path })
  return path
}

/** A failure to tidy up must not stop a save or a resume: what is in the way fails there, with its own error. */
async function recover(outputDir: string, fileSystem: FileSystem): Promise<void> {
  await recoverLeftovers(outputDir, (name) => stepOf(name) !== undefined, fileSystem).catch(() => undefined)
}

function checkLimit(limit: number | undefined): void {
  if (limit !== undefined && !(Number.isInteger(limit) && limit >= 1)) throw new ConfigError(`saveTotalLimit: expected a whole number from 1, got ${limit}`)
}

/** Removes the oldest checkpoints beyond `saveTotalLimit`, never the newest nor the best. Returns the paths removed. */
export async function rotateCheckpoints(outputDir: string, options: SaveCheckpointOptions & { newest?: string }): Promise<string[]> {
  const { saveTotalLimit, bestCheckpoint, onWarning } = options
  checkLimit(saveTotalLimit)
  if (saveTotalLimit === undefined) return []
  const fileSystem = options.fileSystem ?? nodeFileSystem
  const removed: string[] = []
  try {
    const checkpoints = await listCheckpoints(outputDir, fileSystem)
    const newest = options.newest ?? checkpoints.at(-1)?.path
    const kept = new Set([newest, bestCheckpoint].filter((path) => path !== undefined).map((path) => resolve(path)))
    const mustStay = checkpoints.filter(({ path }) => kept.has(resolve(path))).length
    let excess = checkpoints.length - Math.max(saveTotalLimit, mustStay)
    for (const { path } of checkpoints) {
      if (excess <= 0) break
      if (kept.has(resolve(path))) continue
      await removeDirectory(path, fileSystem)
      removed.push(path)
      excess--
    }
  } catch (error) {
    onWarning?.(`${outputDir}: an old checkpoint could not be removed: ${error instanceof Error ? error.message : String(error)}; remove it by hand`)
  }
  return removed
}

/** Checks a checkpoint against its manifest, every byte; throws FileFormatError naming the file that differs. */
export async function verifyCheckpoint(path: string, fileSystem: FileSystem = nodeFileSystem): Promise<Manifest> {
  if (isTemporaryName(basename(path))) throw new FileFormatError(`${path}: this checkpoint was not written to its end`)
  return verifyDirectory(path, fileSystem)
}

/**
 * The newest checkpoint that verifies, or undefined when there is none. Damaged and unfinished ones are passed over and told to
 * `onSkipped`; what a killed save left behind is cleared first.
 */
export async function latestCheckpoint(
  outputDir: string, onSkipped?: (checkpoint: Checkpoint, reason: FileFormatError) => void, fileSystem: FileSystem = nodeFileSystem,
): Promise<Checkpoint | undefined> {
  await recover(outputDir, fileSystem)
  for (const checkpoint of (await listCheckpoints(outputDir, fileSystem)).reverse()) {
    try {
      await verifyCheckpoint(checkpoint.path, fileSystem)
      return checkpoint
    } catch (error) {
      if (!(error instanceof FileFormatError)) throw error
      onSkipped?.(checkpoint, error)
    }
  }
  return undefined
}
