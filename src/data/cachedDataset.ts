import { closeSync, openSync, readSync } from 'node:fs'
import { DataError } from '../errors.ts'
import { readError } from '../files/filesystem.ts'
import type { ShardInfo } from './shards.ts'
import { ignoreIndex, type Dataset, type Example } from './types.ts'

const maxOpenFiles = 64

/** Examples in shard files, read one at a time; 8 bytes an example are in memory. Close it when done. */
export class CachedDataset implements Dataset {
  readonly length: number
  private readonly shards: readonly ShardInfo[]
  /** The first example of each shard, and the total. */
  private readonly firsts: number[] = [0]
  /** The first token of each example in its shard. */
  private readonly starts: Uint32Array[] = []
  private readonly files = new Map<number, number>()
  private closed = false

  constructor(shards: readonly ShardInfo[]) {
    this.shards = shards
    for (const { lengths } of shards) {
      const starts = new Uint32Array(lengths.length)
      for (let i = 1; i < lengths.length; i++) starts[i] = starts[i - 1]! + lengths[i - 1]!
      this.starts.push(starts)
      this.firsts.push(this.firsts.at(-1)! + lengths.length)
    }
    this.length = this.firsts.at(-1)!
  }

  /** The shard of an example and its place in it, by bisection. */
  private locate(index: number): { shard: number, place: number } {
    if (!Number.isInteger(index) || index < 0 || index >= this.length) throw new DataError(`dataset: expected an index from 0 to ${this.length - 1}, got ${index}`)
    let low = 0
    let high = this.shards.length - 1
    while (low < high) {
      const middle = (low + high + 1) >> 1
      if (this.firsts[middle]! <= index) low = middle
      else high = middle - 1
    }
    return { shard: low, place: index - this.firsts[low]! }
  }

  lengthOf(index: number): number {
    const { shard, place } = this.locate(index)
    return this.shards[shard]!.lengths[place]!
  }

  get(index: number): Example {
    const { shard, place } = this.locate(index)
    const { header, lengths, idsAt, maskAt, path } = this.shards[shard]!
    const count = lengths[place]!
    const start = this.starts[shard]![place]!
    const inputIds = new Int32Array(count)
    const labels = new Int32Array(count)
    const file = this.file(shard)
    const ids = header.idBytes === 2 ? new Uint16Array(count) : inputIds
    const firstByte = start >> 3
    const mask = new Uint8Array(((start + count + 7) >> 3) - firstByte)
    this.read(file, new Uint8Array(ids.buffer), idsAt + start * header.idBytes, path)
    this.read(file, mask, maskAt + firstByte, path)
    for (let i = 0; i < count; i++) {
      const id = ids[i]!
      const bit = start + i
      inputIds[i] = id
      labels[i] = (mask[(bit >> 3) - firstByte]! >> (bit & 7)) & 1 ? id : ignoreIndex
    }
    return { inputIds, labels }
  }

  private read(file: number, target: Uint8Array, position: number, path: string): void {
    let done = 0
    while (done < target.length) {
      const count = readSync(file, target, done, target.length - done, position + done)
      if (count === 0) throw new DataError(`${path}: the cache shard became shorter while it was in use; delete it to have it made again`)
      done += count
    }
  }

  /** The shard's open file; the least recently used is closed when there are too many. */
  private file(shard: number): number {
    if (this.closed) throw new DataError('dataset: it was closed; open it again with loadDataset')
    const known = this.files.get(shard)
    if (known !== undefined) {
      this.files.delete(shard)
      this.files.set(shard, known)
      return known
    }
    if (this.files.size >= maxOpenFiles) {
      const [oldest, file] = this.files.entries().next().value!
      closeSync(file)
      this.files.delete(oldest)
    }
    const { path } = this.shards[shard]!
    try {
      const file = openSync(path, 'r')
      this.files.set(shard, file)
      return file
    } catch (error) {
      throw readError(error, path)
    }
  }

  close(): void {
    for (const file of this.files.values()) closeSync(file)
    this.files.clear()
    this.closed = true
  }

  [Symbol.dispose](): void { this.close() }
}
