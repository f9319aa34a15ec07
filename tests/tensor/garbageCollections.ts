// Run by memory.test.ts: counts the garbage collections of whole heaps while large tensors are made and disposed of.
import { PerformanceObserver, constants } from 'node:perf_hooks'
import { setTimeout } from 'node:timers/promises'
import { cpu, Tensor } from '../../src/tensor/index.ts'

let major = 0
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if ((entry as unknown as { detail: { kind: number } }).detail.kind === constants.NODE_PERFORMANCE_GC_MAJOR) major++
}).observe({ entryTypes: ['gc'] })
for (let i = 0; i < 3; i++) Tensor.empty([64 << 20]).dispose()
await setTimeout(200)
major = 0
for (let i = 0; i < 40; i++) {
  Tensor.empty([64 << 20]).dispose()
  await cpu.fence()
  await setTimeout(5)
}
console.log(JSON.stringify({ major }))
