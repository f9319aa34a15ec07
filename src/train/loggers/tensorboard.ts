import { closeSync, mkdirSync, openSync, writeSync } from 'node:fs'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { writeError } from '../../files/filesystem.ts'
import type { TrainerEvent, TrainerLogger } from '../events.ts'
import { histogramValue, makeHistogram, scalarValue, summaryEvent, textValue, versionEvent } from './tensorboard-events.ts'

/** `gradNorm` as `grad_norm`: the tags transformers' Trainer writes, so that runs of both lie on the same charts. */
const snakeCase = (name: string): string => name.replace(/[A-Z]/g, (c) => `_${c.toLowerCase()}`)

let filesOpened = 0

/** Writes `events.out.tfevents.*` for TensorBoard: train/ and eval/ scalars, options, samples and warnings as text. */
export class TensorBoardLogger implements TrainerLogger {
  readonly path: string
  #file: number | undefined

  /** `folder` is the log directory; each run gets its own file there. */
  constructor(folder: string, time = Date.now()) {
    this.path = join(folder, `events.out.tfevents.${Math.floor(time / 1000)}.${hostname()}.${process.pid}.${filesOpened++}`)
    try {
      mkdirSync(folder, { recursive: true })
      this.#file = openSync(this.path, 'wx', 0o644)
    } catch (error) {
      throw writeError(error, this.path)
    }
    this.#write(versionEvent(time))
  }

  #write(record: Buffer): void {
    if (this.#file === undefined) return
    try {
      for (let done = 0; done < record.length;) done += writeSync(this.#file, record, done)
    } catch (error) {
      throw writeError(error, this.path, record.length)
    }
  }

  handle(event: TrainerEvent): void {
    if (event.type === 'start') {
      this.text('args', '```json\n' + JSON.stringify(event.options, undefined, 2) + '\n```', event.step, event.time)
    } else if (event.type === 'log') {
      const { metrics, epoch, tokensPerSecond, tokensSeen, memoryBytes } = event
      this.scalars('train', { ...metrics, epoch, tokensPerSecond, tokensSeen, memoryBytes }, event.step, event.time)
    } else if (event.type === 'evaluate') {
      this.scalars(event.dataset === undefined ? 'eval' : `eval/${event.dataset}`, event.metrics, event.step, event.time)
    } else if (event.type === 'sample') {
      this.text('samples', `**${event.prompt}**\n\n${event.text}`, event.step, event.time)
    } else if (event.type === 'warning') {
      this.text('warnings', event.message, event.step ?? 0, event.time)
    } else if (event.type === 'end' && event.metrics) {
      this.scalars('train', event.metrics, event.step, event.time)
    }
  }

  /** Scalars `prefix/name`, names in snake_case. */
  scalars(prefix: string, values: Readonly<Record<string, number>>, step: number, time = Date.now()): void {
    this.#write(summaryEvent(time, step, Object.entries(values).map(([name, value]) => scalarValue(`${prefix}/${snakeCase(name)}`, value))))
  }

  text(tag: string, markdown: string, step: number, time = Date.now()): void {
    this.#write(summaryEvent(time, step, [textValue(tag, markdown)]))
  }

  /** The distribution of values, such as a weight's or a gradient's. */
  histogram(tag: string, values: ArrayLike<number>, step: number, time = Date.now()): void {
    this.#write(summaryEvent(time, step, [histogramValue(tag, makeHistogram(values))]))
  }

  close(): void {
    if (this.#file !== undefined) closeSync(this.#file)
    this.#file = undefined
  }
}
