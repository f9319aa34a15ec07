// Proves that F16, BF16, Q8_0 and Q4_0 have the bytes of ggml's reference quantizers, and that they are read back as gguf reads them.
import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { formatByteLength, tensorFormats, type TensorFormatName } from '../../src/export/gguf/blocks.ts'
import { fromHalf, toHalf } from '../../src/export/gguf/half.ts'

interface Golden { bytes: string, back: string, values?: string }
const golden = JSON.parse(readFileSync(new URL('../recorded/export/blocks.json', import.meta.url), 'utf8')) as { values: string, formats: Record<TensorFormatName, Golden> }

const bytesOf = (text: string): Uint8Array => Uint8Array.from(Buffer.from(text, 'base64'))
const floatsOf = (text: string): Float32Array => new Float32Array(bytesOf(text).buffer)

test.each(['F16', 'BF16', 'Q8_0', 'Q4_0'] as const)('%s has the bytes of the reference', (name) => {
  const { bytes, back, values = golden.values } = golden.formats[name]
  const numbers = floatsOf(values)
  const encoded = tensorFormats[name].encode(numbers)
  expect(Buffer.from(encoded).equals(bytesOf(bytes))).toBe(true)
  expect(encoded.length).toBe(formatByteLength(name, numbers.length))

  const decoded = new Float32Array(numbers.length)
  tensorFormats[name].decode(encoded, decoded)
  expect(decoded).toEqual(floatsOf(back))
})

test('every float16 is read and written as itself', () => {
  const all = Array.from({ length: 0x7c00 }, (_, half) => half)
  expect(all.filter((half) => toHalf(fromHalf(half)) !== half || toHalf(-fromHalf(half)) !== (half | 0x8000))).toEqual([])
  expect([toHalf(Infinity), toHalf(-Infinity), toHalf(65520), toHalf(65519)]).toEqual([0x7c00, 0xfc00, 0x7c00, 0x7bff])
  expect(fromHalf(toHalf(NaN))).toBeNaN()
})

test('blocks whose scale vanishes in float16 are zeros', () => {
  for (const name of ['Q8_0', 'Q4_0'] as const) {
    const decoded = new Float32Array(32).fill(1)
    tensorFormats[name].decode(tensorFormats[name].encode(new Float32Array(32).fill(1e-41)), decoded)
    expect(decoded.every((value) => value === 0)).toBe(true)
  }
})

test('rows that are no whole blocks have no size', () => {
  expect(formatByteLength('Q8_0', 33)).toBeUndefined()
  expect(formatByteLength('F16', 33)).toBe(66)
})
