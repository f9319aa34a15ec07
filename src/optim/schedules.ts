import { z } from 'zod'
import { ConfigError } from '../errors.ts'
import { lazily } from '../options.ts'
import { didYouMean } from '../suggest.ts'
import { GreedySchedule, PlateauSchedule, greedyKwargs, plateauKwargs } from './adaptive-schedules.ts'

/** The learning rate at `step` (0 is before the first update) as a multiple of `learningRate`. */
export type Schedule = (step: number) => number

const none = lazily(() => z.strictObject({}))
const cycles = lazily(() => z.number().positive())
const minLr = lazily(() => ({ minLr: z.number().min(0).optional(), minLrRate: z.number().min(0).max(1).optional() }))
const curve = lazily(() => z.enum(['linear', 'cosine', '1-sqrt']))

/** What `lrSchedulerKwargs` may hold, by schedule; names and defaults are transformers', in camelCase. */
const lrSchedulerKwargsSchemas = {
  linear: none,
  /** `numCycles`: waves, 0.5 falls once from the peak to 0. */
  cosine: lazily(() => z.strictObject({ numCycles: cycles.default(0.5) })),
  /** `numCycles`: hard restarts. */
  cosine_with_restarts: lazily(() => z.strictObject({ numCycles: cycles.default(1) })),
  /** `lrEnd`: the rate at the end, not a ratio. */
  polynomial: lazily(() => z.strictObject({ lrEnd: z.number().min(0).default(1e-7), power: z.number().positive().default(1) })),
  constant: none,
  constant_with_warmup: none,
  /** `timescale`: default the warmup, or 10,000 without one. */
  inverse_sqrt: lazily(() => z.strictObject({ timescale: z.number().positive().optional() })),
  /** One of `minLr` (a rate) and `minLrRate` (a share of `learningRate`). */
  cosine_with_min_lr: lazily(() => z.strictObject({ numCycles: cycles.default(0.5), ...minLr })),
  /** As cosine_with_min_lr; the warmup starts at `warmupLrRate`, a share of `learningRate`, default one step's worth. */
  cosine_warmup_with_min_lr: lazily(() => z.strictObject({ numCycles: cycles.default(0.5), ...minLr, warmupLrRate: z.number().min(0).max(1).optional() })),
  /** WSD: warmup, stable, decay. `numStableSteps` default: what warmup and decay leave of all steps. */
  warmup_stable_decay: lazily(() => z.strictObject({
    numDecaySteps: z.int().min(0), numStableSteps: z.int().min(0).optional(), warmupType: curve.default('linear'), decayType: curve.default('cosine'),
    minLrRatio: z.number().min(0).max(1).default(0), numCycles: cycles.default(0.5),
  })),
  reduce_lr_on_plateau: plateauKwargs,
  greedy: greedyKwargs,
} as const

/** The name of a learning-rate schedule, one of `lrSchedulerTypes`. */
export type LrSchedulerType = keyof typeof lrSchedulerKwargsSchemas
/** The schedules that follow a metric instead of the step. */
export type AdaptiveLrSchedulerType = 'reduce_lr_on_plateau' | 'greedy'
type Kwargs<T extends LrSchedulerType> = z.input<(typeof lrSchedulerKwargsSchemas)[T]>

/** The names of the learning-rate schedules; transformers' SchedulerType. */
export const lrSchedulerTypes = Object.keys(lrSchedulerKwargsSchemas) as LrSchedulerType[]

/** A schedule and its parameters; `lrSchedulerType` decides which `lrSchedulerKwargs` there are. */
export type LrSchedulerOptions<T extends LrSchedulerType = LrSchedulerType> = { [K in T]: {
  lrSchedulerType: K
  lrSchedulerKwargs?: Kwargs<K> | undefined
} & WarmupOptions }[T]

export interface WarmupOptions {
  /** Steps of warmup; below 1 a share of all steps, as in transformers 5. */
  warmupSteps?: number | undefined
  /** Share of all steps, rounded up; used when `warmupSteps` is 0 or not given. */
  warmupRatio?: number | undefined
}

/** Whole steps of warmup, as transformers' `get_warmup_steps`. */
export function warmupStepsOf({ warmupSteps = 0, warmupRatio = 0 }: WarmupOptions, totalSteps: number): number {
  if (!(warmupSteps >= 0 && Number.isFinite(warmupSteps))) throw new ConfigError(`warmupSteps: expected a number of steps from 0, or a share below 1, got ${warmupSteps}`)
  if (!(warmupRatio >= 0 && warmupRatio <= 1)) throw new ConfigError(`warmupRatio: expected a number from 0 to 1, got ${warmupRatio}`)
  if (warmupSteps >= 1) return Math.trunc(warmupSteps)
  return Math.ceil(totalSteps * (warmupSteps || warmupRatio))
}

function parseKwargs<T extends LrSchedulerType>(type: T, kwargs: unknown): z.output<(typeof lrSchedulerKwargsSchemas)[T]> {
  if (!Object.hasOwn(lrSchedulerKwargsSchemas, type)) {
    throw new ConfigError(`lrSchedulerType: unknown schedule "${type}"${didYouMean(type, lrSchedulerTypes)}; expected one of ${lrSchedulerTypes.join(', ')}`)
  }
  const schema = lrSchedulerKwargsSchemas[type]
  const parsed = schema.safeParse(kwargs ?? {})
  if (parsed.success) return parsed.data as z.output<(typeof lrSchedulerKwargsSchemas)[T]>
  const issue = parsed.error.issues[0]!
  const known = Object.keys(schema.shape)
  const hint = issue.code === 'unrecognized_keys' ? didYouMean(issue.keys[0]!, known) || `; ${type} knows ${known.join(', ') || 'none'}` : ''
  throw new ConfigError(`${['lrSchedulerKwargs', ...issue.path].join('.')}: ${issue.message} (${type})${hint}`, { cause: parsed.error })
}

export const isAdaptive = (type: LrSchedulerType): type is AdaptiveLrSchedulerType => type === 'reduce_lr_on_plateau' || type === 'greedy'

/**
 * The schedule as a pure function of the step, equal to transformers 5's `get_scheduler` lambda.
 * `learningRate` is the peak; only schedules with an absolute end rate (polynomial, minLr) use it.
 */
export function createSchedule(
  options: LrSchedulerOptions<Exclude<LrSchedulerType, AdaptiveLrSchedulerType>>, run: { totalSteps: number, learningRate: number },
): Schedule {
  const total = run.totalSteps
  const warmup = warmupStepsOf(options, total)
  const { lrSchedulerType: type, lrSchedulerKwargs } = options
  const warming = (after: Schedule): Schedule => (step) => (step < warmup ? step / Math.max(1, warmup) : after(step))
  const progress = (step: number) => (step - warmup) / Math.max(1, total - warmup)
  switch (type) {
    case 'constant':
      parseKwargs(type, lrSchedulerKwargs)
      return () => 1
    case 'constant_with_warmup':
      parseKwargs(type, lrSchedulerKwargs)
      return warming(() => 1)
    case 'linear':
      parseKwargs(type, lrSchedulerKwargs)
      return warming((step) => Math.max(0, (total - step) / Math.max(1, total - warmup)))
    case 'cosine': {
      const { numCycles } = parseKwargs(type, lrSchedulerKwargs)
      return warming((step) => Math.max(0, wave(numCycles, progress(step))))
    }
    case 'cosine_with_restarts': {
      const { numCycles } = parseKwargs(type, lrSchedulerKwargs)
      return warming((step) => (progress(step) >= 1 ? 0 : Math.max(0, 0.5 * (1 + Math.cos(Math.PI * ((numCycles * progress(step)) % 1))))))
    }
    case 'polynomial': {
      const { lrEnd, power } = parseKwargs(type, lrSchedulerKwargs)
      if (!(run.learningRate > lrEnd)) throw new ConfigError(`lrSchedulerKwargs.lrEnd: expected less than learningRate (${run.learningRate}), got ${lrEnd}`)
      const end = lrEnd / run.learningRate
      return warming((step) => {
        if (step > total || total === warmup) return end
        return ((run.learningRate - lrEnd) * (1 - (step - warmup) / (total - warmup)) ** power + lrEnd) / run.learningRate
      })
    }
    case 'inverse_sqrt': {
      const timescale = parseKwargs(type, lrSchedulerKwargs).timescale ?? (warmup || 10_000)
      return warming((step) => 1 / Math.sqrt((step + timescale - warmup) / timescale))
    }
    case 'cosine_with_min_lr': {
      const kwargs = parseKwargs(type, lrSchedulerKwargs)
      const floor = minLrRateOf(type, kwargs, run.learningRate)
      return warming((step) => Math.max(0, wave(kwargs.numCycles, progress(step)) * (1 - floor) + floor))
    }
    case 'cosine_warmup_with_min_lr': {
      const kwargs = parseKwargs(type, lrSchedulerKwargs)
      const floor = minLrRateOf(type, kwargs, run.learningRate)
      const { warmupLrRate: start } = kwargs
      return (step) => {
        if (step < warmup) return start === undefined ? (step + 1) / Math.max(1, warmup) : start + ((1 - start) * step) / Math.max(1, warmup - 1)
        return Math.max(0, wave(kwargs.numCycles, (step - warmup + 1) / Math.max(1, total - warmup)) * (1 - floor) + floor)
      }
    }
    case 'warmup_stable_decay':
      return warmupStableDecay(parseKwargs(type, lrSchedulerKwargs), warmup, total)
    default:
      parseKwargs(type, lrSchedulerKwargs)
      throw new ConfigError(`lrSchedulerType: "${String(type)}" follows a metric; make it with createAdaptiveSchedule`)
  }
}

/** 0.5 (1 + cos(2π cycles progress)): 1 at the start, 0 after half a cycle. */
const wave = (cycles: number, progress: number): number => 0.5 * (1 + Math.cos(Math.PI * cycles * 2 * progress))

function minLrRateOf(type: string, { minLr, minLrRate }: { minLr?: number | undefined, minLrRate?: number | undefined }, learningRate: number): number {
  if ((minLr === undefined) === (minLrRate === undefined)) {
    throw new ConfigError(`lrSchedulerKwargs: ${type} needs one of minLr and minLrRate, got ${minLr === undefined ? 'neither' : 'both'}`)
  }
  return minLrRate ?? minLr! / learningRate
}

function warmupStableDecay(kwargs: z.output<typeof lrSchedulerKwargsSchemas.warmup_stable_decay>, warmup: number, total: number): Schedule {
  const { numDecaySteps, warmupType, decayType, minLrRatio, numCycles } = kwargs
  const stableEnd = warmup + (kwargs.numStableSteps ?? total - warmup - numDecaySteps)
  const above = (factor: number) => Math.max(0, factor * (1 - minLrRatio) + minLrRatio)
  const rise = { 'linear': (p: number) => p, 'cosine': (p: number) => 0.5 * (1 - Math.cos(Math.PI * p)), '1-sqrt': (p: number) => 1 - Math.sqrt(1 - p) }[warmupType]
  const fall = { 'linear': (p: number) => 1 - p, 'cosine': (p: number) => wave(numCycles, p), '1-sqrt': (p: number) => 1 - Math.sqrt(p) }[decayType]
  return (step) => {
    if (step < warmup) return above(rise(step / Math.max(1, warmup)))
    if (step < stableEnd) return 1
    if (step < stableEnd + numDecaySteps) return above(fall((step - stableEnd) / Math.max(1, numDecaySteps)))
    return minLrRatio
  }
}

/** The schedule that follows a metric: call `step(metric)` after each evaluation and use `learningRate`. */
export function createAdaptiveSchedule(options: LrSchedulerOptions<AdaptiveLrSchedulerType>, learningRate: number): PlateauSchedule | GreedySchedule {
  return options.lrSchedulerType === 'greedy'
    ? new GreedySchedule(learningRate, parseKwargs('greedy', options.lrSchedulerKwargs))
    : new PlateauSchedule(learningRate, parseKwargs('reduce_lr_on_plateau', options.lrSchedulerKwargs))
}
