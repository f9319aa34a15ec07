// Proves every learning-rate schedule equal to transformers' recorded values, and its options' errors.
import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { ConfigError } from '../../src/errors.ts'
import { createAdaptiveSchedule, createSchedule, isAdaptive, lrSchedulerTypes, warmupStepsOf, type LrSchedulerOptions, type LrSchedulerType, type AdaptiveLrSchedulerType } from '../../src/optim/schedules.ts'

type FixedType = Exclude<LrSchedulerType, AdaptiveLrSchedulerType>
interface Recorded {
  lr: number
  fixed: { name: FixedType, warmup: number, total: number, kwargs: Record<string, unknown> | null, steps: number[], multipliers: number[] }[]
  adaptive: { name: AdaptiveLrSchedulerType, kwargs: Record<string, unknown>, metrics: number[], rates: number[] }[]
}
const { lr, fixed, adaptive } = JSON.parse(readFileSync(new URL('../recorded/schedules/recorded.json', import.meta.url), 'utf8')) as Recorded

const camel = (kwargs: Record<string, unknown> | null) =>
  Object.fromEntries(Object.entries(kwargs ?? {}).map(([key, value]) => [key.replace(/_(\w)/g, (_, c: string) => c.toUpperCase()), value]))

const close = (got: number, expected: number) => Math.abs(got - expected) <= 1e-12 * Math.max(Math.abs(expected), 1e-4)

describe('schedules of the step', () => {
  it.each(fixed.map((record) => [`${record.name} ${record.warmup}/${record.total} ${JSON.stringify(record.kwargs)}`, record] as const))('%s', (_, record) => {
    const options = { lrSchedulerType: record.name, lrSchedulerKwargs: camel(record.kwargs), warmupSteps: record.warmup } as LrSchedulerOptions<FixedType>
    const schedule = createSchedule(options, { totalSteps: record.total, learningRate: lr })
    const wrong = record.steps.flatMap((step, i) => (close(schedule(step), record.multipliers[i]!) ? [] : [{ step, got: schedule(step), expected: record.multipliers[i] }]))
    expect(wrong).toEqual([])
  })

  it('covers every type transformers has', () => {
    expect(new Set([...fixed, ...adaptive].map((record) => record.name))).toEqual(new Set(lrSchedulerTypes))
    expect(lrSchedulerTypes.filter(isAdaptive)).toEqual(['reduce_lr_on_plateau', 'greedy'])
  })

  it('ends a polynomial that is all warmup at its end rate', () => {
    const schedule = createSchedule({ lrSchedulerType: 'polynomial', warmupSteps: 10, lrSchedulerKwargs: { lrEnd: 1e-5 } }, { totalSteps: 10, learningRate: 1e-4 })
    expect(schedule(9)).toBe(0.9)
    expect(schedule(10)).toBeCloseTo(0.1, 15)
  })
})

describe('schedules of a metric', () => {
  it.each(adaptive.map((record, i) => [i, record] as const))('record %i, also when saved and resumed at every step', (_, { name, kwargs, metrics, rates }) => {
    const options = { lrSchedulerType: name, lrSchedulerKwargs: camel(kwargs) } as LrSchedulerOptions<AdaptiveLrSchedulerType>
    const straight = createAdaptiveSchedule(options, lr)
    let resumed = createAdaptiveSchedule(options, lr)
    metrics.forEach((metric, i) => {
      expect(Math.abs(straight.step(metric) - rates[i]!), `step ${i}`).toBeLessThanOrEqual(1e-12 * rates[i]!)
      resumed.step(metric)
      const saved = JSON.parse(JSON.stringify(resumed.state)) as never
      resumed = createAdaptiveSchedule(options, lr)
      resumed.state = saved
      expect(resumed.learningRate).toBe(straight.learningRate)
    })
  })

  it('counts NaN as no improvement', () => {
    const schedule = createAdaptiveSchedule({ lrSchedulerType: 'reduce_lr_on_plateau', lrSchedulerKwargs: { patience: 0 } }, 1)
    expect(schedule.step(NaN)).toBe(0.1)
    expect(schedule.step(5)).toBe(0.1)
  })
})

describe('warmup', () => {
  it.each([
    [{}, 100, 0], [{ warmupSteps: 7 }, 100, 7], [{ warmupSteps: 7.9 }, 100, 7], [{ warmupSteps: 0.03 }, 100, 3], [{ warmupSteps: 0.031 }, 100, 4], [{ warmupRatio: 0.1 }, 55, 6],
    [{ warmupSteps: 5, warmupRatio: 0.5 }, 100, 5], [{ warmupRatio: 1 }, 9, 9],
  ])('%o of %i steps is %i', (options, total, steps) => { expect(warmupStepsOf(options, total)).toBe(steps) })
})

describe('wrong options', () => {
  const make = (options: unknown) => () => createSchedule(options as LrSchedulerOptions<FixedType>, { totalSteps: 10, learningRate: 1e-3 })
  it.each<[unknown, RegExp]>([
    [{ lrSchedulerType: 'cosin' }, /unknown schedule "cosin"; did you mean "cosine"\?/],
    [{ lrSchedulerType: '__proto__' }, /unknown schedule/],
    [{ lrSchedulerType: 'cosine', lrSchedulerKwargs: { numCycle: 1 } }, /did you mean "numCycles"\?/],
    [{ lrSchedulerType: 'linear', lrSchedulerKwargs: { power: 1 } }, /linear knows none/],
    [{ lrSchedulerType: 'cosine', lrSchedulerKwargs: { numCycles: 'two' } }, /lrSchedulerKwargs\.numCycles: .*number/],
    [{ lrSchedulerType: 'cosine_with_min_lr' }, /needs one of minLr and minLrRate, got neither/],
    [{ lrSchedulerType: 'cosine_with_min_lr', lrSchedulerKwargs: { minLr: 0, minLrRate: 0 } }, /got both/],
    [{ lrSchedulerType: 'warmup_stable_decay' }, /lrSchedulerKwargs\.numDecaySteps/],
    [{ lrSchedulerType: 'polynomial', lrSchedulerKwargs: { lrEnd: 1 } }, /lrEnd: expected less than learningRate \(0\.001\), got 1/],
    [{ lrSchedulerType: 'greedy' }, /createAdaptiveSchedule/],
    [{ lrSchedulerType: 'linear', warmupSteps: -1 }, /warmupSteps/],
    [{ lrSchedulerType: 'linear', warmupSteps: NaN }, /warmupSteps/],
    [{ lrSchedulerType: 'linear', warmupRatio: 2 }, /warmupRatio: expected a number from 0 to 1, got 2/],
  ])('%o', (options, message) => {
    expect(make(options)).toThrow(ConfigError)
    expect(make(options)).toThrow(message)
  })
})
