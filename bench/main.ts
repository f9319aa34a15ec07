// npm run bench: times every kernel family on every instruction set, and whole training steps. See --help.
import { readFileSync, writeFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { cpu } from '../src/tensor/index.ts'
import { label } from '../tests/cases/case.ts'
import { fusedCases } from '../tests/cases/index.ts'
import { kernelCases } from '../tests/cases/kernels.ts'
import { measure } from './operations.ts'
import type { Measurement } from './operations.ts'
import { measurePeaks } from './peaks.ts'
import { runPeers } from './peers.ts'
import { line } from './report.ts'
import type { Run } from './report.ts'
import { steps } from './steps.ts'

const help = `npm run bench -- [options]
  --filter REGEX   only cases whose "name isa dtype" matches, e.g. --filter '^linear.*avx2 float32'
  --isa NAME       only this instruction set (default: the best; "all" for each)
  --threads N      default: all
  --seconds S      quiet time per measurement (default 0.6)
  --small          the small cases of the tests, too
  --steps          whole training steps and generation instead of operations; with ANNEAL_PEERS=<venv> PyTorch beside them
  --json FILE      write the measurements
  --compare FILE   show the speed over that of an earlier --json; 2.00x is twice as fast`

const { values } = parseArgs({
  options: {
    filter: { type: 'string', default: '' }, isa: { type: 'string' }, threads: { type: 'string' }, seconds: { type: 'string', default: '0.6' }, small: { type: 'boolean', default: false },
    steps: { type: 'boolean', default: false }, json: { type: 'string' }, compare: { type: 'string' }, help: { type: 'boolean', default: false },
  },
})
if (values.help) {
  console.log(help)
  process.exit(0)
}

const filter = new RegExp(values.filter)
const earlier = values.compare ? JSON.parse(readFileSync(values.compare, 'utf8')) as Run : undefined
const budget = Number(values.seconds)
if (values.threads) cpu.threads = Number(values.threads)
const measurements: Measurement[] = []
const show = (m: Measurement): void => {
  measurements.push(m)
  console.log(line(m, earlier))
}

const peaks = measurePeaks(cpu.threads)
console.log(`peaks on ${cpu.threads} threads: ${Object.entries(peaks.gflops).map(([isa, gflops]) => `${isa} ${gflops} GFLOP/s`).join(', ')}, read ${peaks.read} GB/s, copy ${peaks.copy} GB/s`)

if (values.steps) {
  for (const step of steps) {
    if (!filter.test(step.name)) continue
    show(await step.measure(peaks))
    for (const peer of runPeers(step.name)) show(peer)
  }
} else {
  const best = cpu.isa
  for (const isa of values.isa === 'all' ? cpu.isas : [values.isa ?? best]) {
    cpu.isa = isa
    for (const opCase of [...fusedCases, ...kernelCases]) {
      if (!opCase.benchOnly && !values.small) continue
      for (const dtype of ['float32', 'bfloat16'] as const) {
        if (!filter.test(`${label(opCase)} ${isa} ${dtype}`)) continue
        for await (const m of measure(opCase, dtype, peaks, budget)) show(m)
      }
    }
  }
}
if (values.json) writeFileSync(values.json, `${JSON.stringify({ date: new Date().toISOString(), peaks, measurements } satisfies Run & { date: string }, null, 1)}\n`)
