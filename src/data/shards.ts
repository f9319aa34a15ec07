import { createHash } from 'node:crypto'
import { open } from 'node:fs/promises'
import { z } from 'zod'
import { DataError } from '../errors.ts'
import { replaceFile } from '../files/atomic.ts'
import { align, encodeContainer, hashBytes, headerAt, headerLength, parseHeader, type ContainerKind } from '../files/container.ts'
import { readError, readFully, type FileSystem } from '../files/filesystem.ts'
import { lazily } from '../options.ts'
import type { ExampleStats } from './examples.ts'
import { ignoreIndex, type Example } from './types.ts'

/**
 * A shard is a container (src/files/container.ts) with the body
 *   u32 [examples] lengths, padded to 8; u16 or i32 [tokens] ids, padded to 8; 1 bit a token, set where the label is the id.
 */
const kind: ContainerKind = { magic: 'ANNLSHRD', version: 1 }

/** Where a shard's rows begin or end in the sources: the reader's number, and how many of its rows lie before. */
export interface SourcePosition { reader: number, record: number }

const whole = lazily(() => z.number().int().nonnegative())
const positionSchema = lazily(() => z.object({ reader: whole, record: whole }))
const headerSchema = lazily(() => z.object({
  fingerprint: z.string(), examples: whole, tokens: whole, idBytes: z.union([z.literal(2), z.literal(4)]),
  start: positionSchema, end: positionSchema,
  stats: z.object({
    rows: whole, examples: whole, tokens: whole, trainedTokens: whole, truncated: whole, truncatedEnd: whole, withoutTrainedEos: whole,
    emptyMask: whole, boundaryMismatch: whole, dialogues: whole.default(0), badRows: whole,
  }),
}))
export type ShardHeader = z.infer<typeof headerSchema>

/** A shard that has been found whole: where its parts lie. */
export interface ShardInfo {
  path: string
  header: ShardHeader
  lengths: Uint32Array
  idsAt: number
  maskAt: number
  bytes: number
}

/** What a shard is made from. */
export interface ShardContent {
  fingerprint: string
  start: SourcePosition
  end: SourcePosition
  stats: ExampleStats
  examples: readonly Example[]
}

/** The bytes of a shard. Ids are stored in two bytes when all are small enough. */
export function encodeShard(content: ShardContent): Uint8Array {
  const { examples, fingerprint, start, end, stats } = content
  const tokens = examples.reduce((sum, { inputIds }) => sum + inputIds.length, 0)
  const idBytes = fitTwoBytes(examples) ? 2 : 4
  const header: ShardHeader = { fingerprint, examples: examples.length, tokens, idBytes, start, end, stats }
  const { bytes: bodyBytes } = layout(0, header)
  return encodeContainer(kind, header, bodyBytes - hashBytes, (out, bodyAt) => {
    const { idsAt, maskAt } = layout(bodyAt, header)
    const ids = idBytes === 2 ? new Uint16Array(out.buffer, out.byteOffset + idsAt, tokens) : new Int32Array(out.buffer, out.byteOffset + idsAt, tokens)
    let at = 0
    for (const [i, { inputIds, labels }] of examples.entries()) {
      out.writeUInt32LE(inputIds.length, bodyAt + 4 * i)
      ids.set(inputIds, at)
      for (let j = 0; j < labels.length; j++, at++) {
        if (labels[j] !== ignoreIndex) out[maskAt + (at >> 3)]! |= 1 << (at & 7)
      }
    }
  })
}

function fitTwoBytes(examples: readonly Example[]): boolean {
  for (const { inputIds } of examples) for (const id of inputIds) if (id > 65535) return false
  return true
}

function layout(lengthsAt: number, header: ShardHeader): { idsAt: number, maskAt: number, bytes: number } {
  const idsAt = lengthsAt + align(4 * header.examples)
  const maskAt = idsAt + align(header.idBytes * header.tokens)
  return { idsAt, maskAt, bytes: maskAt + align(Math.ceil(header.tokens / 8)) + hashBytes }
}

/** Writes a shard; it appears under its name only when whole. Returns its statistics. */
export async function writeShard(path: string, content: ShardContent, fileSystem?: FileSystem): Promise<void> {
  await replaceFile(path, encodeShard(content), fileSystem ? { fileSystem } : {})
}

/**
 * Opens a shard and checks that it is whole: sizes always, the SHA-256 sum if `checksum`. Throws DataError naming the file and what
 * is wrong; undefined when the file is not there.
 */
export async function inspectShard(path: string, checksum: boolean): Promise<ShardInfo | undefined> {
  const file = await open(path, 'r').catch((error: unknown) => {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined
    throw readError(error, path)
  })
  if (!file) return undefined
  try {
    const { size } = await file.stat()
    const fail = (why: string): never => { throw new DataError(`${path}: the cache shard is damaged: ${why}; delete the file to have it made again`) }
    const front = Buffer.alloc(headerAt)
    const json = Buffer.alloc(headerLength(kind, front.subarray(0, await readFully(file, front, 0)), size, fail))
    await readFully(file, json, headerAt)
    const header = parseHeader(headerSchema, json, fail)
    const bodyAt = headerAt + json.length
    const parts = layout(bodyAt, header)
    if (parts.bytes !== size) fail(`expected ${parts.bytes} bytes, got ${size}`)
    const lengths = new Uint32Array(header.examples)
    await readFully(file, new Uint8Array(lengths.buffer), bodyAt)
    if (lengths.reduce((sum, length) => sum + length, 0) !== header.tokens) fail('its lengths do not add up')
    if (checksum) {
      const hash = createHash('sha256')
      const buffer = Buffer.alloc(1 << 20)
      for (let at = 0; at < size - hashBytes; at += buffer.length) {
        const part = buffer.subarray(0, Math.min(buffer.length, size - hashBytes - at))
        await readFully(file, part, at)
        hash.update(part)
      }
      const stored = Buffer.alloc(hashBytes)
      await readFully(file, stored, size - hashBytes)
      if (!hash.digest().equals(stored)) fail('its checksum is wrong')
    }
    return { path, header, lengths, ...parts }
  } finally {
    await file.close()
  }
}
