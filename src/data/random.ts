import { atOnce } from '../turns.ts'

/**
 * Philox4x32-10 (Salmon et al., 2011): four random 32-bit words that depend only on the key and the counter, so that any
 * position of a random sequence can be computed without the ones before it.
 */
export function philox(key: readonly [number, number], counter: readonly [number, number, number, number]): [number, number, number, number] {
  let [c0, c1, c2, c3] = counter
  let [k0, k1] = key
  for (let round = 0; round < 10; round++) {
    const high0 = multiplyHigh(0xd2511f53, c0), low0 = Math.imul(0xd2511f53, c0)
    const high1 = multiplyHigh(0xcd9e8d57, c2), low1 = Math.imul(0xcd9e8d57, c2)
    c0 = (high1 ^ c1 ^ k0) >>> 0
    c1 = low1 >>> 0
    c2 = (high0 ^ c3 ^ k1) >>> 0
    c3 = low0 >>> 0
    k0 = (k0 + 0x9e3779b9) >>> 0
    k1 = (k1 + 0xbb67ae85) >>> 0
  }
  return [c0, c1, c2, c3]
}

/** The upper 32 bits of the product of two unsigned 32-bit numbers. */
function multiplyHigh(a: number, b: number): number {
  const aLow = a & 0xffff, aHigh = a >>> 16, bLow = b & 0xffff, bHigh = b >>> 16
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16)
  const carry = aLow * bHigh + (middle % 0x10000)
  return (aHigh * bHigh + Math.floor(middle / 0x10000) + Math.floor(carry / 0x10000)) >>> 0
}

/** What a random sequence is for; sequences of different purposes do not meet. */
const randomPurpose = { shuffle: 1, split: 2, mixture: 3, buffer: 4, packing: 5, masking: 6, evalMasking: 7 } as const

/** A sequence of random numbers that is a pure function of (seed, purpose, stream, index). Seeds are whole numbers below 2^53. */
export class RandomSequence {
  private readonly key: [number, number]
  private readonly purpose: number
  private readonly stream: number
  private block = -1
  private words: [number, number, number, number] = [0, 0, 0, 0]

  constructor(seed: number, purpose: keyof typeof randomPurpose, stream = 0) {
    this.key = [seed >>> 0, Math.floor(seed / 2 ** 32) >>> 0]
    this.purpose = randomPurpose[purpose]
    this.stream = stream
  }

  /** 32 random bits at `index`. */
  word(index: number): number {
    const block = Math.floor(index / 4)
    if (block !== this.block) {
      this.words = philox(this.key, [block >>> 0, Math.floor(block / 2 ** 32) >>> 0, this.stream >>> 0, this.purpose])
      this.block = block
    }
    return this.words[index % 4]!
  }

  /** Uniform in [0, 1), of 32 bits. */
  uniform(index: number): number { return this.word(index) / 2 ** 32 }

  /** A whole number in [0, n), n <= 2^32; the bias is below n / 2^32. */
  below(index: number, n: number): number { return Math.floor(this.uniform(index) * n) }
}

/** A permutation of 0 … n-1 that depends only on its arguments (Fisher-Yates over Philox). 4 bytes a number. */
export function permutation(n: number, seed: number, purpose: keyof typeof randomPurpose, stream = 0): Uint32Array {
  return atOnce(permuting(n, seed, purpose, stream))
}

/** Numbers that are worked on between two chances for other work to have its turn. */
export const numbersPerTurn = 4096

/** The same; yields now and then. */
export function* permuting(n: number, seed: number, purpose: keyof typeof randomPurpose, stream = 0): Generator<undefined, Uint32Array> {
  const random = new RandomSequence(seed, purpose, stream)
  const order = new Uint32Array(n)
  for (let begin = 0; begin < n; begin += numbersPerTurn) {
    const end = Math.min(begin + numbersPerTurn, n)
    for (let i = begin; i < end; i++) {
      const j = random.below(i, i + 1)
      order[i] = order[j]!
      order[j] = i
    }
    yield
  }
  return order
}
