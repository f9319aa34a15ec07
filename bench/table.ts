// Writes the tables of docs/benchmarks.md from a run that --json kept. Usage: tsx bench/table.ts RUN.json [docs/benchmarks.md]
// They stand between the lines <!-- figures --> and <!-- /figures -->; without a second argument they are printed.
import { readFileSync, writeFileSync } from 'node:fs'
import type { Measurement, Run } from './measurement.ts'
import { gigabytes, readRun, seconds } from './report.ts'

const row = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`

/** A table whose columns are the libraries: anneal's figure, and next to each peer's how many times anneal is as fast. */
function table(rows: readonly Measurement[], title: string, detail: (m: Measurement) => string): string[] {
  if (rows.length === 0) return []
  const peers = [...new Set(rows.flatMap(({ peer }) => peer ?? []))]
  const groups = new Map<string, Measurement[]>()
  for (const m of rows) {
    const key = `${m.name}|${m.dtype}|${m.pass}`
    groups.set(key, [...groups.get(key) ?? [], m])
  }
  const lines = [...groups.values()].flatMap((group) => {
    const isas = group.filter(({ peer }) => peer === undefined)
    return isas.map((own) => row([
      `${own.name}, ${own.dtype}${own.pass === 'forward+backward' ? ', with backward' : ''}${isas.length > 1 ? `, ${own.isa}` : ''}`, seconds(own.median), detail(own),
      ...peers.map((label) => {
        const other = group.find(({ peer }) => peer === label)
        return other ? `${seconds(other.median)} (${(other.median / own.median).toFixed(2)}×)${other.peakMemory === undefined ? '' : `, ${gigabytes(other.peakMemory)}`}` : ''
      }),
    ]))
  })
  return [`### ${title}`, row(['', 'anneal', '', ...peers]), row(Array.from({ length: peers.length + 3 }, () => '---')), ...lines, '']
}

const rateOf = ({ value, unit, share }: Measurement): string =>
  value === null ? '' : `${value.toPrecision(3)} ${unit!}${share === null ? '' : `, ${Math.round(100 * share)} % of peak`}`
const stepDetail = (m: Measurement): string => [
  rateOf(m), m.tokensPerSecond === undefined ? '' : `${Math.round(m.tokensPerSecond)} tokens/s`, m.peakMemory === undefined ? '' : gigabytes(m.peakMemory),
  m.lag === undefined ? '' : `lag p99 ${seconds(m.lag)}`,
].filter((part) => part !== '').join(', ')

/** The figures of a run in Markdown. */
export function figures({ date, commit, machine, versions, peaks, measurements }: Run): string {
  const kind = (m: Measurement): string => m.pass === 'step' ? 'step' : m.name.startsWith('tokenizer') ? 'tokenizer' : 'operation'
  const of = (wanted: string): Measurement[] => measurements.filter((m) => kind(m) === wanted)
  const noisy = measurements.filter(({ others }) => others !== null && others >= 0.08).length
  return [
    `Taken on ${date.slice(0, 10)} at commit ${commit}. ${machine}; ${Object.entries(versions).map(([name, version]) => `${name} ${version}`).join(', ')}.`,
    `Peaks on ${peaks.threads} threads: ${Object.entries(peaks.gflops).map(([isa, gflops]) => `${isa} ${gflops} GFLOP/s`).join(', ')}; reading ${peaks.read} GB/s, copying ${peaks.copy} GB/s.`,
    'Medians. A peer\'s figure is followed by how many times as fast anneal is, and memory is the most that the process had resident.',
    ...noisy ? [`In ${noisy} of ${measurements.length} measurements other processes used 8 % of the machine or more.`] : [], '',
    ...table(of('step'), 'Steps', stepDetail), ...table(of('operation'), 'Operations', rateOf), ...table(of('tokenizer'), 'Tokenizers', rateOf),
  ].join('\n').trimEnd()
}

const [begin, end] = ['<!-- figures -->', '<!-- /figures -->']

/** The page with other figures between its marks. */
export function withFigures(page: string, text: string): string {
  const [from, to] = [page.indexOf(begin), page.indexOf(end)]
  if (from < 0 || to < from) throw new Error(`the page has no ${begin} … ${end}`)
  return `${page.slice(0, from)}${begin}\n${text}\n${page.slice(to)}`
}

if (process.argv[1]?.endsWith('table.ts')) {
  const [run, page] = process.argv.slice(2)
  if (run === undefined) throw new Error('usage: tsx bench/table.ts RUN.json [docs/benchmarks.md]')
  const text = figures(readRun(run))
  if (page === undefined) console.log(text)
  else writeFileSync(page, withFigures(readFileSync(page, 'utf8'), text))
}
