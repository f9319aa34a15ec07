// Proves that quantising gives the bits of bitsandbytes and the nearest codes, and that adapters merge into weights with one rounding; on each
// instruction set and with each number of threads.
import { afterAll, describe } from 'vitest'
import { cpu } from '../../src/tensor/index.ts'
import { describeMerging, describeQuantization, runOn } from './adapterKernels.ts'

const [threads, isa] = [cpu.threads, cpu.isa]
afterAll(() => {
  cpu.threads = threads
  cpu.isa = isa
})

describe.each(cpu.isas.flatMap((name) => [1, 2].map((count) => [name, count] as const)))('%s, %d threads', (name, count) => {
  const run = runOn((body) => {
    cpu.isa = name
    cpu.threads = count
    body()
  })
  describeQuantization(run, () => cpu.fence())
  describeMerging(run)
})
