// Run by memory.test.ts with --expose-gc: makes tensors in many ways, forgets them, and prints the memory before and after.
import { setImmediate } from 'node:timers/promises'
import { add, exp, mul, reshape, sum } from '../../src/ops/index.ts'
import { cpu, scope, Tensor } from '../../src/tensor/index.ts'

const collect = async (): Promise<void> => {
  for (let i = 0; i < 5; i++) {
    globalThis.gc!()
    await setImmediate()
  }
}

function makeAndForget(): void {
  const x = Tensor.ones([1000]).requiresGrad_()
  // A graph, a view, an alias, and a result that a scope handed out.
  sum(exp(mul(x, x)))
  reshape(add(x, 1), [10, 100])
  x.detach()
  scope(() => [add(x, 2), scope(() => exp(x))])
}

await collect()
const before = cpu.memory().live
for (let i = 0; i < 2000; i++) {
  makeAndForget()
  if (i % 200 === 0) await collect()
}
// Large ones: the collector must hear of native memory by itself.
for (let i = 0; i < 400; i++) {
  Tensor.empty([4 << 20])
  await setImmediate()
}
await collect()
await cpu.fence()
const { live, system } = cpu.memory()
console.log(JSON.stringify({ before, after: live, system }))
