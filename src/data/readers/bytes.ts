import { createReadStream } from 'node:fs'
import { pipeline, type Readable } from 'node:stream'
import { isUtf8 } from 'node:buffer'
import { createGunzip } from 'node:zlib'
import { DataError } from '../../errors.ts'
import { errnoOf, readError } from '../../files/filesystem.ts'

/** The longest line or JSON element that is read, in bytes. */
export const maxRecordBytes = 64 * 2 ** 20

const utf16 = (chunk: Buffer): boolean => (chunk[0] === 0xff && chunk[1] === 0xfe) || (chunk[0] === 0xfe && chunk[1] === 0xff)

/** What begins the files of packers. */
const packers: readonly (readonly [magic: Buffer, advice: string])[] = [
  [Buffer.of(0x1f, 0x8b, 8), 'gzipped data; let its name end in .gz'], [Buffer.of(0x28, 0xb5, 0x2f, 0xfd), 'Zstandard data; unpack it with zstd -d'],
  [Buffer.of(0xfd, 0x37, 0x7a, 0x58, 0x5a), 'xz data; unpack it with xz -d'], [Buffer.of(0x50, 0x4b, 3, 4), 'a zip archive; unpack it'],
]

function refusePacked(file: string, chunk: Buffer): void {
  const packer = packers.find(([magic]) => chunk.subarray(0, magic.length).equals(magic))
  if (packer) throw new DataError(`${file}: expected text, got ${packer[1]}`)
}

/** The bytes of a file, unpacked if its name ends in `.gz`, without a UTF-8 byte order mark. */
export async function* readBytes(file: string): AsyncGenerator<Buffer> {
  const source = createReadStream(file, { highWaterMark: 1 << 18 })
  const stream: Readable = file.endsWith('.gz') ? pipeline(source, createGunzip({ chunkSize: 1 << 18 }), () => undefined) : source
  let first = true
  try {
    for await (const chunk of stream as AsyncIterable<Buffer>) {
      if (first && utf16(chunk)) throw new DataError(`${file}: expected UTF-8, got UTF-16; convert it, for example with iconv -f UTF-16 -t UTF-8`)
      if (first) refusePacked(file, chunk)
      const bom = first && chunk[0] === 0xef && chunk[1] === 0xbb && chunk[2] === 0xbf
      first = false
      yield bom ? chunk.subarray(3) : chunk
    }
  } catch (error) {
    if (errnoOf(error)?.startsWith('Z_')) throw new DataError(`${file}: damaged gzip data: ${(error as Error).message}; fetch the file again`, { cause: error })
    throw readError(error, file)
  } finally {
    source.destroy()
    stream.destroy()
  }
}

/** A line's bytes, or what is wrong with it. Lines count from 1. */
export interface Line { bytes: Buffer, line: number, tooLong?: boolean }

/** Splits at LF only (JSON may hold U+2028), drops a CR before it, and cuts off lines above `maxRecordBytes`. */
export async function* readLines(file: string, limit = maxRecordBytes): AsyncGenerator<Line> {
  let parts: Buffer[] = []
  let size = 0
  let line = 1
  const take = (last?: Buffer): Line => {
    if (last) { parts.push(last); size += last.length }
    const tooLong = size > limit
    let bytes = tooLong ? Buffer.alloc(0) : parts.length === 1 ? parts[0]! : Buffer.concat(parts, size)
    if (bytes.at(-1) === 13) bytes = bytes.subarray(0, -1)
    parts = []
    size = 0
    return tooLong ? { bytes, line: line++, tooLong } : { bytes, line: line++ }
  }
  for await (const chunk of readBytes(file)) {
    let start = 0
    for (;;) {
      const end = chunk.indexOf(10, start)
      if (end < 0) break
      yield take(chunk.subarray(start, end))
      start = end + 1
    }
    if (start < chunk.length) {
      size += chunk.length - start
      if (size <= limit) parts.push(chunk.subarray(start))
      else parts = []
    }
  }
  if (size > 0) yield take()
}

/** Decodes UTF-8; undefined when the bytes are not UTF-8. */
export function decodeStrict(bytes: Buffer): string | undefined {
  return isUtf8(bytes) ? bytes.toString('utf8') : undefined
}

/** The text of a file in well-formed pieces as they arrive. */
export async function* readText(file: string): AsyncGenerator<string> {
  const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
  let read = 0
  for await (const chunk of readBytes(file)) {
    yield decode(decoder, chunk, file, read)
    read += chunk.length
  }
  const rest = decode(decoder, undefined, file, read)
  if (rest) yield rest
}

function decode(decoder: InstanceType<typeof TextDecoder>, chunk: Buffer | undefined, file: string, read: number): string {
  try {
    return chunk ? decoder.decode(chunk, { stream: true }) : decoder.decode()
  } catch (error) {
    throw new DataError(`${file}: expected UTF-8 text, got other bytes after byte ${read}; convert the file or leave it out`, { cause: error })
  }
}
