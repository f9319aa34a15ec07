import { awaitedLater } from '../../../awaitedLater.ts'
import { permutation } from '../../../data/index.ts'
import type { CausalLanguageModel } from '../../../models/index.ts'
import type { RewardRunner, RewardSample } from '../../../rewards/index.ts'
import type { Tokenizer } from '../../../tokenizers/index.ts'
import type { TextSample } from '../../../train/task.ts'
import { meanAndDeviation, weightedRewards, type Advantages, type Rewards } from './advantages.ts'
import type { TrainedRollout } from './batch.ts'
import { logprobsOf } from './logprobs.ts'
import type { PromptRow } from '../rollouts/prompts.ts'
import type { Rollout, RolloutOptions } from '../rollouts/rollouts.ts'
import { samplerWeights, type SamplerCorrection } from './samplerCorrection.ts'

/** Everything that one call of the generator gave, before it is cut into micro-batches. */
export interface Generation {
  /** Number of the generation, from 0. */
  readonly index: number
  readonly rollouts: readonly TrainedRollout[]
  readonly metrics: Readonly<Record<string, number>>
  readonly samples: readonly TextSample[]
  readonly warnings: readonly string[]
}

/** Where answers come from: the model itself, a server, or a log of rollouts. */
export type RolloutSource = (prompts: readonly Int32Array[], options: RolloutOptions) => Promise<Rollout[]>

export interface GenerationOptions<Row> {
  model: CausalLanguageModel
  tokenizer: Tokenizer
  prompts: readonly PromptRow<Row>[]
  runner: RewardRunner<Row>
  rewardWeights: readonly number[]
  source: RolloutSource
  sampling: Omit<RolloutOptions, 'step' | 'firstPrompt' | 'onGroup'> & { numGenerations: number; maxCompletionLength: number; temperature: number }
  /** Prompts of a generation. */
  promptsPerGeneration: number
  /** Rounds of further prompts in place of those whose answers all have the same reward; 0 keeps them. */
  dynamicSamplingRounds: number
  maskTruncatedCompletions: boolean
  /** Another order in each epoch, or the data's own. Default true. */
  shuffle?: boolean
  /** Whether another engine samples, whose log-probabilities are not the policy's. */
  isForeign?: boolean
  /** Weighs what another engine sampled. */
  correction?: SamplerCorrection | null
  /** Rows of a forward pass for log-probabilities of the old and the reference policy. */
  batchSize: number
  needsOld: boolean
  /** Whether the KL to the reference is part of the reward, and so logged here. */
  klInReward: boolean
  /** Runs a forward pass as the reference; undefined where there is none. */
  reference?: (<T>(body: (model: CausalLanguageModel) => T) => T) | undefined
  advantages: (rewards: Rewards, kl: Float64Array | undefined) => Promise<Advantages>
  samplesToLog: number
  onGeneration?: ((step: number, groups: readonly Group<Row>[], rollouts: readonly TrainedRollout[]) => Promise<void>) | undefined
}

/** What rewarded answers are made with. */
export type RewardedOptions<Row> = Pick<GenerationOptions<Row>, 'runner' | 'source' | 'sampling'>

/** The answers to one prompt, with their rewards [answers × functions]. */
export interface Group<Row> {
  readonly prompt: PromptRow<Row>
  readonly rollouts: readonly Rollout[]
  readonly values: Float64Array
}

/** Streams of permutations, beside those of epochs, which count from 0. */
const refillStream = 0x40000000
const shuffleStream = 0x80000000

/** Makes generation number `index`, a function of the seed, the number, the step and the weights. */
export async function makeGeneration<Row>(options: GenerationOptions<Row>, index: number, step: number): Promise<Generation> {
  const begin = performance.now()
  const sampled = await sampleGroups(options, index, step)
  const rolloutSeconds = (performance.now() - begin) / 1000
  const { groups } = sampled
  const { model, runner, rewardWeights, sampling, reference, needsOld, batchSize } = options
  const rollouts = groups.flatMap((group) => group.rollouts)
  const values = Float64Array.from(groups.flatMap((group) => Array.from(group.values)))
  const counted = rollouts.map((rollout) => options.maskTruncatedCompletions && rollout.finishReason === 'length' ? new Uint8Array(rollout.mask.length) : rollout.mask)
  const pass = { temperature: sampling.temperature, bf16: sampling.bf16 ?? false, batchSize }
  // What was recorded is the model's own log p at temperature 1, to the bit.
  const recordedIsOld = !options.isForeign && sampling.temperature === 1 && !rollouts.some(({ logprobs }) => logprobs.some(Number.isNaN))
  const old = !needsOld ? null : recordedIsOld ? rollouts.map(({ logprobs }) => logprobs) : await logprobsOf(model, rollouts, pass)
  const correction = options.isForeign ? options.correction : null
  const weights = correction && old ? rollouts.map(({ logprobs }, i) => samplerWeights(old[i]!, logprobs, counted[i]!, correction)) : null
  const atReference = reference ? await logprobsOf(model, rollouts, pass, reference) : null
  const kl = old && atReference ? Float64Array.from(rollouts, (_, i) => counted[i]!.reduce((sum, one, t) => sum + one * (old[i]![t]! - atReference[i]![t]!), 0)) : undefined
  const result = await options.advantages({ values, weights: rewardWeights, numGenerations: sampling.numGenerations }, kl)
  const trained = rollouts.map((rollout, i): TrainedRollout => ({ rollout, advantage: result.advantages[i]!, counted: counted[i]!, old: old?.[i] ?? null, reference: atReference?.[i] ?? null, weights: weights?.[i] ?? null }))
  await options.onGeneration?.(step, groups, trained)
  return {
    index, rollouts: shuffled(trained, sampling.seed, index),
    metrics: {
      ...rewardMetrics(runner.names, values, result, groups.length), ...lengthMetrics(rollouts),
      ...Object.fromEntries(runner.names.map((name, f) => [`rewards/${name}/failed`, sampled.failed[f]!])),
      ...(options.dynamicSamplingRounds > 0 ? { 'dynamicSampling/rounds': sampled.rounds, 'dynamicSampling/droppedGroups': sampled.dropped } : {}),
      ...(kl && options.klInReward ? { kl: kl.reduce((a, b) => a + b, 0) / kl.length } : {}),
      ...(weights ? weightMetrics(weights, counted) : {}),
      rolloutTokensPerSecond: rollouts.reduce((sum, { completionIds }) => sum + completionIds.length, 0) / Math.max(rolloutSeconds, 1e-9),
    },
    samples: samplesOf(groups, runner.names, options.samplesToLog),
    warnings: warningsOf(runner.names, sampled, result, groups.length),
  }
}

/** Of each reward function: answers it failed on, and the first error. */
export interface Failures { failed: number[], errors: (string | undefined)[] }

/** A share that fails is a number in the log; all failing is worth a word. */
function warningsOf(names: readonly string[], { failed, errors, answers }: Failures & { answers: number }, { rewards, withoutSpread }: Advantages, groups: number): string[] {
  return [
    ...names.flatMap((name, f) => failed[f]! >= answers ? [`reward function ${name} failed for every answer, which count as having no reward from it: ${errors[f] ?? ''}`] : []),
    ...(rewards.every(Number.isNaN) ? ['no answer has a reward, so this generation teaches nothing; a reward function gives null, or an environment no reward, where there is nothing to judge']
      : withoutSpread === groups ? ['the rewards of every group are all alike, so this generation teaches nothing; make the task easier or harder, raise numGenerations, or set dynamicSamplingRounds'] : []),
  ]
}

const isAlike = (values: Float64Array, weights: readonly number[]): boolean => {
  const given = weightedRewards({ values, weights }).filter((one) => !Number.isNaN(one))
  return given.every((one) => Math.abs(one - given[0]!) <= 1e-8)
}

/** Generates until there are enough groups whose rewards differ, or no rounds are left; groups dropped before then fill what is missing. */
async function sampleGroups<Row>(options: GenerationOptions<Row>, index: number, step: number): Promise<Failures & { groups: Group<Row>[], rounds: number, dropped: number, answers: number }> {
  const { prompts, promptsPerGeneration, dynamicSamplingRounds, runner, rewardWeights } = options
  const first = promptsOf(prompts, promptsPerGeneration, options.sampling.seed, index, options.shuffle ?? true)
  const used = new Set(first)
  const spare = dynamicSamplingRounds > 0 ? Array.from(permutation(prompts.length, options.sampling.seed, 'shuffle', refillStream + index), (i) => prompts[i]!).filter((one) => !used.has(one)) : []
  const failures: Failures = { failed: runner.names.map(() => 0), errors: [] }
  const [kept, dropped]: [Group<Row>[], Group<Row>[]] = [[], []]
  let [next, asked, rounds] = [first, 0, 0]
  for (;;) {
    const made = await rewardedGroups(options, next, step, asked, failures)
    asked += next.length
    for (const group of made) (dynamicSamplingRounds > 0 && isAlike(group.values, rewardWeights) ? dropped : kept).push(group)
    const missing = promptsPerGeneration - kept.length
    if (missing === 0 || rounds === dynamicSamplingRounds || spare.length === 0) return { groups: [...kept, ...dropped.slice(0, missing)], ...failures, rounds, dropped: dropped.length, answers: asked * options.sampling.numGenerations }
    next = spare.splice(0, missing)
    rounds++
  }
}

/** The prompts of a generation: chunks of a permutation of the data, the last incomplete one left out. */
function promptsOf<T>(prompts: readonly T[], count: number, seed: number, index: number, shuffle: boolean): T[] {
  const chunks = Math.floor(prompts.length / count)
  const at = (index % chunks) * count
  if (!shuffle) return prompts.slice(at, at + count)
  const order = permutation(prompts.length, seed, 'shuffle', Math.floor(index / chunks))
  return Array.from(order.subarray(at, at + count), (i) => prompts[i]!)
}

/** Rewards are asked for as soon as a group is finished, while others are still generated. */
export async function rewardedGroups<Row>({ runner, source, sampling }: RewardedOptions<Row>, prompts: readonly PromptRow<Row>[], step: number, firstPrompt: number, { failed, errors }: Failures): Promise<Group<Row>[]> {
  const pending: Promise<Group<Row>>[] = []
  const score = async (rollouts: readonly Rollout[]): Promise<Group<Row>> => {
    const prompt = prompts[rollouts[0]!.prompt]!
    const table = await runner.score(rollouts.map((rollout) => sampleOf(rollout, prompt)), { step, signal: sampling.signal })
    table.failed.forEach((count, f) => {
      failed[f]! += count
      errors[f] ??= table.errors[f]
    })
    return { prompt, rollouts, values: table.values }
  }
  await source(prompts.map(({ promptIds }) => promptIds), {
    ...sampling, step, firstPrompt,
    onGroup: (rollouts) => {
      pending[rollouts[0]!.prompt] = awaitedLater(score(rollouts))
    },
  })
  return Promise.all(pending)
}

const sampleOf = <Row>({ promptIds, completionIds, text, finishReason }: Rollout, { prompt, row }: PromptRow<Row>): RewardSample<Row> =>
  ({ prompt, completion: text, promptIds, completionIds, finishReason, row })

/** So that the answers to one prompt are spread over the micro-batches. */
const shuffled = <T>(values: readonly T[], seed: number, index: number): T[] => Array.from(permutation(values.length, seed, 'shuffle', shuffleStream + index), (i) => values[i]!)

/** What no answer has a number for is left out: a mean of nothing would spoil the mean of the steps that are logged together. */
function rewardMetrics(names: readonly string[], values: Float64Array, { rewards, withoutSpread }: Advantages, groups: number): Record<string, number> {
  const [reward, rewardStd] = meanAndDeviation(rewards)
  const perFunction = names.flatMap((name, f) => {
    const [mean, std] = meanAndDeviation(values.filter((_, i) => i % names.length === f))
    return [[`rewards/${name}/mean`, mean], [`rewards/${name}/std`, std]] as const
  })
  const metrics = [['reward', reward], ['rewardStd', Number.isNaN(reward) || !Number.isNaN(rewardStd) ? rewardStd : 0], ...perFunction, ['fracRewardZeroStd', withoutSpread / groups]] as const
  return Object.fromEntries(metrics.filter(([, value]) => !Number.isNaN(value)))
}

/** The weights of tokens that count. */
function weightMetrics(weights: readonly Float32Array[], counted: readonly Uint8Array[]): Record<string, number> {
  const values = weights.flatMap((row, i) => Array.from(row).filter((_, t) => counted[i]![t]))
  if (values.length === 0) return {}
  const [least, most] = values.reduce<[number, number]>(([low, high], one) => [Math.min(low, one), Math.max(high, one)], [Infinity, -Infinity])
  return { 'importanceSamplingRatio/min': least, 'importanceSamplingRatio/mean': values.reduce((a, b) => a + b, 0) / values.length, 'importanceSamplingRatio/max': most }
}

export function lengthMetrics(rollouts: readonly Rollout[]): Record<string, number> {
  const lengths = rollouts.map(({ completionIds }) => completionIds.length)
  const terminated = rollouts.flatMap(({ completionIds, finishReason }) => finishReason === 'length' ? [] : [completionIds.length])
  const mean = (of: readonly number[]): number => of.length === 0 ? 0 : of.reduce((a, b) => a + b, 0) / of.length
  return {
    'completions/meanLength': mean(lengths), 'completions/minLength': Math.min(...lengths), 'completions/maxLength': Math.max(...lengths),
    'completions/clippedRatio': 1 - terminated.length / rollouts.length, 'completions/meanTerminatedLength': mean(terminated),
  }
}

const textOf = (prompt: PromptRow<unknown>['prompt']): string => typeof prompt === 'string' ? prompt : prompt.map(({ role, content }) => `${role}: ${typeof content === 'string' ? content : JSON.stringify(content)}`).join('\n')

export function samplesOf<Row>(groups: readonly Group<Row>[], names: readonly string[], count: number): TextSample[] {
  return groups.slice(0, count).map(({ prompt, rollouts, values }) => ({
    prompt: textOf(prompt.prompt), text: rollouts[0]!.text,
    rewards: Object.fromEntries(names.map((name, f) => [name, Number.isNaN(values[f]!) ? null : values[f]!])),
  }))
}
