import { ConfigError } from '../errors.ts'
import { defaultDevice, device as deviceOf, type DeviceLike } from './device.ts'

/** What one kernel took while a profile was taken. */
export interface KernelTime {
  /** Its name in kernels.def, such as gemm or attention_backward; `graph` for CUDA graphs, which run as a whole. */
  readonly kernel: string
  readonly calls: number
  /** Of all calls together. */
  readonly seconds: number
}

/** Devices that a profile is being taken of. */
const profiled = new Set<number>()

/**
 * Runs `body` and says what each kernel took on the device, the longest first, as torch.profiler's table does. On a GPU each kernel is waited for, so
 * the whole takes longer than without a profile; on the CPU it hardly does. What the device does meanwhile for others counts too.
 * @throws ConfigError where a profile of this device is being taken already, and whatever `body` throws.
 */
export async function profile(body: () => unknown, device: DeviceLike = defaultDevice()): Promise<KernelTime[]> {
  const { native, number, name } = deviceOf(device)
  if (profiled.has(number)) throw new ConfigError(`profile: one of ${name} is being taken already; await it first`)
  native.startProfile(number)
  profiled.add(number)
  const end = async (): Promise<Float64Array> => {
    profiled.delete(number)
    return new Float64Array(await native.endProfile(number))
  }
  try {
    await body()
  } catch (error) {
    await end().catch(() => undefined) // a kernel that failed, too, says less than what body threw
    throw error
  }
  const numbers = await end()
  return [...Object.keys(native.signatures), 'graph']
    .map((kernel, i) => ({ kernel, calls: numbers[2 * i]!, seconds: numbers[2 * i + 1]! }))
    .filter(({ calls }) => calls > 0)
    .sort((a, b) => b.seconds - a.seconds)
}
