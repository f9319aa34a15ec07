const blockLength = 1 << 16

/** Numbers below 2^32 that are added one by one, 4 bytes each; in blocks, as moving millions of them at once would take long. */
export class GrowingArray {
  readonly #blocks: Uint32Array[] = []
  length = 0

  push(value: number): void {
    const at = this.length++ % blockLength
    if (at === 0) this.#blocks.push(new Uint32Array(blockLength))
    this.#blocks.at(-1)![at] = value
  }

  /** All of them; yields now and then. */
  *take(): Generator<undefined, Uint32Array> {
    const values = new Uint32Array(this.length)
    for (const [i, block] of this.#blocks.entries()) {
      values.set(block.subarray(0, this.length - i * blockLength), i * blockLength)
      yield
    }
    return values
  }
}
