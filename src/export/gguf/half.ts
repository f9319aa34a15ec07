const one = new Float32Array(1)
const oneBits = new Uint32Array(one.buffer)

/** The bits of a float32 as those of the nearest float16, ties to even; 65520 and more become infinity. */
export function halfFromBits(bits: number): number {
  const sign = (bits >>> 16) & 0x8000
  const size = bits & 0x7fffffff
  if (size > 0x7f800000) return sign | 0x7e00
  if (size >= 0x477ff000) return sign | 0x7c00
  if (size < 0x38800000) {
    // 0.5 has a last place of 2^-24, the step of subnormal halves: the addition rounds as they need.
    oneBits[0] = size
    one[0] = one[0]! + 0.5
    return sign | (oneBits[0] - 0x3f000000)
  }
  return sign | ((size - 0x38000000 + 0xfff + ((size >>> 13) & 1)) >>> 13)
}

/** A number as float16 bits. */
export function toHalf(value: number): number {
  one[0] = value
  return halfFromBits(oneBits[0]!)
}

/** What float16 bits stand for. */
export function fromHalf(half: number): number {
  const sign = half & 0x8000 ? -1 : 1
  const exponent = (half >>> 10) & 31
  const fraction = half & 0x3ff
  if (exponent === 31) return fraction ? NaN : sign * Infinity
  return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1024 + fraction) * 2 ** (exponent - 25)
}
