import { awaitedLater } from '../awaitedLater.ts'
import { ConfigError } from '../errors.ts'
import type { FinishReason } from '../generate/index.ts'
import type { ChatMessage } from '../tokenizers/index.ts'

/** A row of the data, with the columns it came with. */
export type AnyRow = Record<string, unknown>

/** One answer of the model, for a reward function to judge. `row` is the row its prompt came from. */
export interface RewardSample<Row = AnyRow> {
  readonly prompt: string | readonly ChatMessage[]
  /** The answer's text, without special tokens. */
  readonly completion: string
  readonly promptIds: Int32Array
  /** The answer's tokens, the one that ended it included. */
  readonly completionIds: Int32Array
  readonly finishReason: FinishReason
  readonly row: Row
}

/** What a reward function is told beside the samples. */
export interface RewardContext {
  /** Aborted when the call's time is over, or the run. */
  readonly signal: AbortSignal
  /** The optimizer step that the answers were generated for, from 0. */
  readonly step: number
  /**
   * Counts one sample more that the call failed on, and keeps the error for the log; the reward to give for it is null. Where it is there, rewardEach hands
   * errors to it, so that one sample's error leaves the others their rewards.
   */
  readonly failed?: (error: unknown) => void
}

/** @internal A mistake of the reward function itself, which ends the run, where other errors count as no reward. */
export class RewardMistake extends ConfigError {}

/** One number for each sample, in order; null where the function has nothing to say. */
export type RewardValues = readonly (number | null)[]

/**
 * Judges answers. Called with all answers to one prompt at a time, many calls under way together. A call that throws or takes too long counts as null
 * for its samples. The function's `name` names it in logs.
 */
export type RewardFunction<Row = AnyRow> = (samples: readonly RewardSample<Row>[], context: RewardContext) => RewardValues | Promise<RewardValues>

/** The same function under another name. */
export function nameReward<Row>(name: string, reward: RewardFunction<Row>): RewardFunction<Row> {
  const named: RewardFunction<Row> = (samples, context) => reward(samples, context)
  return Object.defineProperty(named, 'name', { value: name })
}

/**
 * A reward function that judges each answer by itself. Where that throws, or is not done when the time is over, the answer has no reward and counts as
 * failed; the others keep theirs.
 */
export function rewardEach<Row = AnyRow>(name: string, judge: (sample: RewardSample<Row>, context: RewardContext) => number | null | Promise<number | null>): RewardFunction<Row> {
  return nameReward(name, async (samples, context) => {
    const { signal, failed } = context
    if (!failed) return Promise.all(samples.map(async (sample) => judge(sample, context)))
    let stop = (): void => undefined
    const stopped = awaitedLater(new Promise<never>((_, reject) => { stop = () => { reject(signal.reason as Error) } }))
    if (signal.aborted) stop()
    signal.addEventListener('abort', stop, { once: true })
    try {
      return await Promise.all(samples.map(async (sample) => {
        try {
          const value = judge(sample, context)
          return value instanceof Promise ? await Promise.race([value, stopped]) : value
        } catch (error) {
          if (error instanceof RewardMistake) throw error
          failed(error)
          return null
        }
      }))
    } finally {
      signal.removeEventListener('abort', stop)
    }
  })
}
