import type { RewardRunner, RewardSample } from '../../../rewards/index.ts'
import type { SampledAnswer } from '../rollouts/answers.ts'
import type { PromptRow } from '../rollouts/prompts.ts'

/** Rewards of one answer by function, and what they and the environment come to; null where nobody judged it. */
export interface Score { byName: Record<string, number | null>; total: number | null }

/** Judges answers: the weighted sum of what reward functions give, and what the environment gave. Functions that failed are named in `errors`. */
export async function scoresOf(
  answers: readonly SampledAnswer[], prompts: readonly PromptRow[], runner: RewardRunner | null, rewardWeights: readonly number[] | undefined, step: number,
): Promise<{ scores: Score[]; errors: string[] }> {
  const tables = runner === null ? [] : await Promise.all(answers.map((answer) => {
    const { prompt, row } = prompts[answer.prompt]!
    const { text: completion, promptIds, completionIds, finishReason } = answer
    const sample: RewardSample = { prompt, completion, promptIds, completionIds, finishReason, row }
    return runner.score([sample], { step })
  }))
  const names = runner?.names ?? []
  const scores = answers.map(({ reward }, i) => {
    const byName: Record<string, number | null> = {}
    let total = reward
    names.forEach((name, f) => {
      const value = tables[i]!.values[f]!
      byName[name] = Number.isNaN(value) ? null : value
      if (!Number.isNaN(value)) total = (total ?? 0) + (rewardWeights?.[f] ?? 1) * value
    })
    if (reward !== null) byName['environment'] = reward
    return { byName, total }
  })
  const errors = tables.flatMap((table) => table.errors.flatMap((error, f) => (error === undefined ? [] : [`reward function ${names[f]!}: ${error}`])))
  return { scores, errors: [...new Set(errors)] }
}
