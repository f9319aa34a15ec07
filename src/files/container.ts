import { createHash } from 'node:crypto'

/** Bytes of the SHA-256 at the end of a container. */
export const hashBytes = 32
/** Where the header begins. */
export const headerAt = 16

/** The next multiple of 8. */
export const align = (n: number): number => Math.ceil(n / 8) * 8

/**
 * A container, little-endian: 8 bytes magic, u32 version, u32 length of the header, the header as JSON padded with blanks to 8 bytes, a body, and 32 bytes
 * SHA-256 of all before. Here are the front and the sum; the body is the caller's.
 */
export interface ContainerKind { magic: string; version: number }

/** The bytes of a container whose body, of `bodyBytes`, `write` fills in; it is given where the body begins. */
export function encodeContainer({ magic, version }: ContainerKind, header: object, bodyBytes: number, write: (out: Buffer, bodyAt: number) => void): Buffer {
  const json = Buffer.from(JSON.stringify(header))
  const bodyAt = align(headerAt + json.length)
  const out = Buffer.alloc(bodyAt + bodyBytes + hashBytes)
  out.write(magic, 0, 'latin1')
  out.writeUInt32LE(version, 8)
  out.writeUInt32LE(bodyAt - headerAt, 12)
  out.fill(0x20, headerAt, bodyAt)
  json.copy(out, headerAt)
  write(out, bodyAt)
  createHash('sha256').update(out.subarray(0, -hashBytes)).digest().copy(out, out.length - hashBytes)
  return out
}

/** Bytes of the header that the first 16 bytes of a container announce. Calls `fail` with what is wrong: of another kind or version, or cut off. */
export function headerLength({ magic, version }: ContainerKind, front: Buffer, size: number, fail: (why: string) => never): number {
  if (size < headerAt + hashBytes || front.length < headerAt || front.toString('latin1', 0, 8) !== magic) fail('it is no shard')
  if (front.readUInt32LE(8) !== version) fail(`expected version ${version}, got ${front.readUInt32LE(8)}`)
  const length = front.readUInt32LE(12)
  if (length > Math.min(size - headerAt - hashBytes, 65536)) fail('its header is longer than the file')
  return length
}

/** A header read back by its schema. */
export function parseHeader<T>(schema: { parse(value: unknown): T }, json: Buffer, fail: (why: string) => never): T {
  try {
    return schema.parse(JSON.parse(json.toString('utf8')))
  } catch {
    return fail('its header is not readable')
  }
}

/** Reads a container that is in memory: its sum is checked before anything else is believed. Returns the header and where the body begins. */
export function decodeContainer<T>(kind: ContainerKind, schema: { parse(value: unknown): T }, bytes: Buffer, fail: (why: string) => never): { header: T, bodyAt: number } {
  const length = headerLength(kind, bytes.subarray(0, headerAt), bytes.length, fail)
  const end = bytes.length - hashBytes
  if (!createHash('sha256').update(bytes.subarray(0, end)).digest().equals(bytes.subarray(end))) fail('its checksum is wrong')
  return { header: parseHeader(schema, bytes.subarray(headerAt, headerAt + length), fail), bodyAt: headerAt + length }
}
