import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { ConfigError, FileFormatError } from '../../errors.ts'
import { align, decodeContainer, encodeContainer, type ContainerKind } from '../../files/container.ts'
import { replaceFile } from '../../files/index.ts'
import { isMissing, readError } from '../../files/filesystem.ts'
import { lazily } from '../../options.ts'

/**
 * A recording is a folder: recording.json says what was recorded, of which teacher and which data; shard-000000.bin, … hold rows of the dataset one
 * after another. A shard is a container (src/files/container.ts) with the body
 *   u32 [rows] trained tokens of each row, padded to 8; u16 or i32 [tokens, k] ids, padded to 8; f16 or f32 [tokens, k] log-probabilities, padded to 8.
 */
const version = 1
const kind: ContainerKind = { magic: 'ANNLTOPK', version }

const whole = lazily(() => z.int().nonnegative())
/** What a recording is of: two that agree in all of it hold the same numbers. */
const subjectSchema = lazily(() => z.strictObject({
  version: z.literal(version), teacher: z.string(), teacherFingerprint: z.string(), dataFingerprint: z.string(), rows: whole,
  topK: z.int().positive(), temperature: z.number().positive(), precision: z.enum(['float16', 'float32']), vocabulary: z.int().positive(),
}))
export type Subject = z.output<typeof subjectSchema>
const recordingSchema = lazily(() => subjectSchema.extend({ shards: z.array(z.strictObject({ firstRow: whole, rows: whole })), complete: z.boolean(), meanTail: z.number() }))
/** What the index of a teacher's recording holds: whose it is, of which data, and its parts with their checksums. */
export type RecordingIndex = z.output<typeof recordingSchema>

const headerSchema = lazily(() => z.object({ fingerprint: z.string(), firstRow: whole, rows: whole, tokens: whole, topK: whole, idBytes: z.union([z.literal(2), z.literal(4)]), logprobBytes: z.union([z.literal(2), z.literal(4)]) }))
type Header = z.output<typeof headerSchema>

/** The most probable tokens of the trained places of one row of data: ids and log p, [tokens, k] each. */
export interface RecordedRow { topK: number; ids: Int32Array; logprobs: Float32Array }

/** Ties shards to what they are of. */
const fingerprintOfSubject = (subject: Subject): string => createHash('sha256').update(JSON.stringify(subject)).digest('hex')
export const shardPath = (folder: string, number: number): string => join(folder, `shard-${String(number).padStart(6, '0')}.bin`)
export const indexPath = (folder: string): string => join(folder, 'recording.json')

function layout(countsAt: number, { rows, tokens, topK, idBytes, logprobBytes }: Header): { idsAt: number, logprobsAt: number, end: number } {
  const idsAt = countsAt + align(4 * rows)
  const logprobsAt = idsAt + align(idBytes * tokens * topK)
  return { idsAt, logprobsAt, end: logprobsAt + align(logprobBytes * tokens * topK) }
}

const scratch = new DataView(new ArrayBuffer(4))
/** The bits of the nearest float16 to a number from -65504 to 0; below 2^-24 it is -0. */
function toHalf(x: number): number {
  scratch.setFloat32(0, x)
  const word = scratch.getUint32(0)
  const [sign, exponent, fraction] = [(word >>> 16) & 0x8000, ((word >>> 23) & 0xff) - 112, word & 0x7fffff]
  if (exponent >= 31) return sign | 0x7bff
  if (exponent > 0) return sign | ((exponent << 10) + ((fraction + 0xfff + ((fraction >>> 13) & 1)) >>> 13))
  if (exponent < -10) return sign
  const shift = 14 - exponent
  const rounded = (fraction | 0x800000) + (1 << (shift - 1)) - 1 + (((fraction | 0x800000) >>> shift) & 1)
  return sign | (rounded >>> shift)
}
function fromHalf(bits: number): number {
  const [sign, exponent, fraction] = [bits & 0x8000 ? -1 : 1, (bits >>> 10) & 31, bits & 0x3ff]
  return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1 + fraction / 1024) * 2 ** (exponent - 15)
}

/** The bytes of a shard of rows of the dataset from `firstRow` on. */
export function encodeShard(subject: Subject, firstRow: number, rows: readonly RecordedRow[]): Uint8Array {
  const { topK } = subject
  const counts = rows.map(({ ids }) => ids.length / topK)
  const tokens = counts.reduce((a, b) => a + b, 0)
  const header: Header = { fingerprint: fingerprintOfSubject(subject), firstRow, rows: rows.length, tokens, topK, idBytes: subject.vocabulary <= 65536 ? 2 : 4, logprobBytes: subject.precision === 'float16' ? 2 : 4 }
  return encodeContainer(kind, header, layout(0, header).end, (out, countsAt) => {
    const { idsAt, logprobsAt } = layout(countsAt, header)
    let at = 0
    rows.forEach(({ ids, logprobs }, i) => {
      out.writeUInt32LE(counts[i]!, countsAt + 4 * i)
      for (let j = 0; j < ids.length; j++, at++) {
        if (header.idBytes === 2) out.writeUInt16LE(ids[j]!, idsAt + 2 * at)
        else out.writeInt32LE(ids[j]!, idsAt + 4 * at)
        if (header.logprobBytes === 2) out.writeUInt16LE(toHalf(logprobs[j]!), logprobsAt + 2 * at)
        else out.writeFloatLE(logprobs[j]!, logprobsAt + 4 * at)
      }
    })
  })
}

/** A shard read back; throws FileFormatError naming the file where it is damaged or of another recording. */
export function decodeShard(path: string, bytes: Buffer, subject: Subject): { firstRow: number, rows: RecordedRow[] } {
  const fail = (why: string): never => { throw new FileFormatError(`${path}: the shard is damaged: ${why}; delete it and run \`anneal teach\` again, which records only what is missing`) }
  const { header, bodyAt: countsAt } = decodeContainer(kind, headerSchema, bytes, fail)
  if (header.fingerprint !== fingerprintOfSubject(subject)) throw new FileFormatError(`${path}: the shard belongs to another recording than recording.json beside it; record into an empty folder`)
  const { idsAt, logprobsAt } = layout(countsAt, header)
  let at = 0
  const rows = Array.from({ length: header.rows }, (_, i): RecordedRow => {
    const size = bytes.readUInt32LE(countsAt + 4 * i) * header.topK
    const [ids, logprobs] = [new Int32Array(size), new Float32Array(size)]
    for (let j = 0; j < size; j++, at++) {
      ids[j] = header.idBytes === 2 ? bytes.readUInt16LE(idsAt + 2 * at) : bytes.readInt32LE(idsAt + 4 * at)
      logprobs[j] = header.logprobBytes === 2 ? fromHalf(bytes.readUInt16LE(logprobsAt + 2 * at)) : bytes.readFloatLE(logprobsAt + 4 * at)
    }
    return { topK: header.topK, ids, logprobs }
  })
  return { firstRow: header.firstRow, rows }
}

/** What recording.json says; undefined where there is none. */
export async function readIndex(folder: string): Promise<RecordingIndex | undefined> {
  const path = indexPath(folder)
  let text: string
  try {
    text = await readFile(path, 'utf8')
  } catch (error) {
    if (isMissing(error)) return undefined
    throw readError(error, path)
  }
  try {
    return recordingSchema.parse(JSON.parse(text))
  } catch (cause) {
    throw new FileFormatError(`${path}: it is no recording of version ${version}; record into an empty folder`, { cause })
  }
}

export const writeIndex = (folder: string, index: RecordingIndex): Promise<void> => replaceFile(indexPath(folder), `${JSON.stringify(index, undefined, 2)}\n`)
export const subjectOf = ({ shards: _, complete: __, meanTail: ___, ...subject }: RecordingIndex): Subject => subject

/** The distributions that `anneal teach` wrote. At most 64 shards are held in memory. */
export class Recording {
  readonly folder: string
  readonly index: RecordingIndex
  readonly #loaded = new Map<number, RecordedRow[]>()

  private constructor(folder: string, index: RecordingIndex) {
    this.folder = folder
    this.index = index
  }

  /** Opens a finished recording. */
  static async open(folder: string): Promise<Recording> {
    const index = await readIndex(folder)
    if (!index) throw new ConfigError(`recorded: ${indexPath(folder)} does not exist; make it with \`anneal teach\``)
    if (!index.complete) throw new ConfigError(`recorded: ${folder} is not finished; run the same \`anneal teach\` again, which goes on where it stopped`)
    return new Recording(folder, index)
  }

  /** Refuses a recording of other data, another temperature or another teacher. */
  check({ dataFingerprint, temperature, teacherFingerprint }: { dataFingerprint: string, temperature: number, teacherFingerprint?: string | undefined }): void {
    const { index, folder } = this
    if (index.dataFingerprint !== dataFingerprint) {
      throw new ConfigError(`recorded: ${folder} was made of other data: expected fingerprint ${dataFingerprint.slice(0, 12)}, got ${index.dataFingerprint.slice(0, 12)}. Record with the same files, tokenizer, maxLength, packing, evalSplit and seed as this run`)
    }
    if (index.temperature !== temperature) throw new ConfigError(`temperature: ${folder} was recorded at ${index.temperature}, but this run has ${temperature}; set temperature to ${index.temperature} or record again`)
    if (teacherFingerprint !== undefined && index.teacherFingerprint !== teacherFingerprint) {
      throw new ConfigError(`recorded: ${folder} was made by another teacher (${index.teacher}): expected weights ${teacherFingerprint.slice(0, 12)}, got ${index.teacherFingerprint.slice(0, 12)}; record again or leave teacher out`)
    }
  }

  /** The distributions of one row of the dataset; rows of the evaluation data follow those of the training data. */
  row(number: number): RecordedRow {
    const shard = this.index.shards.findIndex(({ firstRow, rows }) => number >= firstRow && number < firstRow + rows)
    const entry = this.index.shards[shard]
    if (!entry) throw new ConfigError(`recorded: ${this.folder} has ${this.index.rows} rows, but row ${number} was asked for`)
    return (this.#loaded.get(shard) ?? this.#load(shard))[number - entry.firstRow]!
  }

  #load(shard: number): RecordedRow[] {
    const path = shardPath(this.folder, shard)
    let bytes: Buffer
    try {
      bytes = readFileSync(path)
    } catch (error) {
      throw readError(error, path)
    }
    const { rows } = decodeShard(path, bytes, subjectOf(this.index))
    if (this.#loaded.size >= 64) this.#loaded.delete(this.#loaded.keys().next().value!)
    this.#loaded.set(shard, rows)
    return rows
  }
}
