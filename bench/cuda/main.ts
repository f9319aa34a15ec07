// npm run cuda:check: what to run first on a machine with a GPU. Builds the backend, proves every kernel and whole models against the CPU, then times
// every kernel and whole steps against what the GPU can do. Prints one table; writes nothing unless --json says so.
import { spawnSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { cudaDevices, device as deviceOf } from '../../src/tensor/index.ts'
import { kernelCases, llama8b, Maker, tiny } from './kernels.ts'
import { floorOf, floorTable, rooflineOf, timeCall } from './roofline.ts'
import { runSteps } from './steps.ts'

const help = `npm run cuda:check -- [options]
  --device NAME    cuda (default), cuda:1, …, or simt: the emulator, at tiny sizes, to check this script itself
  --tiny           sizes that say nothing about speed, as for the emulator: for compute-sanitizer
  --no-build       use the backend that is built
  --no-tests       only time
  --no-steps       no whole training steps and generation
  --filter REGEX   only kernels and steps whose name matches
  --json FILE      write the figures
  --floors         no device: only print what every kernel must move and compute at an 8B model's sizes, and the least time that takes`

const { values } = parseArgs({
  allowNegative: true,
  options: {
    device: { type: 'string', default: 'cuda' }, build: { type: 'boolean', default: true }, tests: { type: 'boolean', default: true }, steps: { type: 'boolean', default: true },
    tiny: { type: 'boolean', default: false }, filter: { type: 'string', default: '' }, json: { type: 'string' }, floors: { type: 'boolean', default: false }, help: { type: 'boolean', default: false },
  },
})
if (values.help) {
  console.log(help)
  process.exit(0)
}
if (values.floors) {
  console.log(floorTable(kernelCases(llama8b)).join('\n'))
  process.exit(0)
}
const root = fileURLToPath(new URL('../..', import.meta.url))
const emulated = values.device.startsWith('simt')
const small = emulated || values.tiny

function run(what: string, command: string, args: readonly string[], env: Record<string, string> = {}): void {
  console.log(`\n— ${what}`)
  const { status } = spawnSync(command, args, { cwd: root, stdio: 'inherit', env: { ...process.env, ...env } })
  if (status === 0) return
  console.error(`${what}: failed; nothing was timed`)
  process.exit(1)
}

if (values.build) run('the backend is built', 'npm', ['run', emulated ? 'build:simt' : 'build:cuda'])
if (values.tests) {
  const require = createRequire(import.meta.url)
  run('every kernel and whole models against the CPU', process.execPath, [require.resolve('vitest/vitest.mjs'), 'run', 'tests/cuda'], { ANNEAL_TEST_DEVICE: values.device })
}

const device = deviceOf(values.device)
const index = Number(values.device.split(':')[1] ?? 0)
const name = emulated ? 'emulator' : cudaDevices()[index]!.name
const roofline = await rooflineOf(device, name, small)
console.log(`\n${name}: ${(roofline.bandwidth / 1e12).toFixed(2)} TB/s, ${(roofline.tensor / 1e12).toFixed(0)} TFLOP/s in bf16 (${roofline.source})\n`)

const filter = new RegExp(values.filter)
const figures: Record<string, unknown>[] = []
console.log(`${'kernel'.padEnd(30)}${'µs'.padStart(10)}${'floor µs'.padStart(10)}${'of floor'.padStart(10)}${'GB/s'.padStart(9)}${'TFLOP/s'.padStart(9)}`)
for (const kernel of kernelCases(small ? tiny : llama8b)) {
  if (!filter.test(kernel.name)) continue
  const make = new Maker(device)
  try {
    const seconds = await timeCall(device, kernel.setup(make), small ? { budget: 0, calls: 1 } : {})
    const floor = floorOf(kernel, roofline)
    figures.push({ kernel: kernel.name, seconds, floor, bytes: kernel.bytes, flops: kernel.flops ?? 0 })
    console.log(`${kernel.name.padEnd(30)}${(seconds * 1e6).toFixed(1).padStart(10)}${(floor * 1e6).toFixed(1).padStart(10)}${`${(100 * floor / seconds).toFixed(0)} %`.padStart(10)}`
      + `${(kernel.bytes / seconds / 1e9).toFixed(0).padStart(9)}${kernel.flops ? (kernel.flops / seconds / 1e12).toFixed(1).padStart(9) : ''}`)
  } catch (error) {
    console.log(`${kernel.name.padEnd(30)} failed: ${(error as Error).message}`)
    process.exitCode = 1
  } finally {
    make.dispose()
  }
}
device.emptyCache()

if (values.steps) {
  console.log(`\n${'step'.padEnd(54)}${'ms'.padStart(10)}${'tokens/s'.padStart(12)}${'TFLOP/s'.padStart(9)}${'of peak'.padStart(9)}${'peak GB'.padStart(9)}`)
  for await (const step of runSteps(device, small, filter)) {
    figures.push({ ...step })
    console.log(`${step.name.padEnd(54)}${(step.seconds * 1e3).toFixed(2).padStart(10)}${step.tokensPerSecond.toFixed(0).padStart(12)}${(step.flops / step.seconds / 1e12).toFixed(1).padStart(9)}`
      + `${`${(100 * step.flops / step.seconds / roofline.tensor).toFixed(0)} %`.padStart(9)}${(step.peakBytes / 1e9).toFixed(2).padStart(9)}`)
    device.emptyCache()
  }
}
if (values.json) writeFileSync(values.json, `${JSON.stringify({ name, roofline, figures }, undefined, 2)}\n`)
