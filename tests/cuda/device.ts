// Which device the tests of the CUDA backend run on: the emulator, or a GPU where ANNEAL_TEST_DEVICE=cuda says so.
import { device, setDefaultDevice } from '../../src/tensor/index.ts'
import type { Device } from '../../src/tensor/index.ts'

export const tested: Device = device(process.env.ANNEAL_TEST_DEVICE ?? 'simt')

/** Runs `body`, up to its first await, with the device as the default one. */
export function on<T>(where: Device, body: () => T): T {
  const before = setDefaultDevice(where)
  try {
    return body()
  } finally {
    setDefaultDevice(before)
  }
}
