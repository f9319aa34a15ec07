import { dequantize, quantize, QuantizedTensor, type QuantizedFormat } from '../ops/index.ts'
import { Tensor, unscoped } from '../tensor/index.ts'

/** bitsandbytes' block of scales that share a scale. */
const nestedBlock = 256

const maps = new Map<QuantizedFormat, Promise<Float32Array>>()

/** What each code of a format stands for at a scale of 1: the code books that bitsandbytes writes beside its weights. */
export function codeBook(format: 'nf4' | 'fp4' | 'dynamic'): Promise<Float32Array> {
  let map = maps.get(format)
  if (!map) maps.set(format, map = computeCodeBook(format))
  return map
}

async function computeCodeBook(format: QuantizedFormat): Promise<Float32Array> {
  const codes = format === 'dynamic' ? Uint8Array.from({ length: 256 }, (_, code) => code) : Uint8Array.from({ length: 8 }, (_, i) => 2 * i << 4 | 2 * i + 1)
  const count = format === 'dynamic' ? 256 : 16
  const coded = unscoped(() => new QuantizedTensor([count], format, count, Tensor.from(codes, undefined, { device: 'cpu' }), Tensor.ones([1], { device: 'cpu' })))
  const values = unscoped(() => dequantize(coded))
  coded.dispose()
  try {
    // FP4 has two zeros; bitsandbytes writes both without a sign.
    return (await values.data() as Float32Array).map((value) => value + 0)
  } finally {
    values.dispose()
  }
}

/**
 * The scales of a weight in 8 bits each (double quantisation, QLoRA section 3): scale = map[code] * absmax[block] + offset, each step rounded to float32.
 * Products read float32 scales; this is kept beside them, so that what is saved has the bytes of bitsandbytes.
 */
export class NestedScales {
  /** One for each scale. */
  readonly codes: Uint8Array
  /** One for each `block` codes. */
  readonly absmax: Float32Array
  /** 256 ascending values: bitsandbytes' signed dynamic map. */
  readonly map: Float32Array
  readonly offset: number
  readonly block: number

  constructor(codes: Uint8Array, absmax: Float32Array, map: Float32Array, offset: number, block = nestedBlock) {
    this.codes = codes
    this.absmax = absmax
    this.map = map
    this.offset = Math.fround(offset)
    this.block = block
  }

  /** Rounds float32 scales. The offset is their mean, summed in float64. */
  static async of(scales: Tensor): Promise<NestedScales> {
    const values = await scales.data() as Float32Array
    const offset = Math.fround(values.reduce((sum, value) => sum + value, 0) / Math.max(1, values.length))
    const centred = unscoped(() => Tensor.from(values.map((value) => value - offset), [values.length], { device: scales.device }))
    const coded = unscoped(() => quantize(centred, { format: 'dynamic', block: nestedBlock }))
    centred.dispose()
    try {
      return new NestedScales(await coded.codes.data() as Uint8Array, await coded.scales.data() as Float32Array, await codeBook('dynamic'), offset)
    } finally {
      coded.dispose()
    }
  }

  /** The scales that the codes stand for. */
  values(): Float32Array {
    const { codes, absmax, map, offset, block } = this
    const result = new Float32Array(codes.length)
    for (let i = 0; i < codes.length; i++) result[i] = Math.fround(map[codes[i]!]! * absmax[Math.floor(i / block)]!) + offset
    return result
  }
}
