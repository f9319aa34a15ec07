import type { Kernels } from './kernels.js'

export type { Kernels }

/** What the addon exports. A tensor is a number, its handle; 0 stands for no tensor. */
export interface Native {
  create(dtype: number, shape: readonly number[]): number
  /** A tensor over part of another's memory. */
  view(handle: number, byteOffset: number, dtype: number, shape: readonly number[]): number
  release(handle: number): void
  /** Copies the bytes now; the array may change afterwards. */
  write(handle: number, bytes: Uint8Array): void
  read(handle: number): Promise<ArrayBuffer>
  /** Enqueued; a failure rejects the next fence. */
  readFile(handle: number, fd: number, offset: number, path: string): void
  writeFile(handle: number, fd: number, offset: number, path: string): void
  /** Resolves when everything enqueued before has run; rejects with the first failure. */
  fence(): Promise<undefined>
  /** Bytes in use, their peak, bytes taken from the system, and blocks in use. */
  memory(): { live: number; peak: number; system: number; blocks: number }
  resetPeak(): void
  /** Gives wholly free segments back to the system. */
  emptyCache(): void
  /** The most bytes to take from the system; 0 is no limit. */
  setMemoryLimit(bytes: number): void
  setThreads(count: number): void
  setIsa(name: string): void
  info(): { isa: string; isas: string[]; threads: number }
  setErrorFactory(factory: (code: string, message: string) => Error): void
  readonly kernels: Kernels
  readonly signatures: Readonly<Record<keyof Kernels, string>>
}

export declare const native: Native
