import { DiskFullError, FileAccessError, FileFormatError } from '../errors.ts'
import { replaceFile } from './atomic.ts'
import { formatBytes, nodeFileSystem, writeFully, type FileSystem, type OpenFile } from './filesystem.ts'
import { isSafetensorsDtype, maxHeaderBytes, safetensorsDtypes, tensorByteLength, tensorNameProblem, type SafetensorsDtype } from './safetensors.ts'

/** What a writer needs to lay a tensor out. */
export interface TensorLayout {
  readonly name: string
  readonly dtype: SafetensorsDtype
  readonly shape: readonly number[]
}

/** A tensor to write. Data comes as bytes (little-endian), from a function called when its turn comes, or is written by `writeTo` itself. */
export type TensorSource = TensorLayout & (
  | { readonly bytes: Uint8Array | (() => Uint8Array | Promise<Uint8Array>) }
  /** Must write exactly the tensor's bytes at `offset` of the file (`file.fd` for native code). */
  | { readonly writeTo: (file: OpenFile, offset: number) => Promise<void> }
)

const dtypeRank = new Map(Object.keys(safetensorsDtypes).map((dtype, rank) => [dtype, rank]))

/** The reference implementation's order: dtype rank falling, so wide types come first and stay aligned, then name by UTF-8 bytes. */
function inFileOrder<T extends TensorLayout>(tensors: readonly T[]): T[] {
  return tensors
    .map((tensor) => ({ tensor, rank: dtypeRank.get(tensor.dtype)!, name: Buffer.from(tensor.name) }))
    .sort((a, b) => b.rank - a.rank || Buffer.compare(a.name, b.name))
    .map(({ tensor }) => tensor)
}

/** The header bytes, length prefix included, and where each tensor goes. */
export function layOut<T extends TensorLayout>(path: string, tensors: readonly T[], metadata: Readonly<Record<string, string>> | undefined): {
  header: Uint8Array, placed: { tensor: T, byteOffset: number, byteLength: number }[], byteLength: number
} {
  const names = new Set<string>()
  const fields: string[] = metadata ? [`"__metadata__":${JSON.stringify(metadata)}`] : []
  const placed: { tensor: T, byteOffset: number, byteLength: number }[] = []
  let end = 0
  for (const tensor of inFileOrder(tensors)) {
    const { name, dtype, shape } = tensor
    const fail = (expected: string, got: string): never => { throw new FileFormatError(`${path}: tensor ${JSON.stringify(name)}: expected ${expected}, got ${got}`) }
    const problem = tensorNameProblem(name)
    if (problem) fail('a usable name', problem)
    if (names.has(name)) fail('each name once', 'it twice')
    names.add(name)
    if (!isSafetensorsDtype(dtype)) fail('a safetensors dtype', String(dtype))
    if (!shape.every((size) => Number.isSafeInteger(size) && size >= 0)) fail('whole sizes', `[${shape.join(', ')}]`)
    const byteLength = tensorByteLength(dtype, shape) ?? fail('a size below 2^53 whole bytes', `${dtype} [${shape.join(', ')}]`)
    fields.push(`${JSON.stringify(name)}:{"dtype":"${dtype}","shape":[${shape.join(',')}],"data_offsets":[${end},${end + byteLength}]}`)
    placed.push({ tensor, byteOffset: end, byteLength })
    end += byteLength
  }
  const json = Buffer.from(`{${fields.join(',')}}`)
  const padded = Math.ceil(json.length / 8) * 8
  if (padded > maxHeaderBytes) throw new FileFormatError(`${path}: expected a header of at most ${maxHeaderBytes} bytes, got ${padded}; write fewer tensors a file`)
  const header = Buffer.alloc(8 + padded, ' ')
  header.writeBigUInt64LE(BigInt(padded), 0)
  json.copy(header, 8)
  for (const place of placed) place.byteOffset += header.length
  return { header, placed, byteLength: header.length + end }
}

/**
 * Writes a safetensors file, byte for byte what Python's `save_file` writes, one tensor in memory at a time.
 * It appears under its name only when complete and synced to disk; on failure what stood there before is untouched.
 */
export async function writeSafetensors(
  path: string, tensors: readonly TensorSource[], metadata?: Readonly<Record<string, string>>, fileSystem: FileSystem = nodeFileSystem,
): Promise<{ byteLength: number }> {
  const { header, placed, byteLength } = layOut(path, tensors, metadata)
  await replaceFile(path, async (file) => {
    await writeFully(file, header, 0)
    for (const { tensor, byteOffset, byteLength: length } of placed) await writeTensor(path, file, tensor, byteOffset, length)
    const { size } = await file.stat()
    if (size !== byteLength) throw new FileFormatError(`${path}: expected ${byteLength} bytes written, got ${size}; a tensor's writeTo wrote too much or too little`)
  }, { bytesNeeded: byteLength, fileSystem })
  return { byteLength }
}

/** Native code that writes into an open file knows the tensor's name, but not the file's. */
function atPath(error: unknown, path: string, bytesNeeded: number): unknown {
  if (error instanceof DiskFullError) return new DiskFullError(`${path}: ${error.message} (${formatBytes(bytesNeeded)} needed); free space or choose another output directory. What was saved before is intact`, { cause: error })
  if (error instanceof FileFormatError) return new FileAccessError(`${path}: ${error.message}; check the disk. What was saved before is intact`, { cause: error })
  return error
}

async function writeTensor(path: string, file: OpenFile, tensor: TensorSource, byteOffset: number, byteLength: number): Promise<void> {
  if ('writeTo' in tensor) return tensor.writeTo(file, byteOffset).catch((error: unknown) => { throw atPath(error, path, byteLength) })
  const bytes = typeof tensor.bytes === 'function' ? await tensor.bytes() : tensor.bytes
  if (bytes.byteLength !== byteLength) {
    throw new FileFormatError(`${path}: tensor ${JSON.stringify(tensor.name)}: expected ${byteLength} bytes for ${tensor.dtype} [${tensor.shape.join(', ')}], got ${bytes.byteLength}`)
  }
  await writeFully(file, bytes, byteOffset)
}
