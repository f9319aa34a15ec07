import { z } from 'zod'
import { lazily } from '../options.ts'
import type { Device } from '../tensor/index.ts'

/** JSON has no NaN and no infinity; a checkpoint keeps them as strings. */
const number = lazily(() => z.union([z.number(), z.enum(['NaN', 'Infinity', '-Infinity']).transform(Number)]))

const stepNumbers = lazily(() => z.strictObject({
  loss: number, gradNorm: number, learningRate: number, tokens: number,
  /** name, sum, count. */
  metrics: z.array(z.tuple([z.string(), number, number])),
}))

/** The numbers of one optimizer step. */
export type StepNumbers = z.output<typeof stepNumbers>

/** What a checkpoint keeps of the meter, so that a resumed run logs what the uninterrupted one would. */
export const meterState = lazily(() => z.strictObject({
  tokensSeen: z.number().min(0),
  elapsedSeconds: z.number().min(0),
  peakMemoryBytes: z.number().min(0),
  lossSum: number,
  lossCount: z.int().min(0),
  /** Steps that are not logged yet. */
  pending: z.array(stepNumbers),
}))

/** Adds up what steps report between two log entries, and over the training. */
export class Meter {
  tokensSeen = 0
  #earlierSeconds = 0
  #earlierPeak = 0
  #begin = performance.now()
  #lastFlush = performance.now()
  #steps: StepNumbers[] = []
  #lossSum = 0
  #lossCount = 0
  readonly #device: Device

  constructor(device: Device) { this.#device = device }

  start(): void {
    this.#begin = this.#lastFlush = performance.now()
    this.#device.resetPeakMemory()
  }

  get elapsedSeconds(): number { return this.#earlierSeconds + (performance.now() - this.#begin) / 1000 }
  peakMemory(): number { return Math.max(this.#earlierPeak, this.#device.memory().peak) }

  add(numbers: StepNumbers): void {
    this.#steps.push(numbers)
    this.tokensSeen += numbers.tokens
    this.#lossSum += numbers.loss
    this.#lossCount++
  }

  /** Means over the steps since the last flush; the learning rate and the gradient norm are the last step's. */
  flush(): { metrics: Record<string, number>; tokensPerSecond: number } {
    const steps = this.#steps
    this.#steps = []
    const now = performance.now()
    const seconds = (now - this.#lastFlush) / 1000
    this.#lastFlush = now
    const last = steps.at(-1)
    const metrics: Record<string, number> = {
      loss: steps.reduce((sum, { loss }) => sum + loss, 0) / steps.length,
      gradNorm: last?.gradNorm ?? NaN,
      learningRate: last?.learningRate ?? NaN,
    }
    const totals = new Map<string, [number, number]>()
    for (const [name, sum, count] of steps.flatMap((step) => step.metrics)) {
      const [a, b] = totals.get(name) ?? [0, 0]
      totals.set(name, [a + sum, b + count])
    }
    for (const [name, [sum, count]] of totals) metrics[name] = sum / Math.max(count, 1)
    return { metrics, tokensPerSecond: steps.reduce((sum, { tokens }) => sum + tokens, 0) / Math.max(seconds, 1e-9) }
  }

  /** Over the whole training. */
  summary(): Record<string, number> {
    return this.#lossCount === 0 ? {} : { trainLoss: this.#lossSum / this.#lossCount }
  }

  state(): z.output<typeof meterState> {
    return {
      tokensSeen: this.tokensSeen, elapsedSeconds: this.elapsedSeconds, peakMemoryBytes: this.peakMemory(), lossSum: this.#lossSum, lossCount: this.#lossCount,
      pending: this.#steps,
    }
  }

  restore(state: z.output<typeof meterState>): void {
    this.tokensSeen = state.tokensSeen
    this.#earlierSeconds = state.elapsedSeconds
    this.#earlierPeak = state.peakMemoryBytes
    this.#lossSum = state.lossSum
    this.#lossCount = state.lossCount
    this.#steps = [...state.pending]
  }
}
