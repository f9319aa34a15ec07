// What a step of distillation costs beside the teacher's forward pass and the student's step on hard labels, which it should exceed by a quarter at most:
// npx tsx bench/distillRatio.ts [--pairs 5] [--small]. The two take turns, on one thread, and processor time is compared, so that what else runs on the
// machine matters little.
import { parseArgs } from 'node:util'
import { AutoModelForCausalLM, createConfig } from '../src/models/index.ts'
import { cpu } from '../src/tensor/index.ts'
import { median } from './quiet.ts'
import { distillationPair } from './steps/distill.ts'
import { shapes } from './steps/shapes.ts'

const { values } = parseArgs({ options: { pairs: { type: 'string', default: '5' }, small: { type: 'boolean', default: false } } })
cpu.threads = 1
const config = values.small ? createConfig({ ...shapes.gpt2().raw, n_layer: 4, n_embd: 256, n_head: 4, vocab_size: 16384 }) : shapes.gpt2()
const { distil, apart } = distillationPair('float32', AutoModelForCausalLM.fromConfig(config), values.small ? [2, 128] : [4, 256])

async function seconds(body: () => Promise<void>): Promise<number> {
  const before = process.cpuUsage()
  await body()
  const { user, system } = process.cpuUsage(before)
  return (user + system) / 1e6
}

await distil()
await apart()
const ratios: number[] = []
for (let i = 0; i < Number(values.pairs); i++) {
  const [one, other] = [await seconds(distil), await seconds(apart)]
  ratios.push(one / other)
  console.log(`distillation ${one.toFixed(2)} s, teacher forward and student step ${other.toFixed(2)} s: ${(one / other).toFixed(3)}`)
}
console.log(`median ${median(ratios).toFixed(3)}`)
