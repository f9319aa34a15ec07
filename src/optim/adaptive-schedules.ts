import { z } from 'zod'
import { lazily } from '../options.ts'

const factor = lazily(() => z.number().positive().lt(1))
const count = lazily(() => z.int().min(0))
const threshold = lazily(() => z.number().min(0))

/** torch.optim.lr_scheduler.ReduceLROnPlateau's parameters and defaults. */
export const plateauKwargs = lazily(() => z.strictObject({
  mode: z.enum(['min', 'max']).default('min'), factor: factor.default(0.1), patience: count.default(10), threshold: threshold.default(1e-4),
  thresholdMode: z.enum(['rel', 'abs']).default('rel'), cooldown: count.default(0), minLr: z.number().min(0).default(0), eps: z.number().min(0).default(1e-8),
}))

/** transformers' GreedyLR parameters and defaults (arXiv 2512.14527). */
export const greedyKwargs = lazily(() => z.strictObject({
  mode: z.enum(['min', 'max']).default('min'), factor: factor.default(0.95), patience: count.default(10), threshold: threshold.default(1e-6),
  thresholdMode: z.enum(['rel', 'abs']).default('abs'), cooldown: count.default(0), warmup: count.default(0), minLr: z.number().min(0).default(1e-3),
  maxLr: z.number().positive().default(1), eps: z.number().min(0).default(1e-8), smooth: z.boolean().default(false), windowSize: z.int().min(1).default(50),
  resetStart: count.default(500),
}))

interface Comparison { mode: 'min' | 'max', threshold: number, thresholdMode: 'rel' | 'abs' }

/** `best` is null before the first metric: JSON has no infinity. */
function isBetter(value: number, best: number | null, { mode, threshold, thresholdMode }: Comparison): boolean {
  if (best === null) return !Number.isNaN(value) && value !== (mode === 'min' ? Infinity : -Infinity)
  if (mode === 'min') return value < (thresholdMode === 'rel' ? best * (1 - threshold) : best - threshold)
  return value > (thresholdMode === 'rel' ? best * (1 + threshold) : best + threshold)
}

export interface PlateauState { learningRate: number, best: number | null, badSteps: number, cooldownLeft: number }

/** Lowers the rate by `factor` when the metric has not improved for more than `patience` steps; equal to torch's ReduceLROnPlateau. */
export class PlateauSchedule {
  readonly options: z.output<typeof plateauKwargs>
  /** Everything that changes, for a checkpoint; assign it to resume. */
  state: PlateauState

  constructor(learningRate: number, options: z.output<typeof plateauKwargs>) {
    this.options = options
    this.state = { learningRate, best: null, badSteps: 0, cooldownLeft: 0 }
  }

  get learningRate(): number { return this.state.learningRate }

  /** Tells the newest metric; returns the learning rate from now on. */
  step(metric: number): number {
    const { state, options } = this
    if (isBetter(metric, state.best, options)) { state.best = metric; state.badSteps = 0 } else state.badSteps++
    if (state.cooldownLeft > 0) { state.cooldownLeft--; state.badSteps = 0 }
    if (state.badSteps > options.patience) {
      const lower = Math.max(state.learningRate * options.factor, options.minLr)
      if (state.learningRate - lower > options.eps) state.learningRate = lower
      state.cooldownLeft = options.cooldown
      state.badSteps = 0
    }
    return state.learningRate
  }
}

export interface GreedyState {
  learningRate: number, best: number | null, badSteps: number, goodSteps: number, cooldownLeft: number, warmupLeft: number, resetLeft: number
  window: number[], windowSum: number
}

/** Raises the rate while the metric improves and lowers it when it does not; equal to transformers' GreedyLR. */
export class GreedySchedule {
  readonly options: z.output<typeof greedyKwargs>
  readonly #initial: number
  /** Everything that changes, for a checkpoint; assign it to resume. */
  state: GreedyState

  constructor(learningRate: number, options: z.output<typeof greedyKwargs>) {
    this.options = options
    this.#initial = learningRate
    this.state = this.#fresh()
  }

  get learningRate(): number { return this.state.learningRate }

  #fresh(): GreedyState {
    return {
      learningRate: this.#initial, best: null, badSteps: 0, goodSteps: 0, cooldownLeft: 0, warmupLeft: 0, resetLeft: this.options.resetStart, window: [], windowSum: 0,
    }
  }

  /** Tells the newest metric; returns the learning rate from now on. */
  step(metric: number): number {
    const { options } = this
    const value = options.smooth ? this.#smoothed(metric) : metric
    const state = this.state
    if (state.cooldownLeft > 0 || state.warmupLeft > 0) {
      if (state.cooldownLeft > 0) state.cooldownLeft--
      else state.warmupLeft--
      state.badSteps = 0
      state.goodSteps = 0
      return state.learningRate
    }
    if (isBetter(value, state.best, options)) { state.best = value; state.badSteps = 0; state.goodSteps++ } else { state.badSteps++; state.goodSteps = 0 }
    if (state.goodSteps > options.patience) {
      this.#raise()
      this.state.warmupLeft = options.warmup
      this.state.goodSteps = 0
    } else if (state.badSteps > options.patience) {
      this.#lower()
      this.state.cooldownLeft = options.cooldown
      this.state.badSteps = 0
    }
    return this.state.learningRate
  }

  #smoothed(metric: number): number {
    const { window } = this.state
    window.push(metric)
    this.state.windowSum += metric
    if (window.length > this.options.windowSize) this.state.windowSum -= window.shift()!
    return this.state.windowSum / window.length
  }

  #raise(): void {
    const { state, options } = this
    const higher = Math.min(state.learningRate / options.factor, options.maxLr)
    if (higher - state.learningRate > options.eps) state.learningRate = higher
    state.resetLeft = options.resetStart
  }

  /** After `resetStart` reductions that found the rate at its floor, everything starts anew. */
  #lower(): void {
    const { state, options } = this
    const lower = Math.max(state.learningRate * options.factor, options.minLr)
    if (state.learningRate - lower > options.eps) state.learningRate = lower
    if (state.learningRate > options.minLr) return
    state.resetLeft--
    if (state.resetLeft <= 0) this.state = this.#fresh()
  }
}
