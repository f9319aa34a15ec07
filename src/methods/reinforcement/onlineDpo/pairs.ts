import type { CompletionExample, PairExample } from '../../../data/index.ts'
import { weightedRewards } from '../policy/advantages.ts'
import type { Group } from '../policy/generation.ts'
import type { Rollout } from '../rollouts/rollouts.ts'

/** Two answers to a prompt, the better first. */
export interface RankedPair extends PairExample {
  /** Scores of the two, less the penalty; NaN where no function judged one. */
  readonly chosenScore: number
  readonly rejectedScore: number
}

export interface RankOptions {
  rewardWeights: readonly number[]
  missingEosPenalty?: number | undefined
  maxLength: number
}

/** Whether an answer ended by itself. */
export const isEnded = ({ finishReason }: Rollout): boolean => finishReason === 'stop' || finishReason === 'stopString'

/** Prompt and answer; a prompt that is too long loses its beginning, as TRL's, but for one token, which predicts the answer's first. */
export function exampleOf({ promptIds, completionIds }: Rollout, maxLength: number): CompletionExample {
  const promptLength = Math.min(promptIds.length, Math.max(maxLength - completionIds.length, 1))
  return { inputIds: Int32Array.of(...promptIds.subarray(promptIds.length - promptLength), ...completionIds), promptLength }
}

/** Which of a prompt's two answers is better by the weighted sum of its rewards; of equal ones the first. */
export function rankedPair<Row>({ rollouts, values }: Group<Row>, { rewardWeights, missingEosPenalty = 0, maxLength }: RankOptions): RankedPair {
  const scores = weightedRewards({ values, weights: rewardWeights }).map((score, i) => score - (isEnded(rollouts[i]!) ? 0 : missingEosPenalty))
  const [better, worse] = scores[1]! > scores[0]! ? [1, 0] : [0, 1]
  return { chosen: exampleOf(rollouts[better]!, maxLength), rejected: exampleOf(rollouts[worse]!, maxLength), margin: undefined, chosenScore: scores[better]!, rejectedScore: scores[worse]! }
}
