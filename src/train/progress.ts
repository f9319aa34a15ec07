import { formatBytes } from '../files/filesystem.ts'
import type { LogEvent, TrainerEvent, TrainerLogger } from './events.ts'
import { formatCount, formatDuration, formatMetric } from './format.ts'

/** What the progress line is printed to; process.stderr is one. */
export interface ProgressStream {
  write(text: string): unknown
  readonly isTTY?: boolean
  readonly columns?: number
}

/** What `ProgressLogger` takes. */
export interface ProgressOptions {
  stream?: ProgressStream
  /** Redraw one line in place; default: whether the stream is a terminal. */
  interactive?: boolean
  /** Seconds between lines when not interactive; default 10. */
  interval?: number
  /** Milliseconds since 1970; for tests. */
  now?: () => number
}

/** Times between redraws in milliseconds; a terminal shows no more. */
const redrawMs = 50

/** One line of progress with ETA, speed and memory: redrawn on a terminal, plain lines at intervals elsewhere. */
export class ProgressLogger implements TrainerLogger {
  readonly #stream: ProgressStream
  readonly #interactive: boolean
  readonly #intervalMs: number
  readonly #now: () => number
  #step = 0
  #totalSteps = 0
  #epoch = 0
  #lastLog: LogEvent | undefined
  #lastStep: { step: number, time: number } | undefined
  #secondsPerStep: number | undefined
  #drawn = false
  #lastPrint = -Infinity

  constructor(options: ProgressOptions = {}) {
    this.#stream = options.stream ?? process.stderr
    this.#interactive = options.interactive ?? this.#stream.isTTY ?? false
    this.#intervalMs = (options.interval ?? 10) * 1000
    this.#now = options.now ?? Date.now
  }

  handle(event: TrainerEvent): void {
    if ('totalSteps' in event) this.#advance(event)
    switch (event.type) {
      case 'start': {
        const share = event.parameters > 0 ? ` (${formatMetric((100 * event.trainableParameters) / event.parameters)}%)` : ''
        const from = event.step > 0 ? `, resumed at step ${event.step}` : ''
        this.#say(`${event.method}: ${formatCount(event.parameters)} parameters, ${formatCount(event.trainableParameters)} trained${share}, ${event.totalSteps} steps${from}`)
        return
      }
      case 'step':
        this.#draw(false)
        return
      case 'log':
        this.#lastLog = event
        this.#draw(event.step >= event.totalSteps)
        return
      case 'evaluate': {
        const metrics = Object.entries(event.metrics).map(([name, value]) => `${name} ${formatMetric(value)}`).join(' · ')
        this.#say(`step ${event.step} · eval${event.dataset === undefined ? '' : ` ${event.dataset}`}: ${metrics}${event.best ? ' · best so far' : ''}`)
        return
      }
      case 'save':
        this.#say(`step ${event.step} · saved ${event.path}${event.bytes === undefined ? '' : ` (${formatBytes(event.bytes)})`}`)
        return
      case 'sample':
        this.#say(`step ${event.step} · sample: ${JSON.stringify(event.prompt)} → ${JSON.stringify(event.text)}`)
        return
      case 'warning':
        this.#say(`warning: ${event.message}`)
        return
      case 'end': {
        const how = { finished: 'finished', earlyStopping: 'stopped early', aborted: 'stopped', failed: 'failed' }[event.reason]
        const why = event.message === undefined ? '' : `: ${event.message}`
        if (this.#drawn) this.#draw(true)
        this.#say(`${how} at step ${event.step} of ${event.totalSteps} after ${formatDuration(event.elapsedSeconds)}, ${formatCount(event.tokensSeen)} tokens${why}`, false)
      }
    }
  }

  /** The rate follows the run: each new step counts 10 %, so that one slow save does not move the ETA much. */
  #advance(event: { step: number, totalSteps: number, time: number, epoch?: number }): void {
    const last = this.#lastStep
    if (last && event.step > last.step) {
      const seconds = (event.time - last.time) / 1000 / (event.step - last.step)
      const weight = 1 - 0.9 ** (event.step - last.step)
      this.#secondsPerStep = this.#secondsPerStep === undefined ? seconds : this.#secondsPerStep + weight * (seconds - this.#secondsPerStep)
    }
    if (!last || event.step !== last.step) this.#lastStep = { step: event.step, time: event.time }
    this.#step = event.step
    this.#totalSteps = event.totalSteps
    this.#epoch = event.epoch ?? this.#epoch
  }

  /** The progress line, without line end. */
  #line(width: number): string {
    const share = this.#totalSteps > 0 ? Math.min(1, this.#step / this.#totalSteps) : 0
    const parts = [`${this.#step}/${this.#totalSteps}`, `epoch ${this.#epoch.toFixed(2)}`]
    const log = this.#lastLog
    if (log) {
      const { loss, learningRate, gradNorm } = log.metrics
      if (loss !== undefined) parts.push(`loss ${formatMetric(loss)}`)
      if (learningRate !== undefined) parts.push(`lr ${formatMetric(learningRate)}`)
      if (gradNorm !== undefined) parts.push(`grad ${formatMetric(gradNorm)}`)
      parts.push(`${formatCount(log.tokensPerSecond)} tok/s`, formatBytes(log.memoryBytes))
    }
    if (this.#secondsPerStep !== undefined && this.#step < this.#totalSteps) parts.push(`ETA ${formatDuration(this.#secondsPerStep * (this.#totalSteps - this.#step))}`)
    const tail = parts.join(' · ')
    const percent = `${String(Math.floor(share * 100)).padStart(3)}%`
    const room = Math.min(30, width - percent.length - tail.length - 4)
    return room >= 5 ? `${percent} ${bar(share, room)} ${tail}` : `${percent} ${tail}`
  }

  #draw(always: boolean): void {
    const now = this.#now()
    if (this.#interactive) {
      if (!always && now - this.#lastPrint < redrawMs) return
      const width = Math.max(20, (this.#stream.columns ?? 80) - 1)
      this.#stream.write(`\r\u001b[2K${this.#line(width).slice(0, width)}`)
      this.#drawn = true
    } else {
      if (this.#lastLog === undefined || (!always && now - this.#lastPrint < this.#intervalMs)) return
      this.#stream.write(this.#line(0) + '\n')
    }
    this.#lastPrint = now
  }

  /** A line that stays; the progress line moves below it. */
  #say(text: string, redraw = true): void {
    if (!this.#interactive) { this.#stream.write(text + '\n'); return }
    const drawn = this.#drawn
    this.#stream.write(redraw && drawn ? `\r\u001b[2K${text}\n` : `${drawn ? '\n' : ''}${text}\n`)
    this.#drawn = false
    if (redraw && drawn) this.#draw(true)
  }

  close(): void {
    if (this.#drawn) this.#stream.write('\n')
    this.#drawn = false
  }
}

/** A bar of `width` cells in eighths. */
function bar(share: number, width: number): string {
  const eighths = Math.round(share * width * 8)
  const full = Math.floor(eighths / 8)
  const part = eighths % 8
  return ('█'.repeat(full) + (part ? '▏▎▍▌▋▊▉'[part - 1]! : '')).padEnd(width, '░')
}
