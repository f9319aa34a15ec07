import { cpu } from '../tensor/index.ts'

/** The numbers of one optimizer step. */
export interface StepNumbers {
  loss: number
  gradNorm: number
  learningRate: number
  tokens: number
  /** name, sum, count. */
  metrics: readonly (readonly [string, number, number])[]
}

/** Adds up what steps report between two log entries, and over the run. */
export class Meter {
  tokensSeen = 0
  #earlierSeconds = 0
  #earlierPeak = 0
  #begin = performance.now()
  #lastFlush = performance.now()
  #steps: StepNumbers[] = []
  #lossSum = 0
  #lossCount = 0

  start(): void {
    this.#begin = this.#lastFlush = performance.now()
    cpu.resetPeakMemory()
  }

  get elapsedSeconds(): number { return this.#earlierSeconds + (performance.now() - this.#begin) / 1000 }
  peakMemory(): number { return Math.max(this.#earlierPeak, cpu.memory().peak) }

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

  /** Over this run. */
  summary(): Record<string, number> {
    return this.#lossCount === 0 ? {} : { trainLoss: this.#lossSum / this.#lossCount }
  }

  restore(state: { tokensSeen: number; elapsedSeconds: number; peakMemoryBytes: number }): void {
    this.tokensSeen = state.tokensSeen
    this.#earlierSeconds = state.elapsedSeconds
    this.#earlierPeak = state.peakMemoryBytes
  }
}
