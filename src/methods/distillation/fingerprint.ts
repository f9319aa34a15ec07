import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { readError } from '../../files/filesystem.ts'

/** SHA-256 of a model folder's config and weights. */
export async function teacherFingerprint(folder: string): Promise<string> {
  const all = await readdir(folder).catch((error: unknown) => { throw readError(error, folder) })
  const hash = createHash('sha256')
  for (const name of all.filter((one) => one === 'config.json' || one.endsWith('.safetensors')).sort()) {
    hash.update(`${name}\n`)
    for await (const part of createReadStream(join(folder, name), { highWaterMark: 1 << 20 })) hash.update(part as Buffer)
  }
  return hash.digest('hex')
}
