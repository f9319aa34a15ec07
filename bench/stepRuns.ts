// Whole steps, each in a process of its own, and then the same step in its peers.
import { fileURLToPath } from 'node:url'
import type { Measurement } from './measurement.ts'
import { productPeak } from './peaks.ts'
import type { Peaks } from './peaks.ts'
import type { PeerCall } from './peers/peer.ts'
import type { Timing } from './quiet.ts'
import { runJSON } from './run.ts'
import type { Step } from './steps/step.ts'

export interface StepOptions {
  readonly peaks: Peaks | null
  readonly isa: string
  readonly threads: number
  /** Seconds of quiet measurement. */
  readonly seconds: number
  /** Seconds after which the least disturbed samples are taken. */
  readonly limit: number
  /** Which peers to run, by their label. */
  readonly peers: RegExp
  /** Told what failed, and why. */
  readonly failed: (name: string, reason: string) => void
}

/** Seconds that a process may take to start, to make its model and to end. */
const preparation = 120

interface Own extends Timing { flops?: number; tokens?: number; lag: number; peakTensors: number; peakMemory: number; isa: string; threads: number }
interface Other { median: number; best: number; samples: number; others?: number | null; peakMemory?: number; tokensPerSecond?: number }

const child = fileURLToPath(new URL('steps/child.ts', import.meta.url))

/** The measurement of a step and those of its peers, as they come. */
export async function* measureStep(step: Step, options: StepOptions): AsyncGenerator<Measurement> {
  const { peaks, isa, threads, seconds, limit } = options
  const args = ['--import', 'tsx', child, step.name, '--threads', String(threads), '--isa', isa, '--seconds', String(seconds), '--limit', String(limit)]
  const own = await runJSON<Own>({ command: process.execPath, args }, limit + preparation)
  const common = { name: step.name, threads, dtype: step.dtype, pass: 'step' } as const
  let work: { flops?: number; tokens?: number } = {}
  if (own.value) {
    const { flops, tokens, ...timing } = own.value
    work = { ...(flops === undefined ? {} : { flops }), ...(tokens === undefined ? {} : { tokens }) }
    const value = flops === undefined ? null : flops / timing.median / 1e9
    const peak = peaks ? productPeak(peaks, isa, step.dtype) : undefined
    yield {
      ...common, ...timing, unit: value === null ? null : 'GFLOP/s', value, share: value !== null && peak ? value / peak : null,
      ...(tokens === undefined ? {} : { tokensPerSecond: tokens / timing.median }),
    }
  } else options.failed(step.name, own.failure!)
  for (const peer of step.peers) {
    if (!options.peers.test(peer.label)) continue
    const call: PeerCall = { threads, seconds, limit }
    const command = peer.command(call)
    if (!command) continue
    const { value, failure } = await runJSON<Other>(command, limit + preparation + (peer.preparation ?? 0))
    if (!value) {
      options.failed(`${step.name} (${peer.label})`, failure!)
      continue
    }
    const rate = work.flops === undefined ? null : work.flops / value.median / 1e9
    const tokensPerSecond = value.tokensPerSecond ?? (work.tokens === undefined ? undefined : work.tokens / value.median)
    yield {
      ...common, ...value, peer: peer.label, isa: 'peer', others: value.others ?? null, unit: rate === null ? null : 'GFLOP/s', value: rate, share: null,
      ...(tokensPerSecond === undefined ? {} : { tokensPerSecond }),
    }
  }
}
