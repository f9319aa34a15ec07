import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { ConfigError, FileFormatError } from '../errors.ts'
import { didYouMean } from '../suggest.ts'
import { replaceFile } from './atomic.ts'
import { nodeFileSystem, readError, type FileSystem } from './filesystem.ts'
import { readJsonObject } from './json.ts'
import { resolveExistingInside } from './names.ts'
import { openSafetensors, tensorByteLength, type SafetensorsFile, type TensorEntry } from './safetensors.ts'
import { writeSafetensors, type TensorSource } from './safetensors-writer.ts'

/** A tensor of a checkpoint and the open file it lies in. */
export interface CheckpointTensor extends TensorEntry { readonly file: SafetensorsFile }

/** The weights of a model folder, whether in one file or in shards, under one map of names. */
export class CheckpointWeights {
  readonly folder: string
  readonly tensors: ReadonlyMap<string, CheckpointTensor>
  readonly files: readonly SafetensorsFile[]

  constructor(folder: string, tensors: Map<string, CheckpointTensor>, files: SafetensorsFile[]) {
    this.folder = folder
    this.tensors = tensors
    this.files = files
  }

  /** The tensor of that name; a FileFormatError with a suggestion when there is none. */
  entry(name: string): CheckpointTensor {
    const tensor = this.tensors.get(name)
    if (!tensor) throw new FileFormatError(`${this.folder}: no tensor ${JSON.stringify(name)} in the checkpoint${didYouMean(name, this.tensors.keys())}`)
    return tensor
  }

  readTensorBytes(name: string): Promise<Uint8Array<ArrayBuffer>> { return this.entry(name).file.readTensorBytes(name) }

  async close(): Promise<void> { await Promise.all(this.files.map((file) => file.close())) }

  [Symbol.asyncDispose](): Promise<void> { return this.close() }
}

/**
 * Opens `<baseName>.safetensors`, or the shards that `<baseName>.safetensors.index.json` names, in a Hugging Face model folder.
 * Only headers are read. Pickles (.bin, .pt, .pth) are refused: reading one can run code.
 */
export async function openCheckpoint(folder: string, options: { baseName?: string } = {}): Promise<CheckpointWeights> {
  const baseName = options.baseName ?? 'model'
  const names = await readdir(folder).catch((error: unknown) => { throw readError(error, folder) })
  const single = `${baseName}.safetensors`
  if (names.includes(single)) {
    const file = await openSafetensors(await resolveExistingInside(folder, single, folder))
    return new CheckpointWeights(folder, new Map([...file.tensors].map(([name, entry]) => [name, { ...entry, file }])), [file])
  }
  const index = `${baseName}.safetensors.index.json`
  if (!names.includes(index)) throw noWeights(folder, names, single)
  const indexPath = await resolveExistingInside(folder, index, folder)
  return openShards(folder, indexPath, names)
}

async function openShards(folder: string, indexPath: string, names: string[]): Promise<CheckpointWeights> {
  const weightMap = (await readJsonObject(indexPath)).weight_map
  if (typeof weightMap !== 'object' || weightMap === null || Array.isArray(weightMap)) {
    throw new FileFormatError(`${indexPath}: weight_map: expected an object from tensor name to file name`)
  }
  const files = new Map<string, SafetensorsFile>()
  const tensors = new Map<string, CheckpointTensor>()
  try {
    for (const [name, fileName] of Object.entries(weightMap)) {
      if (typeof fileName !== 'string') throw new FileFormatError(`${indexPath}: weight_map.${name}: expected a file name, got ${JSON.stringify(fileName)}`)
      let file = files.get(fileName)
      if (!file) {
        file = await openShard(folder, fileName, indexPath, names)
        files.set(fileName, file)
      }
      const entry = file.tensors.get(name)
      if (!entry) throw new FileFormatError(`${file.path}: expected tensor ${JSON.stringify(name)}, as ${indexPath} says, got none${didYouMean(name, file.tensors.keys())}`)
      tensors.set(name, { ...entry, file })
    }
  } catch (error) {
    for (const file of files.values()) await file.close()
    throw error
  }
  return new CheckpointWeights(folder, tensors, [...files.values()])
}

async function openShard(folder: string, fileName: string, indexPath: string, names: string[]): Promise<SafetensorsFile> {
  refusePickle(join(folder, fileName))
  if (!fileName.includes('/') && !fileName.includes('\\') && fileName !== '..' && !names.includes(fileName)) {
    throw new FileFormatError(`${join(folder, fileName)}: missing shard, named in ${indexPath}; fetch it again`)
  }
  return openSafetensors(await resolveExistingInside(folder, fileName, indexPath))
}

const pickle = /\.(?:bin|pt|pth|pkl|ckpt)$/i

const howToConvert = 'convert it where you trust it: python -c "from transformers import AutoModelForCausalLM as M; '
  + 'M.from_pretrained(\'FOLDER\').save_pretrained(\'FOLDER-safetensors\')"'

/** Throws for the file names of Python pickles. */
export function refusePickle(path: string): void {
  if (pickle.test(path)) throw new FileFormatError(`${path}: expected safetensors, got a Python pickle, which can run code when read; ${howToConvert}`)
}

function noWeights(folder: string, names: string[], wanted: string): FileFormatError {
  const weights = names.find((name) => /^(?:pytorch_model|model|adapter_model|consolidated).*\.(?:bin|pt|pth|ckpt)$/i.test(name))
  if (weights) {
    try { refusePickle(join(folder, weights)) } catch (error) { return error as FileFormatError }
  }
  const gguf = names.find((name) => name.endsWith('.gguf'))
  const hint = gguf ? `; ${gguf} is a GGUF file, which openCheckpoint does not read` : '; check the path, or fetch the model again'
  return new FileFormatError(`${folder}: expected ${wanted} or ${wanted}.index.json, got neither${hint}`)
}

const units: Record<string, number> = { KB: 1e3, MB: 1e6, GB: 1e9, TB: 1e12 }

/** Bytes of a size such as `5GB` (decimal units, as Hugging Face counts) or a plain number. */
export function parseSize(size: number | string): number {
  const [, digits, unit] = /^\s*(\d+(?:\.\d+)?)\s*([kmgt]b)\s*$/i.exec(String(size)) ?? []
  const bytes = typeof size === 'number' ? size : digits === undefined ? NaN : Math.trunc(Number(digits) * units[unit!.toUpperCase()]!)
  if (!(Number.isSafeInteger(bytes) && bytes > 0)) throw new ConfigError(`maxShardSize: expected a size such as "5GB" (KB, MB, GB, TB) or a whole number of bytes, got ${JSON.stringify(size)}`)
  return bytes
}

export interface ShardOptions {
  /** Largest file, as transformers' `max_shard_size`; the default is transformers 5's. */
  maxShardSize?: number | string
  /** `model`, or `adapter_model` for adapters. */
  baseName?: string
  /** Written into every file; transformers refuses to load a file without `format`. */
  metadata?: Readonly<Record<string, string>>
  /** `total_parameters` of the index; default: all elements. */
  totalParameters?: number
  fileSystem?: FileSystem
}

/** Which tensors go into which file: filled in the given order, a tensor above the limit alone, as Hugging Face splits. */
export function splitIntoShards<T extends TensorSource>(tensors: readonly T[], baseName: string, maxBytes: number): { fileName: string, tensors: T[] }[] {
  const shards: T[][] = []
  let current: T[] = []
  let bytes = 0
  for (const tensor of tensors) {
    const size = byteLengthOf(tensor)
    if (size > maxBytes) { shards.push([tensor]); continue }
    if (bytes + size > maxBytes) { shards.push(current); current = []; bytes = 0 }
    current.push(tensor)
    bytes += size
  }
  if (current.length || !shards.length) shards.push(current)
  const five = (n: number) => String(n).padStart(5, '0')
  return shards.map((list, i) => ({
    fileName: shards.length === 1 ? `${baseName}.safetensors` : `${baseName}-${five(i + 1)}-of-${five(shards.length)}.safetensors`,
    tensors: list,
  }))
}

function byteLengthOf(tensor: TensorSource): number {
  return tensorByteLength(tensor.dtype, tensor.shape)
    ?? (() => { throw new FileFormatError(`tensor ${JSON.stringify(tensor.name)}: expected a size below 2^53 whole bytes, got ${tensor.dtype} [${tensor.shape.join(', ')}]`) })()
}

/** JSON as Python's `json.dumps(sort_keys=True, indent=2)` prints an object of strings. */
function pythonJson(value: Record<string, string>, indent: string): string {
  const ascii = (text: string) => JSON.stringify(text).replace(/[\u007f-\uffff]/g, (c) => (c === '\u007f' ? c : `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`))
  const lines = Object.keys(value).sort(byCodePoint).map((key) => `${indent}  ${ascii(key)}: ${ascii(value[key]!)}`)
  return lines.length ? `{\n${lines.join(',\n')}\n${indent}}` : '{}'
}

/** Python's string order; UTF-8 bytes sort as code points do. */
const byCodePoint = (a: string, b: string): number => Buffer.compare(Buffer.from(a), Buffer.from(b))

/**
 * Writes the weights of a model folder as Hugging Face does: one file, or shards and an index. Files of an earlier save that
 * would be taken for part of this one are removed. Returns the names of the files written.
 */
export async function writeCheckpoint(folder: string, tensors: readonly TensorSource[], options: ShardOptions = {}): Promise<string[]> {
  const fileSystem = options.fileSystem ?? nodeFileSystem
  const baseName = options.baseName ?? 'model'
  const shards = splitIntoShards(tensors, baseName, parseSize(options.maxShardSize ?? '50GB'))
  const index = `${baseName}.safetensors.index.json`
  const written = shards.map((shard) => shard.fileName)
  await fileSystem.mkdir(folder)
  for (const shard of shards) await writeSafetensors(join(folder, shard.fileName), shard.tensors, options.metadata ?? { format: 'pt' }, fileSystem)
  if (shards.length > 1) {
    const totalSize = tensors.reduce((sum, tensor) => sum + byteLengthOf(tensor), 0)
    const totalParameters = options.totalParameters ?? tensors.reduce((sum, tensor) => sum + tensor.shape.reduce((a, b) => a * b, 1), 0)
    const weightMap = Object.fromEntries(shards.flatMap((shard) => shard.tensors.map((tensor) => [tensor.name, shard.fileName])))
    const text = `{\n  "metadata": {\n    "total_parameters": ${totalParameters},\n    "total_size": ${totalSize}\n  },\n  "weight_map": ${pythonJson(weightMap, '  ')}\n}\n`
    await replaceFile(join(folder, index), text, { fileSystem })
    written.push(index)
  }
  const ours = new RegExp(`^${baseName}(?:-\\d{5}-of-\\d{5})?\\.safetensors(?:\\.index\\.json)?$`)
  for (const { name } of await fileSystem.readdir(folder)) {
    if (ours.test(name) && !written.includes(name)) await fileSystem.rm(join(folder, name))
  }
  return written
}
