// Proves that advantages and policy losses equal TRL's, gradients included, to 1e-9 in float64, and that AdamW with 8-bit moments follows its formula; on
// each instruction set and with each number of threads.
import { afterAll, describe } from 'vitest'
import { cpu } from '../../src/tensor/index.ts'
import { runOn } from './adapterKernels.ts'
import { describeAdamw8bit, describeAdvantages, describePolicyLoss } from './alignmentKernels.ts'

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
  describeAdvantages(run)
  describePolicyLoss(run)
  describeAdamw8bit(run)
})
