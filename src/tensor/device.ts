import { deviceLibrary, native } from '../../lib/index.js'
import type { Kernels, Native } from '../../lib/index.js'
import {
  AddonError, AnnealError, ConfigError, DeviceError, DiskFullError, DisposedError, FileFormatError, KernelError, OutOfMemoryError, ShapeError,
} from '../errors.ts'

const errorClasses: Record<string, (message: string) => AnnealError> = {
  ERR_SHAPE: (message) => new ShapeError(message),
  ERR_DISPOSED: (message) => new DisposedError(message),
  ERR_OUT_OF_MEMORY: (message) => new OutOfMemoryError(message),
  ERR_KERNEL: (message) => new KernelError(message),
  ERR_DEVICE: (message) => new DeviceError(message),
  ERR_CONFIG: (message) => new ConfigError(message),
  ERR_FILE_FORMAT: (message) => new FileFormatError(message),
  ERR_DISK_FULL: (message) => new DiskFullError(message),
}

native.setErrorFactory((code, message) => errorClasses[code]?.(message) ?? new AddonError(message))

/** What the allocator of a device counts, in bytes. */
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
  /** cpu, cuda, cuda:1, … */
  readonly name: string
  /** @internal */
  readonly native: Native
  /** @internal */
  readonly kernels: Kernels
  /** @internal Its number in the addon; 0 is the CPU. */
  readonly number: number

  /** @internal Use `device(name)`. */
  constructor(name: string, addon: Native, number: number) {
    this.name = name
    this.native = addon
    this.kernels = addon.kernels
    this.number = number
  }

  /** Resolves when everything enqueued so far has run; rejects with the first failure. */
  async fence(): Promise<void> { await this.native.fence(this.number) }
  memory(): MemoryStatistics { return this.native.memory(this.number) }
  resetPeakMemory(): void { this.native.resetPeak(this.number) }
  /** Gives memory that no tensor uses back to the system. */
  emptyCache(): void { this.native.emptyCache(this.number) }
  /** The most bytes to take from the system, 0 for no limit; beyond it an allocation throws OutOfMemoryError. */
  setMemoryLimit(bytes: number): void { this.native.setMemoryLimit(this.number, bytes) }
  /** Kernels launched so far on a CUDA device, in the order of its stream; 0 on the CPU. */
  async launches(): Promise<number> { return new Float64Array(await this.native.launches(this.number))[0]! }
  /** Threads of the CPU's pool. */
  get threads(): number { return this.native.info().threads }
  set threads(count: number) { this.native.setThreads(count) }
  /** The CPU's instruction set in use: avx512bf16, avx512, avx2 or baseline. */
  get isa(): string { return this.native.info().isa }
  set isa(name: string) { this.native.setIsa(name) }
  /** The instruction sets this machine can run, best first. */
  get isas(): string[] { return this.native.info().isas }
}

/** The CPU, which is always there. */
export const cpu = new Device('cpu', native, 0)

/** A device, or its name: cpu, cuda, or cuda:1 for the second GPU. */
export type DeviceLike = Device | string

/** The library of a kind of device. @throws DeviceError where it is not built. */
function libraryOf(kind: 'cuda' | 'simt'): string {
  try {
    return deviceLibrary(kind)
  } catch (error) {
    throw new DeviceError((error as Error).message)
  }
}

const opened = new Map<string, Device>([['cpu', cpu]])

/**
 * The device of a name, opened when it is first asked for.
 * @throws DeviceError where it does not exist, or where the CUDA backend, the driver or the GPU is missing; the message says which.
 */
export function device(name: DeviceLike): Device {
  if (name instanceof Device) return name
  const known = opened.get(name)
  if (known) return known
  const match = /^(cuda|simt)(?::(\d+))?$/.exec(name)
  if (!match) throw new ConfigError(`device "${name}" is unknown; it must be cpu, cuda, or cuda:1, cuda:2, … for a further GPU`)
  const index = Number(match[2] ?? 0)
  const canonical = index === 0 ? match[1]! : `${match[1]!}:${index}`
  const existing = opened.get(canonical)
  if (existing) return existing
  const device = new Device(canonical, native, native.openDevice(libraryOf(match[1] as 'cuda' | 'simt'), index))
  opened.set(canonical, device)
  return device
}

/** What the driver says of a GPU. */
export interface GpuDescription {
  name: string
  /** Compute capability, such as 9 or 8.6. */
  compute: number
  multiprocessors: number
  /** Bytes. */
  memory: number
  /** What multiplies large matrices: a version of cuBLASLt, or why it is not used. */
  gemmLibrary: string
}

/** The GPUs that the CUDA backend sees. @throws DeviceError with the reason where it sees none because something is missing. */
export function cudaDevices(): GpuDescription[] { return native.describeDevices(libraryOf('cuda')) }

let chosen: Device | null = null

function chooseDevice(): Device {
  const wanted = process.env.ANNEAL_DEVICE
  if (wanted) return device(wanted)
  try {
    if (cudaDevices().length > 0) return device('cuda')
  } catch (error) {
    if (!(error instanceof DeviceError)) throw error
  }
  return cpu
}

/** Where tensors and models are made unless a device is given: ANNEAL_DEVICE, else the first GPU where there is one, else the CPU. */
export function defaultDevice(): Device {
  chosen ??= chooseDevice()
  return chosen
}

/** Sets the default device, as torch.set_default_device does, and returns the one before. */
export function setDefaultDevice(wanted: DeviceLike): Device {
  const before = defaultDevice()
  chosen = device(wanted)
  return before
}
