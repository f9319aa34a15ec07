import { FileFormatError } from '../../errors.ts'
import { replaceFile, writeFully } from '../../files/index.ts'
import { formatByteLength, tensorFormats, type TensorFormatName } from './blocks.ts'
import { alignUp, defaultAlignment, magic, scalarBytes, valueTypes, version, type GgufScalar, type GgufScalarType, type GgufValue } from './types.ts'

/** A tensor to write. `pieces` gives its bytes in order, a part at a time. */
export interface GgufTensorSource {
  readonly name: string
  readonly format: TensorFormatName
  /** Row-major, the slowest axis first; the file holds it reversed. */
  readonly shape: readonly number[]
  readonly pieces: () => AsyncIterable<Uint8Array> | Iterable<Uint8Array>
}

/** ggml's limit on names of tensors, the end included. */
const longestName = 64

/** Little-endian bytes that grow. */
class Bytes {
  #buffer = Buffer.alloc(1 << 16)
  length = 0

  /** Makes room at the end. Growing replaces the buffer, so this comes before the buffer is named. */
  #grow(count: number): number {
    const at = this.length
    this.length += count
    if (this.length > this.#buffer.length) {
      const larger = Buffer.alloc(2 * this.length)
      this.#buffer.copy(larger)
      this.#buffer = larger
    }
    return at
  }

  uint32(value: number): void { this.scalar('uint32', value) }
  uint64(value: number | bigint): void { this.scalar('uint64', value) }

  string(value: string): void {
    const bytes = Buffer.from(value)
    this.uint64(bytes.length)
    const at = this.#grow(bytes.length)
    bytes.copy(this.#buffer, at)
  }

  scalar(type: GgufScalarType, value: GgufScalar): void {
    if (type === 'string') { this.string(String(value)); return }
    const at = this.#grow(scalarBytes[type])
    const number = Number(value)
    switch (type) {
      case 'uint8': case 'bool': this.#buffer.writeUInt8(number, at); break
      case 'int8': this.#buffer.writeInt8(number, at); break
      case 'uint16': this.#buffer.writeUInt16LE(number, at); break
      case 'int16': this.#buffer.writeInt16LE(number, at); break
      case 'uint32': this.#buffer.writeUInt32LE(number, at); break
      case 'int32': this.#buffer.writeInt32LE(number, at); break
      case 'float32': this.#buffer.writeFloatLE(number, at); break
      case 'float64': this.#buffer.writeDoubleLE(number, at); break
      case 'uint64': this.#buffer.writeBigUInt64LE(BigInt(value), at); break
      case 'int64': this.#buffer.writeBigInt64LE(BigInt(value), at); break
    }
  }

  value(value: GgufValue): void {
    this.uint32(valueTypes.indexOf(value.type))
    if (value.type !== 'array') { this.scalar(value.type, value.value); return }
    this.uint32(valueTypes.indexOf(value.items))
    this.uint64(value.value.length)
    for (const one of value.value) this.scalar(value.items, one)
  }

  padded(alignment: number): Uint8Array {
    this.#grow(alignUp(this.length, alignment) - this.length)
    return this.#buffer.subarray(0, this.length)
  }
}

/** The header, and where each tensor goes. */
function layOut(path: string, metadata: ReadonlyMap<string, GgufValue>, tensors: readonly GgufTensorSource[]): { header: Uint8Array, places: { tensor: GgufTensorSource, offset: number, length: number }[], byteLength: number } {
  const bytes = new Bytes()
  bytes.uint32(magic)
  bytes.uint32(version)
  bytes.uint64(tensors.length)
  bytes.uint64(metadata.size)
  for (const [key, value] of metadata) {
    bytes.string(key)
    bytes.value(value)
  }
  const seen = new Set<string>()
  let end = 0
  const places = tensors.map((tensor) => {
    const { name, format, shape } = tensor
    const fail = (expected: string, got: string): never => { throw new FileFormatError(`${path}: tensor ${JSON.stringify(name)}: expected ${expected}, got ${got}`) }
    if (Buffer.byteLength(name) >= longestName) fail(`a name below ${longestName} bytes`, String(Buffer.byteLength(name)))
    if (seen.has(name)) fail('each name once', 'it twice')
    seen.add(name)
    const columns = shape.at(-1)
    if (columns === undefined || shape.length > 4) fail('one to four axes', String(shape.length))
    if (formatByteLength(format, columns!) === undefined) fail(`rows of a multiple of ${tensorFormats[format].block} numbers for ${format}`, `[${shape.join(', ')}]`)
    const length = formatByteLength(format, shape.reduce((a, b) => a * b, 1))!
    bytes.string(name)
    bytes.uint32(shape.length)
    for (const size of shape.toReversed()) bytes.uint64(size)
    bytes.uint32(tensorFormats[format].code)
    bytes.uint64(end)
    const place = { tensor, offset: end, length }
    end = alignUp(end + length, defaultAlignment)
    return place
  })
  const header = bytes.padded(defaultAlignment)
  for (const place of places) place.offset += header.length
  return { header, places, byteLength: header.length + end }
}

/**
 * Writes a GGUF file of version 3, a piece of a tensor in memory at a time. It appears under its name only when complete and synced to disk; on
 * failure what stood there before is untouched. Returns its size.
 */
export async function writeGguf(path: string, metadata: ReadonlyMap<string, GgufValue>, tensors: readonly GgufTensorSource[]): Promise<{ byteLength: number }> {
  const { header, places, byteLength } = layOut(path, metadata, tensors)
  await replaceFile(path, async (file) => {
    await writeFully(file, header, 0)
    for (const { tensor, offset, length } of places) {
      let written = 0
      for await (const piece of tensor.pieces()) {
        await writeFully(file, piece, offset + written)
        written += piece.byteLength
      }
      if (written !== length) throw new FileFormatError(`${path}: tensor ${JSON.stringify(tensor.name)}: expected ${length} bytes for ${tensor.format} [${tensor.shape.join(', ')}], got ${written}`)
      const padding = alignUp(length, defaultAlignment) - length
      if (padding > 0) await writeFully(file, new Uint8Array(padding), offset + length)
    }
  }, { bytesNeeded: byteLength })
  return { byteLength }
}
