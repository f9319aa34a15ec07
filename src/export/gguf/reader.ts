import { FileFormatError } from '../../errors.ts'
import { nodeFileSystem, readError, readFully, type OpenFile } from '../../files/index.ts'
import { didYouMean } from '../../suggest.ts'
import { formatByteLength, otherFormats, tensorFormats, type TensorFormatName } from './blocks.ts'
import { alignUp, defaultAlignment, magic, scalarBytes, valueTypes, type GgufScalar, type GgufScalarType, type GgufValue } from './types.ts'

/** A tensor of a GGUF file. */
export interface GgufTensor {
  readonly format: TensorFormatName
  /** Row-major, the slowest axis first. */
  readonly shape: readonly number[]
  /** From the beginning of the file. */
  readonly byteOffset: number
  readonly byteLength: number
}

/** The header needs more bytes than were read. */
class Incomplete extends Error {}

/** Reads the header's parts from bytes; every length is checked against the file before anything is made from it. */
class Cursor {
  at = 0
  readonly #bytes: Buffer
  readonly #path: string
  readonly #fileSize: number

  constructor(bytes: Buffer, path: string, fileSize: number) {
    this.#bytes = bytes
    this.#path = path
    this.#fileSize = fileSize
  }

  fail(what: string): never { throw new FileFormatError(`${this.#path}: at byte ${this.at}: ${what}; the file is damaged or was not written to its end`) }

  #take(count: number): number {
    if (count > this.#fileSize - this.at) this.fail(`expected ${count} bytes more, got ${this.#fileSize - this.at}`)
    if (this.at + count > this.#bytes.length) throw new Incomplete()
    const start = this.at
    this.at += count
    return start
  }

  uint32(): number { return this.#bytes.readUInt32LE(this.#take(4)) }

  /** A count or a size, which must be a number that JavaScript holds. */
  size(what: string): number {
    const value = this.#bytes.readBigUInt64LE(this.#take(8))
    if (value > BigInt(Number.MAX_SAFE_INTEGER)) this.fail(`${what}: expected a number below 2^53, got ${String(value)}`)
    return Number(value)
  }

  /** A count of things of at least so many bytes each. */
  count(what: string, bytesEach: number): number {
    const value = this.size(what)
    if (value * bytesEach > this.#fileSize - this.at) this.fail(`${what}: ${value} do not fit into the file's ${this.#fileSize} bytes`)
    return value
  }

  string(what: string): string {
    const length = this.count(what, 1)
    const start = this.#take(length)
    return this.#bytes.toString('utf8', start, start + length)
  }

  scalar(type: GgufScalarType): GgufScalar {
    if (type === 'string') return this.string('a string')
    const at = this.#take(scalarBytes[type])
    switch (type) {
      case 'uint8': return this.#bytes.readUInt8(at)
      case 'int8': return this.#bytes.readInt8(at)
      case 'uint16': return this.#bytes.readUInt16LE(at)
      case 'int16': return this.#bytes.readInt16LE(at)
      case 'uint32': return this.#bytes.readUInt32LE(at)
      case 'int32': return this.#bytes.readInt32LE(at)
      case 'float32': return this.#bytes.readFloatLE(at)
      case 'float64': return this.#bytes.readDoubleLE(at)
      case 'bool': return this.#bytes.readUInt8(at) !== 0
      case 'uint64': return this.#bytes.readBigUInt64LE(at)
      case 'int64': return this.#bytes.readBigInt64LE(at)
    }
  }

  value(key: string): GgufValue {
    const type = this.#type(key)
    if (type !== 'array') return { type, value: this.scalar(type) }
    const items = this.#type(key)
    if (items === 'array') return this.fail(`${key}: lists of lists are not known`)
    const length = this.count(key, items === 'string' ? 8 : scalarBytes[items])
    const value: GgufScalar[] = []
    for (let i = 0; i < length; i++) value.push(this.scalar(items))
    return { type, items, value }
  }

  #type(key: string): (typeof valueTypes)[number] {
    const code = this.uint32()
    return valueTypes[code] ?? this.fail(`${key}: expected a value type from 0 to ${valueTypes.length - 1}, got ${code}`)
  }
}

interface Header { metadata: Map<string, GgufValue>, tensors: Map<string, GgufTensor> }

function readTensorInfo(cursor: Cursor): { name: string, code: number, shape: number[], offset: number } {
  const name = cursor.string('the name of a tensor')
  const rank = cursor.uint32()
  if (rank < 1 || rank > 4) cursor.fail(`tensor ${JSON.stringify(name)}: expected one to four axes, got ${rank}`)
  const shape = Array.from({ length: rank }, () => cursor.size(`tensor ${JSON.stringify(name)}`)).reverse()
  return { name, code: cursor.uint32(), shape, offset: cursor.size(`tensor ${JSON.stringify(name)}`) }
}

function readHeader(bytes: Buffer, path: string, fileSize: number): Header {
  const cursor = new Cursor(bytes, path, fileSize)
  const found = cursor.uint32()
  if (found !== magic) throw new FileFormatError(`${path}: expected a GGUF file, which begins with "GGUF", got ${JSON.stringify(bytes.toString('latin1', 0, 4))}`)
  const versionFound = cursor.uint32()
  if (versionFound !== 2 && versionFound !== 3) throw new FileFormatError(`${path}: expected GGUF version 2 or 3, little-endian, got ${versionFound}; convert the model again with a current tool`)
  const tensorCount = cursor.count('tensors', 24)
  const metadataCount = cursor.count('metadata', 13)
  const metadata = new Map<string, GgufValue>()
  for (let i = 0; i < metadataCount; i++) {
    const key = cursor.string('a key of the metadata')
    if (metadata.has(key)) cursor.fail(`key ${JSON.stringify(key)} is there twice`)
    metadata.set(key, cursor.value(key))
  }
  const infos = Array.from({ length: tensorCount }, () => readTensorInfo(cursor))
  const given = metadata.get('general.alignment')
  const alignment = given === undefined ? defaultAlignment : Number(given.value)
  if (!(Number.isSafeInteger(alignment) && alignment > 0 && alignment % 8 === 0)) cursor.fail(`general.alignment: expected a multiple of 8, got ${String(alignment)}`)
  const start = alignUp(cursor.at, alignment)
  const tensors = new Map<string, GgufTensor>()
  for (const { name, code, shape, offset } of infos) {
    const fail = (what: string): never => { throw new FileFormatError(`${path}: tensor ${JSON.stringify(name)}: ${what}`) }
    if (tensors.has(name)) fail('is there twice; the file is damaged')
    const format = (Object.keys(tensorFormats) as TensorFormatName[]).find((one) => tensorFormats[one].code === code)
      ?? fail(`expected one of the formats ${Object.keys(tensorFormats).join(', ')}, got ${otherFormats[code] ?? `number ${code}`}; convert the model to one of them`)
    const size = shape.reduce((a, b) => a * b, 1)
    const byteLength = formatByteLength(format, shape.at(-1)!) === undefined ? undefined : formatByteLength(format, size)
    if (byteLength === undefined || !Number.isSafeInteger(size)) return fail(`[${shape.join(', ')}] is no shape of ${format}; the file is damaged`)
    if (offset % alignment !== 0) fail(`its offset ${offset} is no multiple of ${alignment}; the file is damaged`)
    if (start + offset + byteLength > fileSize) fail(`expected ${byteLength} bytes at ${start + offset}, but the file has ${fileSize}; it was not written or fetched to its end`)
    tensors.set(name, { format, shape, byteOffset: start + offset, byteLength })
  }
  return { metadata, tensors }
}

/** Numbers decoded at a time. */
const pieceSize = 1 << 20

/** An open GGUF file: its metadata, and its tensors by name. Only the header is in memory. */
export class GgufFile {
  readonly path: string
  readonly metadata: ReadonlyMap<string, GgufValue>
  readonly tensors: ReadonlyMap<string, GgufTensor>
  readonly #file: OpenFile

  constructor(path: string, file: OpenFile, { metadata, tensors }: Header) {
    this.path = path
    this.#file = file
    this.metadata = metadata
    this.tensors = tensors
  }

  /** The tensor of that name; a FileFormatError with a suggestion when there is none. */
  tensor(name: string): GgufTensor {
    return this.tensors.get(name) ?? (() => { throw new FileFormatError(`${this.path}: no tensor ${JSON.stringify(name)} in the file${didYouMean(name, this.tensors.keys())}`) })()
  }

  /** A tensor's numbers in order, in pieces of whole blocks. */
  async *pieces(name: string): AsyncGenerator<Float32Array<ArrayBuffer>> {
    const { format, shape, byteOffset, byteLength } = this.tensor(name)
    const { block, bytes: blockBytes, decode } = tensorFormats[format]
    const step = (pieceSize / block) * blockBytes
    for (let done = 0; done < byteLength; done += step) {
      const bytes = new Uint8Array(Math.min(step, byteLength - done))
      const got = await readFully(this.#file, bytes, byteOffset + done).catch((error: unknown) => { throw readError(error, this.path) })
      if (got !== bytes.length) throw new FileFormatError(`${this.path}: tensor ${JSON.stringify(name)}: expected ${bytes.length} bytes, got ${got}; the file became shorter [${shape.join(', ')}]`)
      const values = new Float32Array((bytes.length / blockBytes) * block)
      decode(bytes, values)
      yield values
    }
  }

  /** All numbers of a tensor, dequantised to float32. */
  async read(name: string): Promise<Float32Array<ArrayBuffer>> {
    const all = new Float32Array(this.tensor(name).shape.reduce((a, b) => a * b, 1))
    let done = 0
    for await (const piece of this.pieces(name)) {
      all.set(piece, done)
      done += piece.length
    }
    return all
  }

  async close(): Promise<void> { await this.#file.close() }

  [Symbol.asyncDispose](): Promise<void> { return this.close() }
}

/** Opens a GGUF file of version 2 or 3 and reads its header. Throws FileFormatError naming what is wrong with it. */
export async function openGguf(path: string): Promise<GgufFile> {
  let file: OpenFile | undefined
  try {
    file = await nodeFileSystem.open(path, 'r')
    const { size } = await file.stat()
    for (let length = Math.min(size, 1 << 20); ; length = Math.min(size, 2 * length)) {
      const bytes = Buffer.alloc(length)
      await readFully(file, bytes, 0)
      try {
        return new GgufFile(path, file, readHeader(bytes, path, size))
      } catch (error) {
        if (!(error instanceof Incomplete) || length === size) throw error
      }
    }
  } catch (error) {
    await file?.close()
    throw readError(error, path)
  }
}
