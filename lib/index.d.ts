import type { Kernels } from './kernels.js'

export type { Kernels }

/** What the addon exports. A tensor is a number, its handle; 0 stands for no tensor. */
export interface Native {
  /** Devices are numbers, 0 being the CPU. */
  create(dtype: number, shape: readonly number[], device: number): number
  /** A tensor over part of another's memory. */
  view(handle: number, byteOffset: number, dtype: number, shape: readonly number[]): number
  release(handle: number, forgotten?: boolean): void
  /** Copies the bytes now; the array may change afterwards. */
  write(handle: number, bytes: Uint8Array): void
  read(handle: number): Promise<ArrayBuffer>
  /** All bytes of one tensor into another, on any device. */
  copy(to: number, from: number): void
  /** Enqueued; a failure rejects the next fence. */
  readFile(handle: number, fd: number, offset: number, path: string): void
  writeFile(handle: number, fd: number, offset: number, path: string): void
  /** Resolves when everything enqueued before has run; rejects with the first failure. */
  fence(device: number): Promise<undefined>
  /** Bytes in use, their peak, bytes taken from the system, and blocks in use. */
  memory(device: number): { live: number; peak: number; system: number; blocks: number }
  resetPeak(device: number): void
  /** Gives wholly free segments back to the system. */
  emptyCache(device: number): void
  /** The most bytes to take from the system; 0 is no limit. */
  setMemoryLimit(device: number, bytes: number): void
  /** Opens device `index` of a device library and returns its number. */
  openDevice(library: string, index: number): number
  describeDevices(library: string): { name: string; compute: number; multiprocessors: number; memory: number; gemmLibrary: string }[]
  /** A double: kernels launched since the device was opened. */
  launches(device: number): Promise<ArrayBuffer>
  /** From here on each kernel is timed, one after another. */
  startProfile(device: number): void
  /** Doubles: calls and seconds of each kernel in the order of `signatures`, then those of graphs that a GPU ran whole. */
  endProfile(device: number): Promise<ArrayBuffer>
  /** Calls enqueued until endCapture() become a graph instead of running; returns its number. */
  beginCapture(device: number): void
  endCapture(device: number): number
  replay(graph: number): void
  releaseGraph(graph: number): void
  setThreads(count: number): void
  setIsa(name: string): void
  info(): { isa: string; isas: string[]; threads: number }
  setErrorFactory(factory: (code: string, message: string) => Error): void
  readonly kernels: Kernels
  readonly signatures: Readonly<Record<keyof Kernels, string>>
}

export declare const native: Native

export { deviceLibrary } from './load.js'
