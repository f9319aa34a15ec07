import { realpath } from 'node:fs/promises'
import { basename, dirname, join, relative, resolve, isAbsolute, sep } from 'node:path'
import { FileFormatError } from '../errors.ts'
import { readError } from './filesystem.ts'

const reserved = /^(?:con|prn|aux|nul|conin\$|conout\$|clock\$|com[0-9¹²³]|lpt[0-9¹²³])(?:\.|$)/i

/** Why `name` may not be used as a file name from a list we did not write; undefined when it may. POSIX and Windows rules hold on both. */
export function nameProblem(name: string): string | undefined {
  if (name === '') return 'it is empty'
  if (Buffer.byteLength(name) > 1024) return 'it is longer than 1024 bytes'
  // eslint-disable-next-line no-control-regex -- control characters are what it looks for
  if (/[\u0000-\u001f\u007f]/.test(name)) return 'it contains a control character'
  if (/\p{Surrogate}/u.test(name)) return 'it is not valid Unicode'
  if (name.includes('\\')) return 'it contains a backslash'
  if (name.startsWith('/')) return 'it is an absolute path'
  if (name.includes(':')) return 'it contains a colon (a drive or a stream on Windows)'
  if (/[<>"|?*]/.test(name)) return 'it contains a character Windows forbids'
  for (const part of name.split('/')) {
    if (part === '') return 'it has an empty part'
    if (part === '..') return 'it leaves the folder'
    if (part === '.') return 'it has a "." part'
    if (part.endsWith('.') || part.endsWith(' ') || part.startsWith(' ')) return 'a part ends in a dot or a space, or starts with one'
    if (reserved.test(part)) return `${JSON.stringify(part)} is a device name on Windows`
    if (Buffer.byteLength(part) > 255) return 'a part is longer than 255 bytes'
  }
  return undefined
}

const inside = (root: string, path: string): boolean => {
  const way = relative(root, path)
  return way !== '' && way !== '..' && !way.startsWith(`..${sep}`) && !isAbsolute(way)
}

/** The path of `name` in the folder `root`; refuses names that could leave it. `source` says where the name came from. */
export function resolveInside(root: string, name: string, source: string): string {
  const problem = nameProblem(name)
  const path = resolve(root, name)
  if (problem ?? (inside(resolve(root), path) ? undefined : 'it leaves the folder')) {
    throw new FileFormatError(`${source}: the file name ${JSON.stringify(name)} is refused: ${problem ?? 'it leaves the folder'}; it must be a plain name inside the folder`)
  }
  return path
}

/**
 * As resolveInside, and follows links: the file must really lie in `root`. Hugging Face's cache is the exception it knows:
 * `snapshots/<revision>/name` may point to `blobs/` of the same repository.
 */
export async function resolveExistingInside(root: string, name: string, source: string): Promise<string> {
  const path = resolveInside(root, name, source)
  try {
    const real = await realpath(path)
    const home = await realpath(root)
    const blobs = basename(dirname(home)) === 'snapshots' ? join(dirname(dirname(home)), 'blobs') : undefined
    if (inside(home, real) || (blobs !== undefined && inside(blobs, real))) return path
    throw new FileFormatError(`${source}: ${JSON.stringify(name)} is a link that leaves the folder; copy the file into it`)
  } catch (error) {
    throw readError(error, path)
  }
}
