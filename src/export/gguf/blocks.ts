import { fromHalf, halfFromBits, toHalf } from './half.ts'

const { abs, floor, fround, min, trunc } = Math

/** Numbers of one scale in Q8_0 and Q4_0. */
const blockSize = 32

/** How ggml stores a tensor: `code` is its number in the file, `bytes` those of `block` numbers. */
export interface TensorFormat {
  readonly code: number
  readonly block: number
  readonly bytes: number
  /** Numbers to bytes; `length` is a multiple of the block. */
  readonly encode: (values: Float32Array) => Uint8Array
  readonly decode: (bytes: Uint8Array, values: Float32Array) => void
}

const bytesOf = (array: Uint16Array | Float32Array): Uint8Array => new Uint8Array(array.buffer, array.byteOffset, array.byteLength)
const bitsOf = (values: Float32Array): Uint32Array => new Uint32Array(values.buffer, values.byteOffset, values.length)
const halfAt = (bytes: Uint8Array, at: number): number => fromHalf(bytes[at]! | (bytes[at + 1]! << 8))

function putHalf(bytes: Uint8Array, at: number, value: number): void {
  const half = toHalf(value)
  bytes[at] = half & 255
  bytes[at + 1] = half >>> 8
}

function encodeF16(values: Float32Array): Uint8Array {
  const bits = bitsOf(values)
  const out = new Uint16Array(values.length)
  for (let i = 0; i < out.length; i++) out[i] = halfFromBits(bits[i]!)
  return bytesOf(out)
}

function decodeF16(bytes: Uint8Array, values: Float32Array): void {
  for (let i = 0; i < values.length; i++) values[i] = halfAt(bytes, 2 * i)
}

/** bfloat16 is the upper half of a float32, rounded to nearest even. */
function encodeBF16(values: Float32Array): Uint8Array {
  const bits = bitsOf(values)
  const out = new Uint16Array(values.length)
  for (let i = 0; i < out.length; i++) out[i] = (bits[i]! + 0x7fff + ((bits[i]! >>> 16) & 1)) >>> 16
  return bytesOf(out)
}

function decodeBF16(bytes: Uint8Array, values: Float32Array): void {
  const bits = bitsOf(values)
  for (let i = 0; i < bits.length; i++) bits[i] = (bytes[2 * i]! << 16) | (bytes[2 * i + 1]! << 24)
}

/** 1 / d in float32; 0 for 0, and where the quotient overflows, as d is then 0 in float16. */
function inverse(d: number): number {
  const id = fround(1 / d)
  return Number.isFinite(id) ? id : 0
}

/** C's roundf: halves away from zero. */
const round = (x: number): number => (x < 0 ? -floor(-x + 0.5) : floor(x + 0.5))

/** Q8_0: d = max |x| / 127 in float16, then 32 int8; every step in float32 as ggml's reference. */
function encodeQ80(values: Float32Array): Uint8Array {
  const blocks = values.length / blockSize
  const out = new Uint8Array(blocks * 34)
  for (let b = 0; b < blocks; b++) {
    let largest = 0
    for (let i = 0; i < blockSize; i++) largest = Math.max(largest, abs(values[b * blockSize + i]!))
    const d = fround(largest / 127)
    const id = inverse(d)
    putHalf(out, b * 34, d)
    for (let i = 0; i < blockSize; i++) out[b * 34 + 2 + i] = round(fround(values[b * blockSize + i]! * id))
  }
  return out
}

function decodeQ80(bytes: Uint8Array, values: Float32Array): void {
  for (let b = 0; b * blockSize < values.length; b++) {
    const d = halfAt(bytes, b * 34)
    for (let i = 0; i < blockSize; i++) values[b * blockSize + i] = ((bytes[b * 34 + 2 + i]! << 24) >> 24) * d
  }
}

/** Q4_0: d = x / -8 of the x furthest from 0, in float16, then 16 bytes: element i in the low, i + 16 in the high half. */
function encodeQ40(values: Float32Array): Uint8Array {
  const blocks = values.length / blockSize
  const out = new Uint8Array(blocks * 18)
  for (let b = 0; b < blocks; b++) {
    let extreme = 0
    for (let i = 0; i < blockSize; i++) if (abs(values[b * blockSize + i]!) > abs(extreme)) extreme = values[b * blockSize + i]!
    const d = fround(extreme / -8)
    const id = inverse(d)
    const code = (i: number): number => min(15, trunc(fround(fround(values[b * blockSize + i]! * id) + 8.5)))
    putHalf(out, b * 18, d)
    for (let i = 0; i < 16; i++) out[b * 18 + 2 + i] = code(i) | (code(i + 16) << 4)
  }
  return out
}

function decodeQ40(bytes: Uint8Array, values: Float32Array): void {
  for (let b = 0; b * blockSize < values.length; b++) {
    const d = halfAt(bytes, b * 18)
    for (let i = 0; i < 16; i++) {
      const pair = bytes[b * 18 + 2 + i]!
      values[b * blockSize + i] = ((pair & 15) - 8) * d
      values[b * blockSize + 16 + i] = ((pair >>> 4) - 8) * d
    }
  }
}

/** The formats anneal writes and reads. */
export const tensorFormats = {
  F32: { code: 0, block: 1, bytes: 4, encode: (values) => bytesOf(values), decode: (bytes, values) => { bytesOf(values).set(bytes) } },
  F16: { code: 1, block: 1, bytes: 2, encode: encodeF16, decode: decodeF16 },
  BF16: { code: 30, block: 1, bytes: 2, encode: encodeBF16, decode: decodeBF16 },
  Q8_0: { code: 8, block: blockSize, bytes: 34, encode: encodeQ80, decode: decodeQ80 },
  Q4_0: { code: 2, block: blockSize, bytes: 18, encode: encodeQ40, decode: decodeQ40 },
} as const satisfies Record<string, TensorFormat>

export type TensorFormatName = keyof typeof tensorFormats

/** Bytes of so many numbers, undefined where they are no whole blocks. */
export function formatByteLength(format: TensorFormatName, size: number): number | undefined {
  const { block, bytes } = tensorFormats[format]
  return size % block === 0 ? (size / block) * bytes : undefined
}

/** Names of ggml's other formats, for messages. */
export const otherFormats: Readonly<Record<number, string>> = {
  3: 'Q4_1', 6: 'Q5_0', 7: 'Q5_1', 9: 'Q8_1', 10: 'Q2_K', 11: 'Q3_K', 12: 'Q4_K', 13: 'Q5_K', 14: 'Q6_K', 15: 'Q8_K', 16: 'IQ2_XXS', 17: 'IQ2_XS', 18: 'IQ3_XXS',
  19: 'IQ1_S', 20: 'IQ4_NL', 21: 'IQ3_S', 22: 'IQ2_S', 23: 'IQ4_XS', 24: 'I8', 25: 'I16', 26: 'I32', 27: 'I64', 28: 'F64', 29: 'IQ1_M', 34: 'TQ1_0', 35: 'TQ2_0', 39: 'MXFP4',
}
