// What one measurement says, and how it is written.
import type { Peaks } from './peaks.ts'
import type { Timing } from './quiet.ts'

export interface Measurement extends Timing {
  readonly name: string
  /** The library that ran it instead of anneal, such as "torch" or "torch, tuned malloc". */
  readonly peer?: string
  readonly isa: string
  readonly threads: number
  readonly dtype: string
  readonly pass: 'forward' | 'forward+backward' | 'step'
  readonly unit: 'GFLOP/s' | 'GB/s' | 'MB/s' | null
  readonly value: number | null
  /** The share of the machine's peak, of multiply-adds or of copying. */
  readonly share: number | null
  /** Tokens, rows or samples a second. */
  readonly tokensPerSecond?: number
  /** The 99th percentile of the delay of the event loop meanwhile, seconds. */
  readonly lag?: number
  /** The most memory that the process had resident, bytes. */
  readonly peakMemory?: number
  /** The most memory that tensors took while the steps ran, bytes. */
  readonly peakTensors?: number
}

/** A run as --json keeps it. */
export interface Run {
  readonly date: string
  readonly commit: string
  readonly machine: string
  readonly versions: Readonly<Record<string, string>>
  readonly peaks: Peaks
  readonly measurements: readonly Measurement[]
}

export const keyOf = (m: Measurement): string => [m.name, m.peer ?? '', m.isa, m.threads, m.dtype, m.pass].join('|')
