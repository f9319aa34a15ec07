import { FileFormatError } from '../errors.ts'
import { didYouMean } from '../suggest.ts'
import { formatBytes, nodeFileSystem, readError, readFully, type OpenFile } from './filesystem.ts'
import { decodeUtf8, parseStrictJson, type JsonValue } from './json.ts'

/** Bits of one element by dtype, in the order in which the reference implementation ranks them when it lays out a file. */
export const safetensorsDtypes = {
  BOOL: 8, F4: 4, F6_E2M3: 6, F6_E3M2: 6, U8: 8, I8: 8, F8_E5M2: 8, F8_E4M3: 8, F8_E8M0: 8, F8_E4M3FNUZ: 8, F8_E5M2FNUZ: 8,
  I16: 16, U16: 16, F16: 16, BF16: 16, I32: 32, U32: 32, F32: 32, C64: 64, F64: 64, I64: 64, U64: 64,
} as const

export type SafetensorsDtype = keyof typeof safetensorsDtypes

/** Where one tensor lies: `byteOffset` counts from the start of the file. */
export interface TensorEntry {
  readonly dtype: SafetensorsDtype
  readonly shape: readonly number[]
  readonly byteOffset: number
  readonly byteLength: number
}

/** The header may take up to 100 MB, as in the reference implementation. */
export const maxHeaderBytes = 100_000_000

export const isSafetensorsDtype = (name: string): name is SafetensorsDtype => Object.hasOwn(safetensorsDtypes, name)

/** Bytes of a tensor; undefined when the product passes 2^53 or a sub-byte dtype does not end on a byte. */
export function tensorByteLength(dtype: SafetensorsDtype, shape: readonly number[]): number | undefined {
  let bits = BigInt(safetensorsDtypes[dtype])
  for (const size of shape) bits *= BigInt(size)
  const bytes = bits / 8n
  return bits % 8n === 0n && bytes <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(bytes) : undefined
}

/** An open safetensors file: the checked header, and its bytes on demand. Native code reads straight from `fd`. */
export class SafetensorsFile {
  readonly path: string
  /** In the order in which the tensors lie in the file. */
  readonly tensors: ReadonlyMap<string, TensorEntry>
  readonly metadata: Readonly<Record<string, string>>
  readonly byteLength: number
  readonly #file: OpenFile

  constructor(path: string, file: OpenFile, byteLength: number, tensors: Map<string, TensorEntry>, metadata: Record<string, string>) {
    this.path = path
    this.#file = file
    this.byteLength = byteLength
    this.tensors = tensors
    this.metadata = metadata
  }

  /** The file descriptor, valid until close(). */
  get fd(): number { return this.#file.fd }

  /** The entry of a tensor; a FileFormatError with a suggestion when there is none. */
  entry(name: string): TensorEntry {
    const entry = this.tensors.get(name)
    if (!entry) throw new FileFormatError(`${this.path}: no tensor ${JSON.stringify(name)}${didYouMean(name, this.tensors.keys())}`)
    return entry
  }

  /** Reads a tensor's bytes, little-endian as stored. Fails, never guesses, when the file was shortened after opening. */
  async readTensorBytes(name: string): Promise<Uint8Array<ArrayBuffer>> {
    const { byteOffset, byteLength } = this.entry(name)
    const bytes = new Uint8Array(byteLength)
    const got = await readFully(this.#file, bytes, byteOffset).catch((error: unknown) => { throw readError(error, this.path) })
    if (got !== byteLength) {
      throw new FileFormatError(`${this.path}: tensor ${JSON.stringify(name)}: expected ${byteLength} bytes, got ${got}; the file was changed while open`)
    }
    return bytes
  }

  close(): Promise<void> { return this.#file.close() }

  [Symbol.asyncDispose](): Promise<void> { return this.close() }
}

/** Reads a tensor's bytes from an open file. */
export const readTensorBytes = (file: SafetensorsFile, name: string): Promise<Uint8Array<ArrayBuffer>> => file.readTensorBytes(name)

/**
 * Opens a safetensors file and checks its whole header; tensor data is not read.
 * Throws FileFormatError naming file, tensor, expected and got; stricter than the reference in that duplicate names are refused.
 */
export async function openSafetensors(path: string): Promise<SafetensorsFile> {
  const file = await nodeFileSystem.open(path, 'r').catch((error: unknown) => { throw readError(error, path) })
  try {
    const { size } = await file.stat()
    const { tensors, metadata } = parseHeader(path, await readHeader(path, file, size), size)
    return new SafetensorsFile(path, file, size, tensors, metadata)
  } catch (error) {
    await file.close()
    throw readError(error, path)
  }
}

async function readHeader(path: string, file: OpenFile, size: number): Promise<Uint8Array> {
  const start = new Uint8Array(8)
  const got = await readFully(file, start, 0)
  if (size < 8 || got < 8) throw new FileFormatError(`${path}: expected at least 8 bytes of header length, got ${size}; the file is truncated or not safetensors`)
  const length = new DataView(start.buffer).getBigUint64(0, true)
  if (length > BigInt(maxHeaderBytes)) {
    throw new FileFormatError(`${path}: expected a header of at most ${maxHeaderBytes} bytes, got ${length.toString()}; this is not a safetensors file`)
  }
  if (length > BigInt(size - 8)) {
    throw new FileFormatError(`${path}: expected a header of ${length.toString()} bytes, got ${size - 8}; the file is truncated, fetch it again`)
  }
  const header = new Uint8Array(Number(length))
  const read = await readFully(file, header, 8)
  if (read < header.length) throw new FileFormatError(`${path}: expected a header of ${header.length} bytes, got ${read}; the file was changed while open`)
  return header
}

const show = (value: JsonValue | undefined): string => (value === undefined ? 'nothing' : JSON.stringify(value).slice(0, 80))

/** Checks the header of a file of `fileSize` bytes. Entries come back in file order. */
export function parseHeader(path: string, header: Uint8Array, fileSize: number): { tensors: Map<string, TensorEntry>, metadata: Record<string, string> } {
  if (header[0] !== 0x7b) throw new FileFormatError(`${path}: expected a header that starts with "{", got ${header.length ? `byte ${header[0]!}` : 'an empty header'}`)
  const text = decodeUtf8(header, `${path}: header`)
  const root = parseStrictJson(text, `${path}: header`, { uniqueKeys: true, wholeNumbers: true }) as { [key: string]: JsonValue }
  const dataStart = 8 + header.length
  const dataLength = fileSize - dataStart
  const metadata: Record<string, string> = Object.create(null) as Record<string, string>
  const found: [string, TensorEntry][] = []
  for (const [name, value] of Object.entries(root)) {
    if (name === '__metadata__') readMetadata(path, value, metadata)
    else found.push([name, readEntry(path, name, value, dataStart)])
  }
  found.sort(([, a], [, b]) => a.byteOffset - b.byteOffset || a.byteLength - b.byteLength)
  let end = dataStart
  for (const [name, entry] of found) {
    if (entry.byteOffset !== end) {
      const what = entry.byteOffset < end ? 'it overlaps the tensor before it' : 'there is a hole before it'
      throw new FileFormatError(`${path}: tensor ${JSON.stringify(name)}: expected its data to begin at ${end - dataStart}, got ${entry.byteOffset - dataStart}; ${what}`)
    }
    end += entry.byteLength
  }
  if (end - dataStart !== dataLength) {
    const why = end - dataStart > dataLength ? 'the file is truncated, fetch it again' : 'there are bytes that belong to no tensor'
    throw new FileFormatError(`${path}: expected ${end - dataStart} bytes of tensor data, got ${dataLength}; ${why}`)
  }
  return { tensors: new Map(found), metadata }
}

function readMetadata(path: string, value: JsonValue, into: Record<string, string>): void {
  if (value === null || typeof value !== 'object' || Array.isArray(value)) throw new FileFormatError(`${path}: __metadata__: expected an object of strings, got ${show(value)}`)
  for (const [key, text] of Object.entries(value)) {
    if (typeof text !== 'string') throw new FileFormatError(`${path}: __metadata__.${key}: expected a string, got ${show(text)}`)
    into[key] = text
  }
}

function readEntry(path: string, name: string, value: JsonValue, dataStart: number): TensorEntry {
  const fail = (expected: string, got: string): never => {
    throw new FileFormatError(`${path}: tensor ${JSON.stringify(name)}: expected ${expected}, got ${got}`)
  }
  const problem = tensorNameProblem(name)
  if (problem) fail('a usable name', problem)
  if (value === null || typeof value !== 'object' || Array.isArray(value)) return fail('an object with dtype, shape and data_offsets', show(value))
  const { dtype, shape, data_offsets: offsets, ...others } = value
  const extra = Object.keys(others)[0]
  if (extra !== undefined) fail('only dtype, shape and data_offsets', JSON.stringify(extra))
  if (typeof dtype !== 'string' || !isSafetensorsDtype(dtype)) return fail(`a dtype of ${Object.keys(safetensorsDtypes).join(', ')}`, show(dtype))
  const sizes = Array.isArray(shape) ? shape : fail('shape to be a list of whole numbers', show(shape))
  if (!sizes.every((size) => typeof size === 'number')) return fail('shape to be a list of whole numbers', show(shape))
  const [begin, end, ...rest] = Array.isArray(offsets) ? offsets : []
  if (typeof begin !== 'number' || typeof end !== 'number' || rest.length) return fail('data_offsets to be two whole numbers', show(offsets))
  if (end < begin) fail('data_offsets in rising order', show(offsets))
  const byteLength = tensorByteLength(dtype, sizes)
  if (byteLength === undefined) return fail('a size below 2^53 whole bytes', `${dtype} ${show(shape)}`)
  if (byteLength !== end - begin) fail(`${byteLength} bytes (${dtype} ${show(shape)})`, `${end - begin}`)
  return { dtype, shape: sizes, byteOffset: dataStart + begin, byteLength }
}

/** Why a tensor may not be called so; undefined when it may. */
export function tensorNameProblem(name: string): string | undefined {
  if (name === '') return 'an empty name'
  if (name === '__metadata__') return 'the name reserved for metadata'
  if (/\p{Surrogate}/u.test(name)) return 'a name that is not valid Unicode'
  // eslint-disable-next-line no-control-regex -- control characters are what it looks for
  if (/[\u0000-\u001f\u007f]/.test(name)) return 'a control character in the name'
  if (name.length > 4096) return `a name of ${formatBytes(name.length)}`
  return undefined
}
