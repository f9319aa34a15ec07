import { DisposedError } from '../errors.ts'
import type { Device } from './device.ts'

/**
 * Kernel calls recorded once and run again with one call, as torch.cuda.CUDAGraph. A replay reads and writes the memory that the recording did:
 * inputs are changed by overwriting the tensors that it read.
 */
export class Graph {
  readonly device: Device
  #number: number | null

  private constructor(device: Device, number: number) {
    this.device = device
    this.#number = number
  }

  /**
   * Records what `body` enqueues on the device, without running it. `body` must be synchronous, must copy nothing between host and device, and what
   * it returns must be kept as long as the graph.
   * @throws DeviceError where it copies between host and device: on the CPU at once, on a GPU at the next fence.
   */
  static capture<T>(device: Device, body: () => T): { graph: Graph; result: T } {
    device.native.beginCapture(device.number)
    let result: T
    try {
      result = body()
    } catch (error) {
      device.native.releaseGraph(device.native.endCapture(device.number))
      throw error
    }
    return { graph: new Graph(device, device.native.endCapture(device.number)), result }
  }

  /** Enqueues all the recorded calls. @throws DisposedError after dispose(). */
  replay(): void { this.device.native.replay(this.#live) }

  get #live(): number {
    if (this.#number === null) throw new DisposedError('a graph was replayed after it was disposed')
    return this.#number
  }

  dispose(): void {
    if (this.#number !== null) this.device.native.releaseGraph(this.#number)
    this.#number = null
  }

  [Symbol.dispose](): void { this.dispose() }
}
