// What a GPU can do at most, from its data sheet; where it is not listed, from a copy and a product timed on the spot.
import { activations } from '../../src/ops/operations.ts'
import { Graph, Tensor } from '../../src/tensor/index.ts'
import type { KernelCase } from './kernels.ts'
import type { Device } from '../../src/tensor/index.ts'

/** Bytes per second of device memory; operations per second: dense bf16 on tensor cores, and float32 outside them. */
export interface Roofline { readonly source: string; readonly bandwidth: number; readonly tensor: number; readonly single: number }

const sheets: [RegExp, number, number, number][] = [
  [/H200/, 4.8e12, 989e12, 67e12], [/H100.*(HBM3|SXM)/, 3.35e12, 989e12, 67e12], [/H100.*PCIe/, 2.0e12, 756e12, 51e12], [/A100.*80GB/, 2.04e12, 312e12, 19.5e12], [/A100/, 1.56e12, 312e12, 19.5e12],
  [/L40S/, 0.864e12, 362e12, 91.6e12], [/A10\b/, 0.6e12, 125e12, 31.2e12], [/RTX 4090/, 1.01e12, 165e12, 82.6e12], [/RTX 3090/, 0.936e12, 71e12, 35.6e12], [/B200/, 8e12, 2250e12, 80e12],
]

const sheetOf = (name: string): Roofline | undefined => {
  const sheet = sheets.find(([pattern]) => pattern.test(name))
  return sheet && { source: 'data sheet', bandwidth: sheet[1], tensor: sheet[2], single: sheet[3] }
}

/** The seconds that a kernel takes at least: to move its bytes, or to do its operations. */
export const floorOf = ({ bytes, flops = 0, tensorCores = false }: KernelCase, { bandwidth, tensor, single }: Roofline): number =>
  Math.max(bytes / bandwidth, flops / (tensorCores ? tensor : single))

/** The lines of a table of kernels: bytes, operations, and the floors on an A100 and an H100 with 80 GB. */
export function floorTable(kernels: readonly KernelCase[]): string[] {
  const machines = [sheetOf('A100-SXM4-80GB')!, sheetOf('H100 80GB HBM3')!]
  const short = (x: number): string => Number(x.toPrecision(3)).toString()
  return ['| kernel | MB | GFLOP | A100 µs | H100 µs |', '|---|---|---|---|---|', ...kernels.map((kernel) =>
    `| ${kernel.name} | ${short(kernel.bytes / 1e6)} | ${kernel.flops ? short(kernel.flops / 1e9) : ''} | ${machines.map((machine) => short(1e6 * floorOf(kernel, machine))).join(' | ')} |`)]
}

/** Seconds that one call takes on the device, the launches' cost to the processor left out: the calls run as a graph. */
export async function timeCall(device: Device, call: () => void, { budget = 0.2, calls = 10 } = {}): Promise<number> {
  call()
  await device.fence()
  const { graph } = Graph.capture(device, () => { for (let i = 0; i < calls; i++) call() })
  const run = async (): Promise<number> => {
    const begin = performance.now()
    graph.replay()
    await device.fence()
    return (performance.now() - begin) / 1000 / calls
  }
  await run()
  let best = Infinity
  const end = performance.now() + budget * 1000
  for (let i = 0; i < 3 || performance.now() < end; i++) best = Math.min(best, await run())
  graph.dispose()
  return best
}

export async function rooflineOf(device: Device, name: string, quick: boolean): Promise<Roofline> {
  const sheet = sheetOf(name)
  if (sheet) return sheet
  const [count, size] = quick ? [1000, 64] : [256e6, 4096]
  const [a, b] = [0, 1].map((value) => Tensor.full([count], value, { device })) as [Tensor, Tensor]
  const copy = await timeCall(device, () => { device.kernels.convert(a.handle, b.handle) })
  const [x, y] = [0, 1].map((value) => Tensor.full([size, size], value, { device, dtype: 'bfloat16' })) as [Tensor, Tensor]
  const [u, v] = [0, 1].map((value) => Tensor.full([size, size], value, { device })) as [Tensor, Tensor]
  const product = (to: Tensor, of: Tensor, half: boolean): Promise<number> =>
    timeCall(device, () => { device.kernels.gemm(to.handle, 0, of.handle, of.handle, 0, false, true, false, activations.none, half) })
  const [tensor, single] = [await product(y, x, true), await product(v, u, false)]
  for (const made of [a, b, x, y, u, v]) made.dispose()
  return { source: 'measured', bandwidth: 8 * count / copy, tensor: 2 * size ** 3 / tensor, single: 2 * size ** 3 / single }
}
