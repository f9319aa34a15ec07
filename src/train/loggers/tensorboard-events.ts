import { maskedCrc32c } from './crc32c.ts'

/**
 * TensorBoard's event files: TFRecords of `Event` messages (tensorflow/core/util/event.proto, framework/summary.proto),
 * encoded by hand, for the messages are few and small.
 */

/** A varint of a whole number from 0 to 2^53. */
function varint(value: number): Buffer {
  const bytes: number[] = []
  let rest = value
  while (rest >= 128) { bytes.push((rest % 128) | 128); rest = Math.floor(rest / 128) }
  bytes.push(rest)
  return Buffer.from(bytes)
}

const field = (number: number, wire: number): Buffer => varint(number * 8 + wire)

const integer = (number: number, value: number): Buffer => Buffer.concat([field(number, 0), varint(value)])

/** A nested message, string or bytes. */
function nested(number: number, value: Uint8Array | string): Buffer {
  const bytes = typeof value === 'string' ? Buffer.from(value) : value
  return Buffer.concat([field(number, 2), varint(bytes.length), bytes])
}

function double(number: number, value: number): Buffer {
  const bytes = Buffer.alloc(8)
  bytes.writeDoubleLE(value)
  return Buffer.concat([field(number, 1), bytes])
}

function float(number: number, value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeFloatLE(value)
  return Buffer.concat([field(number, 5), bytes])
}

function doubles(number: number, values: readonly number[]): Buffer {
  const bytes = Buffer.alloc(8 * values.length)
  values.forEach((value, i) => bytes.writeDoubleLE(value, 8 * i))
  return nested(number, bytes)
}

/** A TFRecord: length, its checksum, data, its checksum. */
function tfRecord(data: Uint8Array): Buffer {
  const head = Buffer.alloc(12)
  head.writeBigUInt64LE(BigInt(data.length), 0)
  head.writeUInt32LE(maskedCrc32c(head.subarray(0, 8)), 8)
  const tail = Buffer.alloc(4)
  tail.writeUInt32LE(maskedCrc32c(data), 0)
  return Buffer.concat([head, data, tail])
}

/** The record every file begins with. */
export const versionEvent = (timeMs: number): Buffer => tfRecord(Buffer.concat([double(1, timeMs / 1000), nested(3, 'brain.Event:2')]))

/** A record holding summary values. */
export const summaryEvent = (timeMs: number, step: number, values: readonly Uint8Array[]): Buffer =>
  tfRecord(Buffer.concat([double(1, timeMs / 1000), integer(2, step), nested(5, Buffer.concat(values.map((value) => nested(1, value))))]))

/** Summary.Value { tag, simple_value } */
export const scalarValue = (tag: string, value: number): Buffer => Buffer.concat([nested(1, tag), float(2, value)])

/** Summary.Value { tag, metadata: text plugin, tensor: DT_STRING of one }, shown as Markdown. */
export function textValue(tag: string, text: string): Buffer {
  const metadata = nested(1, nested(1, 'text'))
  const shape = nested(2, integer(1, 1))
  const tensor = Buffer.concat([integer(1, 7), nested(2, shape), nested(8, text)])
  return Buffer.concat([nested(1, tag), nested(8, tensor), nested(9, metadata)])
}

/** Counts of numbers between limits, as TensorBoard shows them. */
export interface Histogram {
  min: number, max: number, count: number, sum: number, sumOfSquares: number
  /** Upper edges of the buckets, rising, and how many values lie in each. */
  edges: readonly number[], counts: readonly number[]
}

/** Summary.Value { tag, histo } */
export const histogramValue = (tag: string, h: Histogram): Buffer => Buffer.concat([
  nested(1, tag),
  nested(5, Buffer.concat([double(1, h.min), double(2, h.max), double(3, h.count), double(4, h.sum), double(5, h.sumOfSquares), doubles(6, h.edges), doubles(7, h.counts)])),
])

/** Sorts finite values into `buckets` of equal width; values that are not finite are left out. */
export function makeHistogram(values: ArrayLike<number>, buckets = 30): Histogram {
  let [min, max, count, sum, sumOfSquares] = [Infinity, -Infinity, 0, 0, 0]
  for (let i = 0; i < values.length; i++) {
    const value = values[i]!
    if (!Number.isFinite(value)) continue
    min = Math.min(min, value)
    max = Math.max(max, value)
    count++
    sum += value
    sumOfSquares += value * value
  }
  if (count === 0) return { min: 0, max: 0, count: 0, sum: 0, sumOfSquares: 0, edges: [0], counts: [0] }
  const width = (max - min) / buckets
  if (width === 0) return { min, max, count, sum, sumOfSquares, edges: [min], counts: [count] }
  const counts = new Array<number>(buckets).fill(0)
  for (let i = 0; i < values.length; i++) {
    const value = values[i]!
    if (Number.isFinite(value)) counts[Math.min(buckets - 1, Math.floor((value - min) / width))]!++
  }
  return { min, max, count, sum, sumOfSquares, edges: counts.map((_, i) => (i === buckets - 1 ? max : min + (i + 1) * width)), counts }
}
