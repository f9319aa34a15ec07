// Runs one step in this process and prints its timing as a line of JSON. Usage: child.ts NAME --threads N --isa NAME --seconds S --limit L
import { parseArgs } from 'node:util'
import { cpu, setDefaultDevice } from '../../src/tensor/index.ts'
import { watchLag } from '../lag.ts'
import { time } from '../quiet.ts'
import { steps } from './index.ts'

const text = { type: 'string' } as const
const { values, positionals } = parseArgs({ allowPositionals: true, options: { threads: text, isa: text, seconds: text, limit: text } })
const step = steps.find(({ name }) => name === positionals[0])
if (!step) throw new Error(`no step is called "${positionals[0] ?? ''}"`)
setDefaultDevice('cpu')
if (values.threads) cpu.threads = Number(values.threads)
if (values.isa) cpu.isa = values.isa

const { run, flops, tokens } = await step.prepare()
await run()
cpu.resetPeakMemory()
const lag = watchLag()
const [budget, limit] = [Number(values.seconds ?? 3), Number(values.limit ?? 30)]
const timing = await time(run, { budget, limit, least: 3 })
const outcome = {
  ...timing, lag: lag(), peakTensors: cpu.memory().peak, peakMemory: process.resourceUsage().maxRSS * 1024, isa: cpu.isa, threads: cpu.threads,
  ...(flops === undefined ? {} : { flops }), ...(tokens === undefined ? {} : { tokens }),
}
console.log(JSON.stringify(outcome))
// Models are not disposed of: the end of the process does it.
process.exit(0)
