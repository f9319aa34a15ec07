// Prints measurements as they come, and keeps them.
import { execFileSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { availableParallelism, cpus, totalmem } from 'node:os'
import { keyOf } from './measurement.ts'
import type { Measurement, Run } from './measurement.ts'

export function seconds(x: number): string {
  for (const [unit, size] of [['s', 1], ['ms', 1e-3], ['us', 1e-6]] as const) if (x >= size) return `${(x / size).toPrecision(3)} ${unit}`
  return `${(x / 1e-9).toPrecision(3)} ns`
}

export const gigabytes = (bytes: number): string => `${(bytes / 1e9).toFixed(2)} GB`

/** One line: what, how long, how fast, the share of the peak, memory, lag, and the ratio to the earlier run. */
export function line(m: Measurement, earlier?: Run): string {
  const before = earlier?.measurements.find((one) => keyOf(one) === keyOf(m))
  return [
    (m.peer === undefined ? m.name : `  ${m.peer}`).padEnd(44), m.isa.padEnd(10), m.dtype.padEnd(8), m.pass.padEnd(16), seconds(m.median).padStart(9),
    (m.value === null ? '' : `${m.value.toPrecision(3)} ${m.unit!}`).padStart(13), (m.share === null ? '' : `${Math.round(100 * m.share)} %`).padStart(6),
    m.tokensPerSecond === undefined ? '' : `${m.tokensPerSecond.toPrecision(3)} tokens/s`, m.peakMemory === undefined ? '' : gigabytes(m.peakMemory),
    m.lag === undefined ? '' : `lag ${seconds(m.lag)}`, before ? `${(before.median / m.median).toFixed(2)}x` : '',
    m.others !== null && m.others >= 0.08 ? `(others used ${Math.round(100 * m.others)} %)` : '',
  ].join(' ').trimEnd()
}

export const readRun = (path: string): Run => JSON.parse(readFileSync(path, 'utf8')) as Run

function commit(): string {
  try {
    return execFileSync('git', ['describe', '--always', '--dirty'], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim()
  } catch {
    return 'unknown'
  }
}

/** A run as it is kept in a file: written again with each measurement, so that one which is cut off has what it measured. */
export class RunFile {
  readonly #path: string | undefined
  readonly #about: Omit<Run, 'measurements'>
  readonly #measurements = new Map<string, Measurement>()

  /** With `append` the measurements that the file already has stay, except where they are taken again. */
  constructor(path: string | undefined, { peaks, versions, append }: { peaks: Run['peaks']; versions: Run['versions']; append: boolean }) {
    this.#path = path
    const machine = `${cpus()[0]?.model ?? process.arch}, ${availableParallelism()} processors, ${Math.round(totalmem() / 2 ** 30)} GiB`
    let earlier: Run | undefined
    if (path !== undefined && append) {
      try {
        earlier = readRun(path)
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
      }
    }
    for (const m of earlier?.measurements ?? []) this.#measurements.set(keyOf(m), m)
    this.#about = { date: new Date().toISOString(), commit: commit(), machine, versions: { ...earlier?.versions, ...versions }, peaks }
  }

  add(m: Measurement): void {
    this.#measurements.set(keyOf(m), m)
    if (this.#path !== undefined) writeFileSync(this.#path, `${JSON.stringify({ ...this.#about, measurements: [...this.#measurements.values()] } satisfies Run, null, 1)}\n`)
  }
}
