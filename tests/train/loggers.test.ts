// Proves that the logs hold what the events told: JSONL, TensorBoard (read back by an independent reader), progress line and report.
import { appendFileSync, readFileSync, readdirSync, truncateSync, writeFileSync, existsSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { FileFormatError } from '../../src/errors.ts'
import { FileAccessError } from '../../src/errors.ts'
import { combineLoggers, JsonlLogger, ProgressLogger, readEvents, renderReport, ReportLogger, TensorBoardLogger, type TrainerEvent, type LogEvent, type StartEvent, type TrainerLogger } from '../../src/train/loggers/index.ts'
import { crc32c } from '../../src/train/loggers/crc32c.ts'
import { makeHistogram } from '../../src/train/loggers/tensorboard-events.ts'
import { temporaryFolder } from '../files/helpers.ts'
import { decodeMessage, readRecords } from './tensorboard-reader.ts'

const begin = Date.UTC(2026, 0, 2, 3, 4, 5)
const at = (step: number) => ({ step, totalSteps: 100, epoch: step / 50, time: begin + step * 500 })
const log = (step: number, loss = 4 / (1 + step / 10)): LogEvent => ({
  type: 'log', ...at(step), metrics: { loss, learningRate: 3e-4, gradNorm: 1.25 }, tokensSeen: step * 1024, tokensPerSecond: 2048, elapsedSeconds: step / 2, memoryBytes: 1.5e9, peakMemoryBytes: 2e9,
})
const start: StartEvent = {
  type: 'start', time: begin, method: 'sft', model: 'tiny <llama>', step: 0, totalSteps: 100, parameters: 124_439_808, trainableParameters: 1_000_000, device: 'cpu',
  options: { learningRate: 3e-4, lora: { rank: 8, targets: ['q_proj'] }, note: '</table><script>alert(1)</script>', empty: {}, nothing: null },
}
const run: TrainerEvent[] = [
  start, ...Array.from({ length: 10 }, (_, i) => log((i + 1) * 10)),
  { type: 'evaluate', ...at(50), metrics: { loss: 2.5, meanTokenAccuracy: 0.5 } }, { type: 'evaluate', ...at(100), metrics: { loss: 2.25, meanTokenAccuracy: 0.625 }, best: true, dataset: 'held-out' },
  { type: 'save', ...at(100), path: 'out/checkpoint-100', bytes: 5e8 }, { type: 'sample', ...at(100), prompt: 'Hello <b>', text: 'wörld & 你好' },
  { type: 'warning', time: begin, message: 'a row was skipped' },
  { type: 'end', ...at(100), reason: 'finished', tokensSeen: 102_400, elapsedSeconds: 50, peakMemoryBytes: 2e9, metrics: { trainLoss: 1.5 } },
]
const feed = (logger: TrainerLogger, events: readonly TrainerEvent[]) => { for (const event of events) logger.handle(event); logger.close() }

describe('JSONL', () => {
  it('gives back every event, not-finite numbers too, and leaves single steps out', () => {
    const path = join(temporaryFolder(), 'logs', 'metrics.jsonl')
    const events: TrainerEvent[] = [...run, { ...log(7, NaN), tokensPerSecond: Infinity }, { type: 'evaluate', ...at(7), metrics: { loss: -Infinity } }]
    feed(new JsonlLogger(path), [...events, { type: 'step', ...at(8) }])
    expect(readEvents(path)).toEqual(events)
    expect(readFileSync(path, 'utf8').split('\n')).toHaveLength(events.length + 1)
  })

  it('repairs a last line torn at any byte', () => {
    const folder = temporaryFolder()
    const path = join(folder, 'metrics.jsonl')
    feed(new JsonlLogger(path), [start, log(1), log(2)])
    const whole = readFileSync(path)
    const twoLines = whole.indexOf(10, whole.indexOf(10) + 1) + 1
    for (let cut = twoLines; cut < whole.length; cut += 13) {
      writeFileSync(path, whole)
      truncateSync(path, cut)
      expect(readEvents(path)).toEqual([start, log(1)])
      feed(new JsonlLogger(path), [log(3)])
      expect(readEvents(path)).toEqual([start, log(1), log(3)])
    }
    writeFileSync(path, 'x'.repeat(200_000))
    feed(new JsonlLogger(path), [log(3)])
    expect(readEvents(path)).toEqual([log(3)])
  })

  it('drops on resume what came after the checkpoint, so that the log reads as one run', () => {
    const path = join(temporaryFolder(), 'metrics.jsonl')
    feed(new JsonlLogger(path), [start, log(10), log(20), { type: 'warning', time: 1, message: 'w' }, log(30), log(40)])
    feed(new JsonlLogger(path, { resumeStep: 20 }), [log(30)])
    expect(readEvents(path)).toEqual([start, log(10), log(20), { type: 'warning', time: 1, message: 'w' }, log(30)])
    const ended: TrainerEvent = { type: 'end', ...at(30), reason: 'aborted', tokensSeen: 1, elapsedSeconds: 1 }
    feed(new JsonlLogger(path), [ended])
    feed(new JsonlLogger(path, { resumeStep: 30 }), [log(40)])
    expect(readEvents(path).at(-2)).toEqual(log(30))
    feed(new JsonlLogger(path, { resumeStep: 0 }), [])
    expect(readEvents(path)).toEqual([start])
  })

  it('names file, line and column of a broken line', () => {
    const path = join(temporaryFolder(), 'metrics.jsonl')
    feed(new JsonlLogger(path), [start])
    appendFileSync(path, '{"type":"log" "step":1}\n{"type":"end"}\n')
    expect(() => readEvents(path)).toThrow(FileFormatError)
    expect(() => readEvents(path)).toThrow(`${path}:2:15: expected "," or "}" after a value`)
    writeFileSync(path, '{"type":"lag"}\n')
    expect(() => readEvents(path)).toThrow(/:1: expected a training event/)
    expect(() => readEvents(join(path, 'x'))).toThrow(FileAccessError)
    expect(() => new JsonlLogger(join(path, 'x'))).toThrow(FileAccessError)
  })
})

describe('TensorBoard', () => {
  it('has the checksums of RFC 3720', () => {
    expect(crc32c(new Uint8Array(32))).toBe(0x8a9136aa)
    expect(crc32c(new Uint8Array(32).fill(0xff))).toBe(0x62a8ab43)
    expect(crc32c(Uint8Array.from({ length: 32 }, (_, i) => i))).toBe(0x46dd794e)
  })

  it('reads back as written', () => {
    const folder = join(temporaryFolder(), 'runs')
    const logger = new TensorBoardLogger(folder, begin)
    for (const event of run) logger.handle(event)
    logger.histogram('weights', [0, 1, 1, 3, NaN], 100, begin)
    logger.close()
    logger.handle(log(101))
    expect(readdirSync(folder)).toHaveLength(1)
    expect(readdirSync(folder)[0]).toMatch(new RegExp(`^events\\.out\\.tfevents\\.${begin / 1000}\\.`))
    const events = readRecords(readFileSync(logger.path)).map((record) => decodeMessage(record))
    expect(events[0]!.get(3)![0]).toEqual(Buffer.from('brain.Event:2'))
    const values = events.slice(1).flatMap((event) => decodeMessage(event.get(5)![0] as Buffer).get(1)!.map((value) => {
      const fields = decodeMessage(value as Buffer)
      return { step: Number(event.get(2)![0]), wall: (event.get(1)![0] as Buffer).readDoubleLE(), tag: String(fields.get(1)![0]), fields }
    }))
    const scalars = values.flatMap(({ step, tag, fields }) => (fields.has(2) ? [[tag, step, (fields.get(2)![0] as Buffer).readFloatLE()] as const] : []))
    expect(scalars.filter(([tag]) => tag === 'train/loss')).toEqual(run.flatMap((e) => (e.type === 'log' ? [['train/loss', e.step, Math.fround(e.metrics.loss!)]] : [])))
    expect(scalars).toContainEqual(['train/learning_rate', 10, Math.fround(3e-4)])
    expect(scalars).toContainEqual(['train/tokens_per_second', 10, 2048])
    expect(scalars).toContainEqual(['eval/mean_token_accuracy', 50, 0.5])
    expect(scalars).toContainEqual(['eval/held-out/loss', 100, 2.25])
    expect(scalars).toContainEqual(['train/train_loss', 100, 1.5])
    expect(values[1]!.wall).toBeCloseTo((begin + 5000) / 1000, 6)
    const text = (tag: string) => String(decodeMessage(values.find((value) => value.tag === tag)!.fields.get(8)![0] as Buffer).get(8)![0])
    expect(text('args')).toContain('"learningRate": 0.0003')
    expect(text('samples')).toBe('**Hello <b>**\n\nwörld & 你好')
    expect(text('warnings')).toBe('a row was skipped')
    const histogram = decodeMessage(values.find(({ tag }) => tag === 'weights')!.fields.get(5)![0] as Buffer)
    expect([1, 2, 3, 4, 5].map((i) => (histogram.get(i)![0] as Buffer).readDoubleLE())).toEqual([0, 3, 4, 5, 11])
  })

  it('opens files of its own for runs in one folder', () => {
    const folder = temporaryFolder()
    for (let i = 0; i < 3; i++) new TensorBoardLogger(folder, begin).close()
    expect(readdirSync(folder)).toHaveLength(3)
  })

  it.each<[number[], Partial<ReturnType<typeof makeHistogram>>]>([
    [[], { count: 0, edges: [0], counts: [0] }], [[NaN], { count: 0 }], [[2, 2], { min: 2, max: 2, edges: [2], counts: [2] }],
    [[0, 0.5, 1], { sum: 1.5, counts: [1, ...new Array<number>(14).fill(0), 1, ...new Array<number>(13).fill(0), 1] }],
  ])('sorts %j into buckets', (values, expected) => { expect(makeHistogram(values)).toMatchObject(expected) })
})

describe('progress', () => {
  const capture = (options: { interactive: boolean, columns?: number, interval?: number }) => {
    let [text, now] = ['', 0]
    const { columns, ...rest } = options
    const logger = new ProgressLogger({ ...rest, now: () => now, stream: { write: (piece: string) => { text += piece }, ...(columns === undefined ? {} : { columns }) } })
    return { logger, text: () => text, pass: (ms: number) => { now += ms } }
  }

  it('prints plain lines at intervals where there is no terminal', () => {
    const { logger, text, pass } = capture({ interactive: false })
    for (const event of run) { logger.handle(event); pass(4000) }
    logger.close()
    const lines = text().split('\n')
    expect(lines[0]).toBe('sft: 124M parameters, 1.00M trained (0.8036%), 100 steps')
    expect(lines[1]).toBe(' 10% 10/100 · epoch 0.20 · loss 2 · lr 3e-4 · grad 1.25 · 2.05k tok/s · 1.50 GB · ETA 45s')
    expect(lines.filter((line) => line.includes('tok/s'))).toHaveLength(4)
    expect(lines.at(-2)).toBe('finished at step 100 of 100 after 50s, 102k tokens')
    expect(lines).toContain('step 100 · eval held-out: loss 2.25 · meanTokenAccuracy 0.625 · best so far')
    expect(lines).toContain('step 100 · saved out/checkpoint-100 (500.00 MB)')
    expect(lines).toContain('warning: a row was skipped')
    expect(text()).not.toContain('\u001b')
  })

  it('redraws one line on a terminal, within its width, and keeps messages above it', () => {
    const { logger, text, pass } = capture({ interactive: true, columns: 110 })
    for (const event of run) { logger.handle(event); pass(100) }
    logger.close()
    const shown = text().split('\n').map((line) => line.split('\r\u001b[2K').at(-1)!)
    expect(shown.every((line) => line.length <= 109)).toBe(true)
    expect(shown.at(-3)).toMatch(/^100% █+ 100\/100 · /)
    expect(shown.at(-2)).toBe('finished at step 100 of 100 after 50s, 102k tokens')
    expect(shown.slice(1, 3)).toEqual(['step 50 · eval: loss 2.5 · meanTokenAccuracy 0.5', 'step 100 · eval held-out: loss 2.25 · meanTokenAccuracy 0.625 · best so far'])
  })

  it('draws at most every 50 ms and moves with single steps', () => {
    const { logger, text, pass } = capture({ interactive: true, columns: 40 })
    logger.handle(start)
    for (let step = 1; step <= 100; step++) { logger.handle({ type: 'step', ...at(step) }); pass(5) }
    expect(text().split('\r').length - 1).toBe(10)
    expect(text()).toContain('91/100')
  })

  it('estimates the end from this run\'s steps, not the resumed ones', () => {
    const { logger, text } = capture({ interactive: false, interval: 0 })
    logger.handle({ ...start, step: 80, time: begin })
    logger.handle({ ...log(90), time: begin + 10_000 })
    expect(text()).toContain('resumed at step 80')
    expect(text()).toContain('ETA 10s')
  })

  it('says why a run failed', () => {
    const { logger, text } = capture({ interactive: false })
    logger.handle({ type: 'end', ...at(3), reason: 'failed', message: 'loss is NaN', tokensSeen: 5, elapsedSeconds: 9.94 })
    expect(text()).toBe('failed at step 3 of 100 after 9.9s, 5 tokens: loss is NaN\n')
  })
})

describe('report', () => {
  it('tells the whole run on one page that loads nothing and runs nothing', () => {
    const html = renderReport(run)
    expect(html).not.toMatch(/<script|<link|<img|src=|url\(|@import|\son\w+=/)
    expect(html.replace(/content="[^"]*"/g, '')).not.toMatch(/https?:/)
    for (const title of ['Loss', 'Learning rate', 'Gradient norm', 'Tokens per second', 'Memory \\(GB\\)', 'Mean token accuracy']) expect(html).toMatch(new RegExp(`<figcaption>${title}`))
    expect(html).toContain('&#60;/table&#62;&#60;script&#62;')
    expect(html).toContain('<th>lora.rank</th><td>8</td>')
    expect(html).toContain('sft · tiny &#60;llama&#62;')
    expect(html).toContain('wörld &#38; 你好')
    expect(html).toContain('prefers-color-scheme:dark')
    expect(html).toContain('begun 2026-01-02 03:04 UTC')
    expect(html).toContain('<b>100 of 100</b>')
    expect(html).toContain('checkpoint-100 (500.00 MB)')
    expect(html).not.toMatch(/NaN|undefined|Infinity/)
  })

  it('marks values that are not finite and keeps to a bounded size', () => {
    const html = renderReport([start, ...Array.from({ length: 20_000 }, (_, i) => log(i + 1, i === 500 ? NaN : 3 + Math.sin(i)))])
    expect(html).toContain('<title>step 501: NaN</title>')
    expect(html.length).toBeLessThan(150_000)
    expect(html).not.toMatch(/d="[^"]*NaN/)
  })

  it('copes with a run that has just begun or has one point', () => {
    for (const events of [[], [start], [start, log(1)], [log(1, NaN)]]) expect(renderReport(events)).not.toMatch(/(?:x|y|cx|cy|d)="[^"]*NaN/)
  })

  it('is written at the end, or when closed early, with what came before a resume', () => {
    const folder = temporaryFolder()
    const path = join(folder, 'out', 'report.html')
    const logger = new ReportLogger(path, { title: 'My run', earlier: [start, log(10, 7.125), { type: 'end', ...at(10), reason: 'aborted', tokensSeen: 1, elapsedSeconds: 1 }] })
    logger.handle(log(20))
    expect(existsSync(path)).toBe(false)
    logger.close()
    const html = readFileSync(path, 'utf8')
    expect(html).toContain('<h1>My run</h1><p class="dim">running')
    expect(html).toContain('124M')
    expect(readdirSync(join(folder, 'out'))).toEqual(['report.html'])
  })
})

describe('combineLoggers', () => {
  it('goes on without a logger that fails, and says so once', () => {
    const seen: string[] = []
    const failures: string[] = []
    class Broken implements TrainerLogger {
      handle(): void { throw new Error('disk full') }
      close(): void { seen.push('closed') }
    }
    const good: TrainerLogger = { handle: (event) => { seen.push(event.type) }, close: () => { seen.push('end of good') } }
    feed(combineLoggers([new Broken(), good], (message) => failures.push(message)), [start, log(1)])
    expect(seen).toEqual(['start', 'log', 'end of good'])
    expect(failures).toEqual(['Broken stopped: disk full'])
  })
})
