// Timing on a machine that others use too: samples are taken in short blocks, and only the blocks in which other processes were quiet count.
import { readFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { Bench } from 'tinybench'

export interface Timing {
  /** Seconds. */
  readonly median: number
  readonly best: number
  readonly samples: number
  /** The share of the machine that others used meanwhile; null where the system does not tell. */
  readonly others: number | null
}

export interface TimingOptions {
  /** Seconds of quiet measurement wanted. */
  budget?: number
  /** Seconds after which the least disturbed blocks are taken. */
  limit?: number
  least?: number
}

/** What is timed. Returns the seconds that count, where they are not all that it takes. */
export type Body = () => Promise<unknown>

const quiet = 0.08
const blockSeconds = 0.2
const ticksPerSecond = 100

/** Seconds that all processors were busy since the start of the machine. */
function busySeconds(): number | null {
  try {
    const fields = readFileSync('/proc/stat', 'utf8').split('\n')[0]!.trim().split(/\s+/).slice(1).map(Number)
    const [user, nice, system, , , interrupt, softInterrupt, stolen] = fields as [number, number, number, number, number, number, number, number]
    return (user + nice + system + interrupt + softInterrupt + stolen) / ticksPerSecond
  } catch {
    return null
  }
}

const ownSeconds = (): number => {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1e6
}

interface Block { readonly others: number | null; readonly samples: readonly number[] }

/** Samples of one block, in seconds. */
async function block(body: Body): Promise<Block> {
  const [busy, own, begin] = [busySeconds(), ownSeconds(), performance.now()]
  const bench = new Bench({ time: 1000 * blockSeconds, iterations: 1, warmup: false, retainSamples: true, throws: true })
  // An async function: of any other, tinybench finds out by a call that it does not wait for, which would run beside the first sample.
  bench.add('body', async () => {
    const counted = await body()
    return typeof counted === 'number' ? { overriddenDuration: 1000 * counted } : undefined
  })
  await bench.run()
  const [after, wall] = [busySeconds(), (performance.now() - begin) / 1000]
  const { result } = bench.tasks[0]!
  if (result.state !== 'completed') throw new Error(`the benchmark ${result.state}`)
  const others = busy === null || after === null ? null : Math.max(0, (after - busy - (ownSeconds() - own)) / (wall * availableParallelism()))
  return { others, samples: result.latency.samples!.map((milliseconds) => milliseconds / 1000) }
}

export const median = (numbers: readonly number[]): number => {
  const sorted = [...numbers].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}

/** The median over quiet blocks of the time that counts of `body`. */
export async function time(body: Body, { budget = 0.6, limit = 10 * budget, least = 5 }: TimingOptions = {}): Promise<Timing> {
  await body()
  const blocks: Block[] = []
  const begin = performance.now()
  const isQuiet = ({ others }: Block): boolean => others === null || others < quiet
  for (;;) {
    blocks.push(await block(body))
    const good = blocks.filter(isQuiet)
    if (good.length * blockSeconds >= budget && good.flatMap(({ samples }) => samples).length >= least) break
    if (performance.now() - begin > 1000 * limit) break
  }
  let chosen = blocks.filter(isQuiet)
  if (chosen.length === 0) chosen = blocks.sort((a, b) => (a.others ?? 0) - (b.others ?? 0)).slice(0, Math.max(1, blocks.length >> 2))
  const samples = chosen.flatMap((one) => one.samples)
  const others = chosen.some((one) => one.others === null) ? null : chosen.reduce((total, one) => total + one.others!, 0) / chosen.length
  return { median: median(samples), best: Math.min(...samples), samples: samples.length, others }
}
