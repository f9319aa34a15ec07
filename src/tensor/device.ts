import { native } from '../../lib/index.js'
import type { Kernels, Native } from '../../lib/index.js'
import {
  AddonError, AnnealError, ConfigError, DiskFullError, DisposedError, FileFormatError, KernelError, OutOfMemoryError, ShapeError,
} from '../errors.ts'

const errorClasses: Record<string, (message: string) => AnnealError> = {
  ERR_SHAPE: (message) => new ShapeError(message),
  ERR_DISPOSED: (message) => new DisposedError(message),
  ERR_OUT_OF_MEMORY: (message) => new OutOfMemoryError(message),
  ERR_KERNEL: (message) => new KernelError(message),
  ERR_CONFIG: (message) => new ConfigError(message),
  ERR_FILE_FORMAT: (message) => new FileFormatError(message),
  ERR_DISK_FULL: (message) => new DiskFullError(message),
}

native.setErrorFactory((code, message) => errorClasses[code]?.(message) ?? new AddonError(message))

export interface MemoryStatistics {
  /** Bytes in use. */
  live: number
  /** The most that `live` has been since the start or `resetPeak()`. */
  peak: number
  /** Bytes taken from the system, free ones included. */
  system: number
  /** Blocks in use. */
  blocks: number
}

/** Memory plus an ordered stream of kernel calls. Calls are enqueued and return at once; errors inside a kernel reject the next `fence()`. */
export class Device {
  readonly name: string
  /** @internal */
  readonly native: Native
  /** @internal */
  readonly kernels: Kernels

  constructor(name: string, addon: Native) {
    this.name = name
    this.native = addon
    this.kernels = addon.kernels
  }

  /** Resolves when everything enqueued so far has run; rejects with the first failure. */
  async fence(): Promise<void> { await this.native.fence() }
  memory(): MemoryStatistics { return this.native.memory() }
  resetPeakMemory(): void { this.native.resetPeak() }
  /** Gives memory that no tensor uses back to the system. */
  emptyCache(): void { this.native.emptyCache() }
  /** The most bytes to take from the system, 0 for no limit; beyond it an allocation throws OutOfMemoryError. */
  setMemoryLimit(bytes: number): void { this.native.setMemoryLimit(bytes) }
  get threads(): number { return this.native.info().threads }
  set threads(count: number) { this.native.setThreads(count) }
  /** The instruction set in use: avx512bf16, avx512, avx2 or baseline. */
  get isa(): string { return this.native.info().isa }
  set isa(name: string) { this.native.setIsa(name) }
  /** The instruction sets this machine can run, best first. */
  get isas(): string[] { return this.native.info().isas }
}

export const cpu = new Device('cpu', native)
