// npm run bench: times every kernel family on every instruction set, and whole training steps. See --help.
import { parseArgs } from 'node:util'
import { cpu, setDefaultDevice } from '../src/tensor/index.ts'
import { label } from '../tests/cases/case.ts'
import { smallCases, timedCases } from '../tests/cases/timed/index.ts'
import { dtypesOf } from './calls.ts'
import type { Measurement } from './measurement.ts'
import { measure } from './operations.ts'
import { measurePeaks } from './peaks.ts'
import { TorchOperations } from './peers/operations.ts'
import { line, readRun, RunFile } from './report.ts'
import { steps } from './steps/index.ts'
import { measureStep } from './stepRuns.ts'
import { measureTokenizers } from './tokenizers.ts'

const help = `npm run bench -- [options]
  --filter REGEX   only cases whose "name isa dtype" matches, e.g. --filter '^linear.*avx2 float32'
  --isa NAME       only this instruction set (default: the best; "all" for each)
  --threads N      default: all
  --seconds S      quiet time per measurement (default 0.6, and 3 for steps)
  --limit S        time after which a measurement takes the least disturbed samples (default 10 times --seconds)
  --small          the small cases of the tests instead of large ones, and steps of tiny models: to try the paths, not to time
  --steps          whole training steps and generation instead of operations
  --tokenizers     training and encoding instead of operations
  --all            steps, tokenizers and then operations
  --peers REGEX    only peers whose name matches, e.g. --peers '^torch$'; --peers - for none. They run where ANNEAL_PEERS names a Python environment
  --list           the names only
  --json FILE      write the measurements, after each one
  --append         keep what FILE has and is not measured again, so that a run can be cut into parts by --filter
  --compare FILE   show the speed over that of an earlier --json; 2.00x is twice as fast`

const text = { type: 'string' } as const
const flag = { type: 'boolean', default: false } as const
const { values } = parseArgs({
  options: {
    filter: { ...text, default: '' }, isa: text, threads: text, seconds: text, limit: text, small: flag, steps: flag, tokenizers: flag, all: flag, peers: { ...text, default: '' }, list: flag, json: text, append: flag,
    compare: text, help: flag,
  },
})
if (values.help) {
  console.log(help)
  process.exit(0)
}

if (values.small) process.env.ANNEAL_BENCH_SMALL = '1'
setDefaultDevice('cpu')
const filter = new RegExp(values.filter)
const earlier = values.compare === undefined ? undefined : readRun(values.compare)
if (values.threads) cpu.threads = Number(values.threads)
const [best, threads] = [cpu.isa, cpu.threads]
const isas = values.isa === 'all' ? cpu.isas : [values.isa ?? best]
const withOperations = values.all || !(values.steps || values.tokenizers)
const withSteps = values.all || values.steps

const operations = withOperations
  ? isas.flatMap((isa) => (values.small ? smallCases : timedCases).flatMap((opCase) =>
    dtypesOf(opCase).filter((dtype) => filter.test(`${label(opCase)} ${isa} ${dtype}`)).map((dtype) => ({ opCase, isa, dtype }))))
  : []
const chosenSteps = withSteps ? steps.filter(({ name, dtype }) => filter.test(`${name} ${values.isa ?? best} ${dtype}`)) : []
if (values.list) {
  for (const { opCase, isa, dtype } of operations) console.log(`${label(opCase)} ${isa} ${dtype}`)
  for (const { name } of chosenSteps) console.log(name)
  process.exit(0)
}

const peaks = measurePeaks(threads)
console.log(`peaks on ${threads} threads: ${Object.entries(peaks.gflops).map(([isa, gflops]) => `${isa} ${gflops} GFLOP/s`).join(', ')}, read ${peaks.read} GB/s, copy ${peaks.copy} GB/s`)
const file = new RunFile(values.json, { peaks, versions: { node: process.version }, append: values.append })
const show = (m: Measurement): void => {
  file.add(m)
  console.log(line(m, earlier))
}

const failed = (name: string, reason: string): void => { console.error(`${name}: ${reason}`) }
const labels = new RegExp(values.peers === '-' ? '^$' : values.peers)
if (values.all || values.tokenizers) {
  const seconds = Number(values.seconds ?? 3)
  for await (const m of measureTokenizers({ filter, peers: labels, small: values.small, budget: seconds, limit: Number(values.limit ?? 10 * seconds) })) show(m)
}
const stepSeconds = Number(values.seconds ?? 3)
for (const step of chosenSteps) {
  const options = { peaks, isa: values.isa ?? best, threads, seconds: stepSeconds, limit: Number(values.limit ?? 10 * stepSeconds), peers: labels, failed }
  for await (const m of measureStep(step, options)) show(m)
}
const torch = TorchOperations.installed(labels, threads, 'cpu')
for (const { opCase, isa, dtype } of operations) {
  cpu.isa = isa
  const seconds = Number(values.seconds ?? 0.6)
  // Peers once, beside the instruction set that comes first.
  for await (const m of measure(opCase, dtype, { device: cpu, peaks, seconds, limit: Number(values.limit ?? 10 * seconds), peers: isa === isas[0] ? torch : [], failed })) show(m)
}
for (const peer of torch) peer.stop()
