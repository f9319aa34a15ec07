import type { AnyRow } from '../../../rewards/index.ts'
import { meanAndDeviation, weightedRewards } from './advantages.ts'
import { rewardedGroups, type GenerationOptions, type RewardedOptions } from './generation.ts'
import type { PromptRow } from '../rollouts/prompts.ts'

/** Mean rewards of answers to each held-out prompt, drawn as in training, always with the same seeds. Rejects with the signal's reason where that aborts. */
export async function measureRewards<Row = AnyRow>(
  generation: RewardedOptions<Row> & Pick<GenerationOptions<Row>, 'rewardWeights'>, prompts: readonly PromptRow<Row>[], numGenerations = 1, signal?: AbortSignal,
): Promise<Record<string, number>> {
  signal?.throwIfAborted()
  const { runner, rewardWeights, sampling } = generation
  const failures = { failed: runner.names.map(() => 0), errors: [] }
  const groups = await rewardedGroups({ ...generation, sampling: { ...sampling, numGenerations, signal } }, prompts, evaluationStep, 0, failures)
  // Answers that were cut off have rewards, too.
  signal?.throwIfAborted()
  const values = Float64Array.from(groups.flatMap((group) => Array.from(group.values)))
  const lengths = groups.flatMap(({ rollouts }) => rollouts.map(({ completionIds }) => completionIds.length))
  return {
    reward: meanAndDeviation(weightedRewards({ values, weights: rewardWeights }))[0],
    ...Object.fromEntries(runner.names.map((name, f) => [`rewards/${name}/mean`, meanAndDeviation(values.filter((_, i) => i % runner.names.length === f))[0]])),
    'completions/meanLength': lengths.reduce((a, b) => a + b, 0) / lengths.length,
  }
}

/** Seeds of evaluation are none of a training step. */
const evaluationStep = 0x7fffffff
