// Times operation cases: forward, and forward with backward, in calls long enough that waiting for them costs nothing.
import { backwardAll, cpu, noGrad, scope, Tensor } from '../src/tensor/index.ts'
import { label, makeInputs } from '../tests/cases/case.ts'
import type { OpCase, Work } from '../tests/cases/case.ts'
import type { Measurement } from './measurement.ts'
import { productPeak } from './peaks.ts'
import type { Peaks } from './peaks.ts'
import { time } from './quiet.ts'
import type { Timing } from './quiet.ts'


/** A call is repeated until it takes about this long. */
const leastSeconds = 2e-3

async function calibrate(call: () => void): Promise<number> {
  for (let repeats = 1; ; repeats *= 2) {
    const begin = performance.now()
    for (let i = 0; i < repeats; i++) call()
    await cpu.fence()
    if (performance.now() - begin > 1000 * leastSeconds || repeats >= 1024) return repeats
  }
}

async function timeCalls(call: () => void, budget: number): Promise<Timing> {
  call()
  await cpu.fence()
  const repeats = await calibrate(call)
  const timing = await time(async () => {
    for (let i = 0; i < repeats; i++) call()
    await cpu.fence()
  }, { budget })
  return { ...timing, median: timing.median / repeats, best: timing.best / repeats }
}

const bytesPerNumber = { float32: 4, bfloat16: 2 }

function rate({ flops, bytes }: Work, dtype: 'float32' | 'bfloat16', seconds: number): { unit: Measurement['unit']; value: number | null } {
  if (flops) return { unit: 'GFLOP/s', value: flops / seconds / 1e9 }
  if (bytes) return { unit: 'GB/s', value: bytes(bytesPerNumber[dtype]) / seconds / 1e9 }
  return { unit: null, value: null }
}

const together = (a: Work, b: Work): Work => ({
  ...(a.flops !== undefined || b.flops !== undefined ? { flops: (a.flops ?? 0) + (b.flops ?? 0) } : {}),
  ...(a.bytes || b.bytes ? { bytes: (size) => (a.bytes?.(size) ?? 0) + (b.bytes?.(size) ?? 0) } : {}),
})

/** Times one case on the instruction set in use. */
export async function* measure(opCase: OpCase, dtype: 'float32' | 'bfloat16', peaks: Peaks, budget: number): AsyncGenerator<Measurement> {
  const inputs = makeInputs(opCase, dtype)
  const result = (pass: Measurement['pass'], work: Work, timing: Timing): Measurement => {
    const { unit, value } = rate(work, dtype, timing.median)
    const peak = unit === 'GFLOP/s' ? productPeak(peaks, cpu.isa, dtype) : peaks.copy
    return { name: label(opCase), isa: cpu.isa, threads: cpu.threads, dtype, pass, ...timing, unit, value, share: value !== null && peak ? value / peak : null }
  }
  yield result('forward', opCase.forward, await timeCalls(() => { scope(() => { noGrad(() => opCase.run(...inputs)) }) }, budget))
  if (inputs.some((input) => input.requiresGrad)) {
    const gradients = scope(() => {
      const made = opCase.run(...inputs)
      return (made instanceof Tensor ? [made] : made).map((output) => output.node ? Tensor.ones(output.shape, { dtype: output.dtype }) : null)
    })
    const both = together(opCase.forward, opCase.backward ?? {})
    yield result('forward+backward', both, await timeCalls(() => {
      scope(() => {
        const made = opCase.run(...inputs)
        const outputs = made instanceof Tensor ? [made] : made
        const roots = outputs.filter((output) => output.node)
        backwardAll(roots, gradients.filter((gradient) => gradient !== null))
      })
    }, budget))
    for (const gradient of gradients) gradient?.dispose()
  }
  for (const input of inputs) input.dispose()
}
