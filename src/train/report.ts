import { mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { formatBytes, writeError } from '../files/filesystem.ts'
import { escapeHtml, lineChart, smooth, type Point, type Series } from './chart.ts'
import type { EvaluateEvent, LogEvent, TrainerEvent, TrainerLogger } from './events.ts'
import { formatCount, formatDuration, formatMetric } from './format.ts'

const style = `
:root{color-scheme:light dark;--back:#fff;--text:#1c2024;--dim:#60646c;--rule:#d9dce1;--train:#2563c9;--eval0:#c2570c;--eval1:#1a7f4b;--eval2:#8a3fc0;--bad:#c8102e;--panel:#f6f7f9}
@media(prefers-color-scheme:dark){:root{--back:#111316;--text:#e8eaed;--dim:#9aa0a8;--rule:#30343a;--train:#74a9ff;--eval0:#ffa057;--eval1:#5fd39a;--eval2:#c89bff;--bad:#ff6b81;--panel:#191c20}}
body{background:var(--back);color:var(--text);font:15px/1.5 system-ui,sans-serif;max-width:1200px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .5rem}p.dim,.dim{color:var(--dim)}
.facts{display:flex;flex-wrap:wrap;gap:.5rem 2rem;margin:1rem 0}.facts div{display:flex;flex-direction:column}.facts b{font-size:1.15rem;font-weight:600}.facts span{color:var(--dim);font-size:.85rem}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,420px),1fr));gap:1rem}
figure{margin:0;background:var(--panel);border-radius:6px;padding:.6rem}figcaption{font-weight:600;display:flex;justify-content:space-between}svg{width:100%;height:auto;display:block}
.legend{font-weight:400;color:var(--dim)}.legend i{display:inline-block;width:.8em;height:.2em;margin:0 .3em 0 .8em;vertical-align:middle}i.train{background:var(--train)}i.eval0{background:var(--eval0)}i.eval1{background:var(--eval1)}i.eval2{background:var(--eval2)}
.grid{stroke:var(--rule);stroke-width:1}.tick{fill:var(--dim);font:11px system-ui,sans-serif}.line{fill:none;stroke-width:1.6;stroke-linejoin:round}.line.train{stroke:var(--train)}.line.raw{stroke:var(--train);opacity:.3;stroke-width:1}.line.eval0{stroke:var(--eval0)}.line.eval1{stroke:var(--eval1)}.line.eval2{stroke:var(--eval2)}circle.eval0{fill:var(--eval0)}circle.eval1{fill:var(--eval1)}circle.eval2{fill:var(--eval2)}.bad{fill:var(--bad);font:700 13px sans-serif}
table{border-collapse:collapse;width:100%}.scroll{overflow-x:auto}th,td{text-align:left;padding:.25rem .8rem .25rem 0;border-bottom:1px solid var(--rule);vertical-align:top;overflow-wrap:anywhere}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:var(--panel);border-radius:6px;padding:.6rem;margin:.3rem 0 1rem}.failed{color:var(--bad)}`

const titles: Record<string, string> = {
  loss: 'Loss', learningRate: 'Learning rate', gradNorm: 'Gradient norm', tokensPerSecond: 'Tokens per second', memoryBytes: 'Memory (GB)', perplexity: 'Perplexity', accuracy: 'Accuracy',
}

/** `meanTokenAccuracy` as `Mean token accuracy`. */
const titleOf = (name: string): string => titles[name] ?? (name.charAt(0).toUpperCase() + name.slice(1)).replace(/([a-z0-9])([A-Z])/g, (_, a: string, b: string) => `${a} ${b.toLowerCase()}`)

const of = <T extends TrainerEvent['type']>(events: readonly TrainerEvent[], type: T) =>
  events.filter((event): event is Extract<TrainerEvent, { type: T }> => event.type === type)

/** The metric's points; of a step logged twice, before and after a resume, the later counts. */
function pointsOf(events: readonly { step: number }[], value: (event: never) => number | undefined): Point[] {
  const byStep = new Map<number, number>()
  for (const event of events) {
    const y = value(event as never)
    if (y !== undefined) byStep.set(event.step, y)
  }
  return [...byStep].map(([x, y]) => ({ x, y })).sort((a, b) => a.x - b.x)
}

const evalKinds = ['eval0', 'eval1', 'eval2'] as const

function charts(logs: readonly LogEvent[], evaluations: readonly EvaluateEvent[]): string {
  const names = [...new Set(['loss', 'learningRate', 'gradNorm', ...logs.flatMap((e) => Object.keys(e.metrics)), ...evaluations.flatMap((e) => Object.keys(e.metrics))])]
  const datasets = [...new Set(evaluations.map((e) => e.dataset))]
  const drawn = names.flatMap((name) => {
    const train = pointsOf(logs, (e: LogEvent) => e.metrics[name])
    const series: Series[] = []
    const noisy = name === 'loss' && train.length > 50
    if (noisy) series.push({ name: 'training, each log', kind: 'raw', points: train })
    if (train.length) series.push({ name: 'training', kind: 'train', points: noisy ? smooth(train, 0.9).filter((p) => Number.isFinite(p.y)) : train })
    for (const [i, dataset] of datasets.entries()) {
      const points = pointsOf(evaluations.filter((e) => e.dataset === dataset), (e: EvaluateEvent) => e.metrics[name])
      if (points.length) series.push({ name: dataset === undefined ? 'evaluation' : `evaluation, ${dataset}`, kind: evalKinds[i % evalKinds.length]!, points, dots: true })
    }
    return series.length ? [lineChart(titleOf(name), series)] : []
  })
  if (logs.length) {
    drawn.push(lineChart(titleOf('tokensPerSecond'), [{ name: 'training', kind: 'train', points: pointsOf(logs, (e: LogEvent) => e.tokensPerSecond) }]))
    drawn.push(lineChart(titleOf('memoryBytes'), [{ name: 'training', kind: 'train', points: pointsOf(logs, (e: LogEvent) => e.memoryBytes / 1e9) }]))
  }
  return drawn.length ? `<h2>Curves</h2><div class="charts">${drawn.join('')}</div>` : ''
}

function facts(events: readonly TrainerEvent[]): string {
  const start = of(events, 'start').at(-1)
  const last = of(events, 'log').at(-1)
  const evaluations = of(events, 'evaluate')
  const end = of(events, 'end').at(-1)
  const losses = evaluations.map((e) => e.metrics.loss).filter((loss) => loss !== undefined)
  const peak = end?.peakMemoryBytes ?? last?.peakMemoryBytes ?? last?.memoryBytes
  const tokens = end?.tokensSeen ?? last?.tokensSeen
  const seconds = end?.elapsedSeconds ?? last?.elapsedSeconds
  const rows: [string, string | undefined][] = [
    ['parameters', start && formatCount(start.parameters)],
    ['trained', start && formatCount(start.trainableParameters)],
    ['steps', `${end?.step ?? last?.step ?? start?.step ?? 0} of ${end?.totalSteps ?? last?.totalSteps ?? start?.totalSteps ?? 0}`],
    ['tokens', tokens === undefined ? undefined : formatCount(tokens)],
    ['time', seconds === undefined ? undefined : formatDuration(seconds)],
    ['tokens per second', tokens && seconds ? formatCount(tokens / seconds) : undefined],
    ['peak memory', peak === undefined ? undefined : formatBytes(peak)],
    ['final loss', last?.metrics.loss === undefined ? undefined : formatMetric(last.metrics.loss)],
    ['best evaluation loss', losses.length ? formatMetric(Math.min(...losses)) : undefined],
  ]
  return `<div class="facts">${rows.flatMap(([name, value]) => (value === undefined ? [] : [`<div><b>${escapeHtml(value)}</b><span>${name}</span></div>`])).join('')}</div>`
}

function evaluationTable(evaluations: readonly EvaluateEvent[]): string {
  if (!evaluations.length) return ''
  const names = [...new Set(evaluations.flatMap((e) => Object.keys(e.metrics)))]
  const rows = evaluations.map((e) => `<tr><td class="n">${e.step}</td><td>${escapeHtml(e.dataset ?? '')}${e.best ? ' best' : ''}</td>${names.map((name) => `<td class="n">${e.metrics[name] === undefined ? '' : formatMetric(e.metrics[name])}</td>`).join('')}</tr>`)
  return `<h2>Evaluations</h2><div class="scroll"><table><tr><th class="n">step</th><th></th>${names.map((name) => `<th class="n">${escapeHtml(name)}</th>`).join('')}</tr>${rows.join('')}</table></div>`
}

/** Nested options as `lora.rank`. */
function flatten(value: unknown, path: string): [string, string][] {
  if (typeof value === 'object' && value !== null && !Array.isArray(value) && Object.keys(value).length) {
    return Object.entries(value).flatMap(([key, inner]) => flatten(inner, path ? `${path}.${key}` : key))
  }
  return path && value !== undefined ? [[path, typeof value === 'string' ? value : JSON.stringify(value)]] : []
}

const table = (title: string, rows: readonly (readonly [string, string])[]): string =>
  (rows.length ? `<h2>${title}</h2><div class="scroll"><table>${rows.map(([name, value]) => `<tr><th>${escapeHtml(name)}</th><td>${escapeHtml(value)}</td></tr>`).join('')}</table></div>` : '')

/** A page that tells a whole run, from its events alone: no script, nothing loaded from elsewhere. */
export function renderReport(events: readonly TrainerEvent[], options: { title?: string } = {}): string {
  const start = of(events, 'start').at(-1)
  const end = of(events, 'end').at(-1)
  const title = options.title ?? [start?.method, start?.model].filter((part) => part !== undefined).join(' · ')
  const begun = of(events, 'start')[0]
  const state = end ? { finished: 'finished', earlyStopping: 'stopped early', aborted: 'stopped by the user', failed: 'failed' }[end.reason] : 'running'
  const when = begun ? ` · begun ${new Date(begun.time).toISOString().slice(0, 16).replace('T', ' ')} UTC` : ''
  const failure = end?.reason === 'failed' && end.message !== undefined ? `<p class="failed">${escapeHtml(end.message)}</p>` : ''
  const samples = of(events, 'sample').map((e) => `<p class="dim">step ${e.step}</p><pre><b>${escapeHtml(e.prompt)}</b>${escapeHtml(e.text)}</pre>`)
  const body = [
    `<h1>${escapeHtml(title || 'Training run')}</h1><p class="dim">${state}${when}${start?.device === undefined ? '' : ` · ${escapeHtml(start.device)}`}</p>${failure}`,
    facts(events),
    charts(of(events, 'log'), of(events, 'evaluate')),
    evaluationTable(of(events, 'evaluate')),
    samples.length ? `<h2>Samples</h2>${samples.join('')}` : '',
    table('Warnings', of(events, 'warning').map((e) => [e.step === undefined ? '' : `step ${e.step}`, e.message] as const)),
    table('Checkpoints', of(events, 'save').map((e) => [`step ${e.step}`, e.bytes === undefined ? e.path : `${e.path} (${formatBytes(e.bytes)})`] as const)),
    table('Options', start ? flatten(start.options, '') : []),
  ]
  return '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
    + '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; style-src \'unsafe-inline\'">'
    + `<title>${escapeHtml(title || 'Training run')}</title><style>${style}</style></head><body>\n${body.filter((part) => part !== '').join('\n')}\n</body></html>\n`
}

/** What the report of a run takes. */
export interface ReportOptions {
  title?: string
  /** Events of the run before it was resumed, as readEvents gives them. */
  earlier?: readonly TrainerEvent[]
}

/** Writes the report when the run ends, or as far as it came when the logger is closed early. */
export class ReportLogger implements TrainerLogger {
  readonly path: string
  readonly #title: string | undefined
  readonly #events: TrainerEvent[]
  #written = false

  constructor(path: string, options: ReportOptions = {}) {
    this.path = path
    this.#title = options.title
    this.#events = [...options.earlier ?? []].filter((event) => event.type !== 'end')
  }

  handle(event: TrainerEvent): void {
    if (event.type === 'step') return
    this.#events.push(event)
    this.#written = false
    if (event.type === 'end') this.#write()
  }

  close(): void {
    if (!this.#written && this.#events.length) this.#write()
  }

  #write(): void {
    const temporary = `${this.path}.tmp-${process.pid}`
    try {
      mkdirSync(dirname(this.path), { recursive: true })
      writeFileSync(temporary, renderReport(this.#events, this.#title === undefined ? {} : { title: this.#title }))
      renameSync(temporary, this.path)
    } catch (error) {
      rmSync(temporary, { force: true })
      throw writeError(error, this.path)
    }
    this.#written = true
  }
}
