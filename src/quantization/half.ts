/** A number at or above 0 rounded to the nearest float16, ties to even; at most its largest, 65504. */
export function toHalf(value: number): number {
  if (value === 0) return 0
  // Eleven bits from the leading one on, but none below 2^-24.
  const unit = 2 ** (Math.max(-14, Math.floor(Math.log2(value))) - 10)
  const steps = value / unit
  const down = Math.floor(steps)
  const up = steps - down > 0.5 || (steps - down === 0.5 && down % 2 === 1)
  return Math.min(65504, (up ? down + 1 : down) * unit)
}
