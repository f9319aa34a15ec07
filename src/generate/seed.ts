import { createHash } from 'node:crypto'
import { nextStream } from '../tensor/random.ts'

/** A seed for a call that names none: another one each time, repeated after manualSeed(). */
export function freshSeed(): number {
  const { seed, stream } = nextStream()
  return createHash('sha256').update(`generate ${seed} ${stream}`).digest().readUIntBE(0, 6)
}

/**
 * The seed of one sample: a function of the seed of the call, the prompt's tokens and the sample's number among those of the same prompt, so that
 * an answer does not depend on what else is generated with it. A whole number of 32 bits, signed.
 */
export function sampleSeed(seed: number, promptIds: Int32Array, sample: number): number {
  const head = Buffer.alloc(16)
  head.writeDoubleLE(seed, 0)
  head.writeDoubleLE(sample, 8)
  return createHash('sha256').update(head).update(new Uint8Array(promptIds.buffer, promptIds.byteOffset, promptIds.byteLength)).digest().readInt32LE(0)
}
