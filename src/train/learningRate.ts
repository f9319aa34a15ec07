import { ConfigError } from '../errors.ts'
import { createAdaptiveSchedule, createSchedule, isAdaptive } from '../optim/schedules.ts'
import type { LrSchedulerOptions, LrSchedulerType } from '../optim/schedules.ts'
import type { TrainingArguments } from './options.ts'

/** The learning rate of a run: a function of the step, or one that follows the evaluation metric. */
export interface LearningRate {
  at(step: number): number
  /** Tells an evaluation's metric. */
  evaluated(metric: number): void
  /** What a checkpoint must hold. */
  state(): unknown
  restore(state: unknown): void
}

export function createLearningRate(options: TrainingArguments, totalSteps: number): LearningRate {
  const { learningRate, lrSchedulerType, lrSchedulerKwargs, warmupSteps, warmupRatio } = options
  const scheduler = { lrSchedulerType, lrSchedulerKwargs, warmupSteps, warmupRatio } as LrSchedulerOptions
  if (isAdaptive(lrSchedulerType)) {
    if (options.evalStrategy === 'no') throw new ConfigError(`lrSchedulerType: "${lrSchedulerType}" follows an evaluation metric; set evalStrategy`)
    const adaptive = createAdaptiveSchedule(scheduler as Parameters<typeof createAdaptiveSchedule>[0], learningRate)
    return {
      at: () => adaptive.learningRate,
      evaluated: (metric) => { adaptive.step(metric) },
      state: () => adaptive.state,
      restore: (state) => { adaptive.state = state as never },
    }
  }
  type Fixed = Exclude<LrSchedulerType, 'reduce_lr_on_plateau' | 'greedy'>
  const multiplier = createSchedule(scheduler as LrSchedulerOptions<Fixed>, { totalSteps, learningRate })
  return { at: (step) => learningRate * multiplier(step), evaluated: () => undefined, state: () => null, restore: () => undefined }
}
