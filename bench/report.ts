// Prints measurements as they come, and compares them with those of an earlier run.
import type { Measurement } from './operations.ts'

export interface Run { readonly peaks?: unknown; readonly measurements: readonly Measurement[] }

export function seconds(x: number): string {
  for (const [unit, size] of [['s', 1], ['ms', 1e-3], ['us', 1e-6]] as const) if (x >= size) return `${(x / size).toPrecision(3)} ${unit}`
  return `${(x / 1e-9).toPrecision(3)} ns`
}

const keyOf = (m: Measurement): string => [m.name, m.isa, m.threads, m.dtype, m.pass].join('|')

/** One line: what, how long, how fast, the share of the peak, and the ratio to the earlier run. */
export function line(m: Measurement, earlier?: Run): string {
  const before = earlier?.measurements.find((one) => keyOf(one) === keyOf(m))
  return [
    m.name.padEnd(44), m.isa.padEnd(10), m.dtype.padEnd(8), m.pass.padEnd(16), seconds(m.median).padStart(9),
    (m.value === null ? '' : `${m.value.toPrecision(3)} ${m.unit!}`).padStart(13), (m.share === null ? '' : `${Math.round(100 * m.share)} %`).padStart(6),
    before ? `${(before.median / m.median).toFixed(2)}x` : '', m.others !== null && m.others >= 0.08 ? `(others used ${Math.round(100 * m.others)} %)` : '',
  ].join(' ').trimEnd()
}
