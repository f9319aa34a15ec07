import { formatCount, formatMetric } from './format.ts'

export interface Point { x: number, y: number }

export interface Series {
  name: string
  /** Class of the line, for its colour; `raw` is faint and not in the legend. */
  kind: 'raw' | 'train' | 'eval0' | 'eval1' | 'eval2'
  points: readonly Point[]
  /** Draw a dot with a tooltip at each point. */
  dots?: boolean
}

export const escapeHtml = (text: string): string => text.replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`)

const [width, height, left, right, top, bottom] = [560, 240, 56, 22, 10, 28]

/** At most about 2 × `buckets` points: the lowest and the highest of every bucket, so that no peak is lost. */
function thin(points: readonly Point[], buckets = 400): Point[] {
  if (points.length <= 2 * buckets) return [...points]
  const kept: Point[] = []
  for (let b = 0; b < buckets; b++) {
    const part = points.slice(Math.floor((b * points.length) / buckets), Math.floor(((b + 1) * points.length) / buckets))
    const broken = part.find((p) => !Number.isFinite(p.y))
    if (broken) { kept.push(broken); continue }
    const low = part.reduce((a, p) => (p.y < a.y ? p : a))
    const high = part.reduce((a, p) => (p.y > a.y ? p : a))
    kept.push(...(low === high ? [low] : low.x < high.x ? [low, high] : [high, low]))
  }
  return kept
}

/** Exponential moving average, corrected for its start; values that are not finite stay as they are and do not count. */
export function smooth(points: readonly Point[], weight: number): Point[] {
  let [sum, norm] = [0, 0]
  return points.map(({ x, y }) => {
    if (!Number.isFinite(y)) return { x, y }
    sum = weight * sum + (1 - weight) * y
    norm = weight * norm + (1 - weight)
    return { x, y: sum / norm }
  })
}

/** About `count` round numbers from `low` to `high`. */
export function ticks(low: number, high: number, count: number): number[] {
  const rough = (high - low) / count
  const unit = 10 ** Math.floor(Math.log10(rough))
  const step = [1, 2, 5, 10].map((m) => m * unit).find((s) => s >= rough * 0.999) ?? 10 * unit
  const first = Math.ceil(low / step - 1e-9)
  const last = Math.floor(high / step + 1e-9)
  return Array.from({ length: Math.max(0, last - first + 1) }, (_, i) => Number(((first + i) * step).toPrecision(12)))
}

/** The range of finite values, widened when it is a single one. */
function range(values: readonly number[]): [number, number] {
  let [low, high] = [Infinity, -Infinity]
  for (const value of values) if (Number.isFinite(value)) { low = Math.min(low, value); high = Math.max(high, value) }
  if (low > high) return [0, 1]
  return low === high ? [low - (Math.abs(low) || 1) * 0.05, high + (Math.abs(high) || 1) * 0.05] : [low, high]
}

/** A line chart over steps as inline SVG, coloured by the page's style sheet. Gaps and crosses mark values that are not finite. */
export function lineChart(title: string, series: readonly Series[]): string {
  const all = series.flatMap((s) => s.points)
  const [x0, x1] = range(all.map((p) => p.x))
  const [low, high] = range(all.map((p) => p.y))
  const margin = (high - low) * 0.04
  const [y0, y1] = [low >= 0 ? Math.max(0, low - margin) : low - margin, high + margin]
  const px = (x: number) => (left + ((x - x0) / (x1 - x0)) * (width - left - right)).toFixed(1)
  const py = (y: number) => (height - bottom - ((y - y0) / (y1 - y0)) * (height - top - bottom)).toFixed(1)
  const grid = ticks(y0, y1, 5).map((y) => `<path class="grid" d="M${left} ${py(y)}H${width - right}"/><text class="tick" x="${left - 6}" y="${py(y)}" dy="4" text-anchor="end">${formatTick(y)}</text>`)
  const below = ticks(x0, x1, 6).filter((x) => Number.isInteger(x)).map((x) => `<text class="tick" x="${px(x)}" y="${height - 10}" text-anchor="middle">${formatTick(x)}</text>`)
  const lines = series.map((s) => drawSeries(s, px, py))
  const named = series.filter((s) => s.kind !== 'raw')
  const legend = named.length > 1 ? `<span class="legend">${named.map((s) => `<i class="${s.kind}"></i>${escapeHtml(s.name)}`).join(' ')}</span>` : ''
  return `<figure><figcaption>${escapeHtml(title)}${legend}</figcaption><svg viewBox="0 0 ${width} ${height}" role="img" aria-label="${escapeHtml(title)} by step">`
    + `${grid.join('')}${below.join('')}${lines.join('')}</svg></figure>`
}

/** Round numbers need no zeros after the point: `1k`, not `1.00k`. */
function formatTick(value: number): string {
  return Math.abs(value) >= 1000 ? formatCount(value).replace(/(\.\d*?)0+(?=[kMBT])/, (_, digits: string) => (digits === '.' ? '' : digits)) : formatMetric(value)
}

function drawSeries({ name, kind, points, dots }: Series, px: (x: number) => string, py: (y: number) => string): string {
  let path = ''
  let marks = ''
  let pen = 'M'
  for (const { x, y } of thin(points)) {
    if (!Number.isFinite(y)) {
      marks += `<text class="bad" x="${px(x)}" y="${top + 10}" text-anchor="middle">×<title>step ${x}: ${y}</title></text>`
      pen = 'M'
      continue
    }
    path += `${pen}${px(x)} ${py(y)}`
    pen = 'L'
    if (dots) marks += `<circle class="${kind}" cx="${px(x)}" cy="${py(y)}" r="3"><title>${escapeHtml(name)} at step ${x}: ${formatMetric(y)}</title></circle>`
  }
  return (path ? `<path class="line ${kind}" d="${path}"/>` : '') + marks
}
