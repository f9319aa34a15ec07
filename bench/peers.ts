// Runs the same steps in PyTorch, in a virtual environment that ANNEAL_PEERS names; nothing without it.
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { cpu } from '../src/tensor/index.ts'
import type { Measurement } from './operations.ts'

const script = fileURLToPath(new URL('peers/steps.py', import.meta.url))

/** What each kind of PyTorch takes for a step: eager, eager with a malloc that keeps memory, compiled with that malloc. */
const variants = [
  { suffix: 'torch', args: [], tuned: false }, { suffix: 'torch, tuned malloc', args: [], tuned: true }, { suffix: 'torch.compile, tuned malloc', args: ['--compile'], tuned: true },
]
// By default glibc returns large blocks to the system at once, and the next step faults every page in again.
const keepMemory = { MALLOC_MMAP_THRESHOLD_: '8589934592', MALLOC_TRIM_THRESHOLD_: '17179869184', MALLOC_TOP_PAD_: '268435456' }

/** The measurements of a step in PyTorch. */
export function runPeers(name: string): Measurement[] {
  const environment = process.env.ANNEAL_PEERS
  if (!environment) return []
  return variants.flatMap(({ suffix, args, tuned }) => {
    const { status, stdout, stderr } = spawnSync(join(environment, 'bin', 'python'), [script, name, '--threads', String(cpu.threads), ...args], {
      encoding: 'utf8', env: { ...process.env, ...(tuned ? keepMemory : {}) },
    })
    if (status !== 0) {
      console.error(`${name} (${suffix}): ${stderr.trim().split('\n').at(-1) ?? ''}`)
      return []
    }
    const { median, best, samples } = JSON.parse(stdout.trim().split('\n').at(-1)!) as { median: number; best: number; samples: number }
    const dtype = name.split('-').at(-1)!
    return [{ name: `${name} (${suffix})`, isa: 'peer', threads: cpu.threads, dtype, pass: 'forward', median, best, samples, others: null, unit: null, value: null, share: null }]
  })
}
