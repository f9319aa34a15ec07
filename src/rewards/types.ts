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

/** A reward function that judges each answer by itself. */
export const rewardEach = <Row = AnyRow>(name: string, judge: (sample: RewardSample<Row>, context: RewardContext) => number | null | Promise<number | null>): RewardFunction<Row> =>
  nameReward(name, (samples, context) => Promise.all(samples.map(async (sample) => judge(sample, context))))
