/** `2h05m`, `3m07s`, `42s`, `0.4s`. */
export function formatDuration(seconds: number): string {
  if (!Number.isFinite(seconds) || seconds < 0) return '?'
  if (seconds < 9.95) return `${seconds.toFixed(1)}s`
  const whole = Math.round(seconds)
  if (whole < 60) return `${whole}s`
  const two = (n: number) => String(n).padStart(2, '0')
  const minutes = Math.floor(whole / 60)
  if (minutes < 60) return `${minutes}m${two(whole % 60)}s`
  const hours = Math.floor(minutes / 60)
  return hours < 48 ? `${hours}h${two(minutes % 60)}m` : `${Math.floor(hours / 24)}d${two(hours % 24)}h`
}

/** `950`, `12.3k`, `1.24B`. */
export function formatCount(count: number): string {
  if (!Number.isFinite(count)) return String(count)
  let value = count
  for (const unit of ['', 'k', 'M', 'B']) {
    const digits = unit === '' && Number.isInteger(value) ? 0 : value < 10 ? 2 : value < 100 ? 1 : 0
    const text = value.toFixed(digits)
    if (Number(text) < 1000) return text + unit
    value /= 1000
  }
  return `${value.toFixed(1)}T`
}

/** A metric in four significant digits: `2.313`, `0.0003`, `3.1e-7`. */
export function formatMetric(value: number): string {
  if (!Number.isFinite(value) || value === 0) return String(value)
  const size = Math.abs(value)
  if (size < 1e-3 || size >= 1e6) return value.toExponential(2).replace(/\.?0+e/, 'e').replace('e+', 'e')
  return String(Number(value.toPrecision(4)))
}
