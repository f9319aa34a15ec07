// Times operation cases: forward, and forward with backward, in calls long enough that waiting for them costs nothing.
import type { Device } from '../src/tensor/index.ts'
import { label } from '../tests/cases/case.ts'
import type { OpCase, Work } from '../tests/cases/case.ts'
import { callsOf } from './calls.ts'
import type { BenchDType } from './calls.ts'
import { watchLag } from './lag.ts'
import type { Measurement } from './measurement.ts'
import { productPeak } from './peaks.ts'
import type { Peaks } from './peaks.ts'
import type { TorchOperations } from './peers/operations.ts'
import { time } from './quiet.ts'
import type { Timing } from './quiet.ts'

export interface OperationOptions {
  readonly device: Device
  readonly peaks: Peaks
  /** Seconds of quiet measurement. */
  readonly seconds: number
  /** Seconds after which the least disturbed samples are taken. */
  readonly limit: number
  readonly peers: readonly TorchOperations[]
  /** Told what failed, and why. */
  readonly failed: (name: string, reason: string) => void
}

/** A call is repeated until it takes about this long. */
const leastSeconds = 10e-3

async function calibrate(call: () => void, device: Device): Promise<number> {
  for (let repeats = 1; ; repeats *= 2) {
    const begin = performance.now()
    for (let i = 0; i < repeats; i++) call()
    await device.fence()
    if (performance.now() - begin > 1000 * leastSeconds || repeats >= 1024) return repeats
  }
}

async function timeCalls(call: () => void, { device, seconds, limit }: OperationOptions): Promise<Timing & { lag: number }> {
  call()
  await device.fence()
  const repeats = await calibrate(call, device)
  const lag = watchLag()
  const timing = await time(async () => {
    for (let i = 0; i < repeats; i++) call()
    await device.fence()
  }, { budget: seconds, limit })
  return { ...timing, median: timing.median / repeats, best: timing.best / repeats, lag: lag() }
}

const bytesPerNumber = { float32: 4, bfloat16: 2 }

function rate({ flops, bytes }: Work, dtype: BenchDType, seconds: number): Pick<Measurement, 'unit' | 'value'> {
  if (flops) return { unit: 'GFLOP/s', value: flops / seconds / 1e9 }
  if (bytes) return { unit: 'GB/s', value: bytes(bytesPerNumber[dtype]) / seconds / 1e9 }
  return { unit: null, value: null }
}

const together = (a: Work, b: Work): Work => ({
  ...(a.flops !== undefined || b.flops !== undefined ? { flops: (a.flops ?? 0) + (b.flops ?? 0) } : {}),
  ...(a.bytes || b.bytes ? { bytes: (size) => (a.bytes?.(size) ?? 0) + (b.bytes?.(size) ?? 0) } : {}),
})

/** Times one case on the instruction set in use, and then the same formula in each peer that has it. */
export async function* measure(opCase: OpCase, dtype: BenchDType, options: OperationOptions): AsyncGenerator<Measurement> {
  const { device, peaks, peers, seconds, limit } = options
  const name = label(opCase)
  const isa = device.number === 0 ? device.isa : device.name
  const passes: [Measurement['pass'], Work][] = []
  const calls = callsOf(opCase, dtype, device)
  try {
    for (const [pass, call, work] of [['forward', calls.forward, opCase.forward], ['forward+backward', calls.both, together(opCase.forward, opCase.backward ?? {})]] as const) {
      if (!call) continue
      const timing = await timeCalls(call, options)
      const { unit, value } = rate(work, dtype, timing.median)
      const peak = unit === 'GFLOP/s' ? productPeak(peaks, isa, dtype) : peaks.copy
      yield { name, isa, threads: device.threads, dtype, pass, ...timing, unit, value, share: value !== null && peak ? value / peak : null }
      passes.push([pass, work])
    }
  } catch (error) {
    options.failed(`${name} ${isa} ${dtype}`, (error as Error).message)
  } finally {
    calls.dispose()
    // The peers get the memory that the case took.
    await device.fence().catch(() => undefined)
    device.emptyCache()
  }
  const { peer: formula, inputs } = opCase
  if (!formula) return
  for (const peer of peers) {
    for (const [pass, work] of passes) {
      const answer = await peer.ask({ formula, inputs, dtype, backward: pass === 'forward+backward', seconds, limit })
      if (answer.failure !== undefined) {
        options.failed(`${name} (${peer.label})`, answer.failure)
        break
      }
      yield { name, peer: peer.label, isa: 'peer', threads: device.threads, dtype, pass, ...answer.timing, ...rate(work, dtype, answer.timing.median), share: null }
    }
  }
}
