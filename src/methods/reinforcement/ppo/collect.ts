import { awaitedLater } from '../../../awaitedLater.ts'
import { DataError } from '../../../errors.ts'
import type { CausalLanguageModel } from '../../../models/index.ts'
import { chosenLogprobs, type PolicyWithValue } from '../../../models/valueHead.ts'
import type { RewardRunner } from '../../../rewards/index.ts'
import { autocast, noGrad, scope, type TypedArray } from '../../../tensor/index.ts'
import type { TextSample } from '../../../train/index.ts'
import type { SampledAnswer } from '../rollouts/answers.ts'
import { klOf, ppoAdvantages } from './advantages.ts'
import { dealt, layout, type PpoRow } from './batch.ts'
import type { PpoSettings } from './options.ts'
import { scoresOf, type Score } from './scores.ts'
import type { PromptRow } from '../rollouts/prompts.ts'

export interface CollectOptions {
  policy: PolicyWithValue
  /** null where nothing is compared with it. */
  reference: CausalLanguageModel | null
  /** null where the environment gives all rewards. */
  rewards: RewardRunner | null
  settings: PpoSettings
  /** Weight of the KL penalty. */
  klCoefficient: number
  bf16: boolean
  /** Answers in one forward pass. */
  batchSize: number
}

export interface Collected {
  rows: PpoRow[]
  metrics: Record<string, number>
  samples: TextSample[]
  warnings: string[]
  /** Mean KL of an answer, the sum over its tokens. */
  kl: number
}

interface Evaluated { logprobs: Float32Array; values: Float32Array; reference: Float32Array }

/** Log-probabilities and values of answers under the policy that wrote them, and under the reference. */
async function evaluate(answers: readonly SampledAnswer[], { policy, reference, settings, bf16, batchSize }: CollectOptions): Promise<Evaluated[]> {
  const { temperature, responseLength } = settings
  const results: Evaluated[] = []
  for (let begin = 0; begin < answers.length; begin += batchSize) {
    const part = answers.slice(begin, begin + batchSize)
    const shapes = part.map(({ promptIds, completionIds }) => ({
      ids: Int32Array.of(...promptIds, ...completionIds), promptLength: promptIds.length, places: completionIds.length + (completionIds.length < responseLength ? 1 : 0),
    }))
    const input = { ...layout(shapes), temperature }
    const reads = noGrad(() => autocast(bf16 ? 'bfloat16' : 'float32', () => {
      const pending: Promise<TypedArray>[] = []
      scope(() => {
        const own = policy.forward(input)
        pending.push(awaitedLater(own.logprob.data()), awaitedLater(own.values.data()))
        if (reference) pending.push(chosenLogprobs(reference, reference.base(input).lastHiddenState, input).logprob.data())
      })
      return pending
    }))
    const [logprobs, values, compared] = await Promise.all(reads)
    let [token, place] = [0, 0]
    for (const { ids, promptLength, places } of shapes) {
      const end = token + ids.length - promptLength
      const slice = (x: ArrayLike<number | bigint>, from: number, to: number): Float32Array => Float32Array.from((x as Float32Array).subarray(from, to))
      const row = slice(logprobs!, token, end)
      results.push({ logprobs: row, values: slice(values!, place, place + places), reference: compared ? slice(compared, token, end) : row })
      token = end
      place += places
    }
  }
  return results
}

const mean = (numbers: readonly number[]): number => numbers.reduce((a, b) => a + b, 0) / Math.max(numbers.length, 1)
const deviation = (numbers: readonly number[]): number => {
  const middle = mean(numbers)
  return Math.sqrt(numbers.reduce((sum, x) => sum + (x - middle) ** 2, 0) / Math.max(numbers.length - 1, 1))
}

/** The largest difference of log-probabilities recorded while sampling, at temperature 1, from those computed for training; NaN where they cannot be compared. */
function samplerGap(answers: readonly SampledAnswer[], evaluated: readonly Evaluated[], temperature: number): number {
  if (temperature !== 1) return NaN
  return answers.reduce((most, { logprobs, mask }, i) => logprobs.reduce((largest, x, t) => (mask[t] ? Math.max(largest, Math.abs(x - evaluated[i]!.logprobs[t]!)) : largest), most), 0)
}

/**
 * Judges sampled answers and works out what their tokens are trained on. An answer that no reward function could judge is left out and counted; throws
 * DataError where none is left.
 */
export async function collectPpo(sampled: readonly SampledAnswer[], prompts: readonly PromptRow[], step: number, options: CollectOptions): Promise<Collected> {
  const { settings, klCoefficient, rewards } = options
  const { klEstimator, missingEosPenalty, gamma, lam, whitenRewards, whitenAdvantages, temperature } = settings
  const { scores: allScores, errors } = await scoresOf(sampled, prompts, rewards, settings.rewardWeights, step)
  const judged = sampled.map((answer, i) => ({ answer, score: allScores[i]! })).filter(({ score, answer }) => score.total !== null && answer.completionIds.length > 0)
  if (judged.length === 0) throw new DataError(`no answer of rollout ${step} has a reward: every reward function failed, took too long or gave null${errors.length > 0 ? ` (${errors[0]!})` : ''}; make one give a number`)
  const answers = judged.map(({ answer }) => answer)
  const evaluated = await evaluate(answers, options)
  const scores = judged.map(({ answer, score }) => score.total! - (missingEosPenalty !== undefined && !answer.ended ? missingEosPenalty : 0))
  const targets = await ppoAdvantages(answers.map(({ mask, tokenRewards, reward }, i) => {
    // What the environment gave lies on the tokens of its turns; the rest comes at the end.
    const placed = tokenRewards && reward !== null ? reward : 0
    return { ...evaluated[i]!, mask, score: scores[i]! - placed, ...(tokenRewards ? { tokenRewards } : {}) }
  }), { klCoef: klCoefficient, klEstimator, gamma, lam, whitenRewards, whitenAdvantages })
  const kls = answers.map(({ mask }, i) => evaluated[i]!.logprobs.reduce((sum, x, t) => sum + (mask[t] ? klOf(x, evaluated[i]!.reference[t]!, klEstimator) : 0), 0))
  const kl = mean(kls)
  const gap = samplerGap(answers, evaluated, temperature)
  const lengths = answers.map(({ completionIds }) => completionIds.length)
  const failed = sampled.length - answers.length
  return {
    rows: answers.map(({ promptIds, completionIds, mask }, i) => ({
      ids: Int32Array.of(...promptIds, ...completionIds), promptLength: promptIds.length, mask, logprobs: evaluated[i]!.logprobs, values: evaluated[i]!.values,
      advantages: Float32Array.from(targets[i]!.advantages), returns: Float32Array.from(targets[i]!.returns),
    })),
    kl,
    metrics: {
      reward: mean(scores), rewardStd: deviation(scores), ...rewardMetrics(judged.map(({ score }) => score)),
      kl, klCoefficient, rlhfReward: mean(scores.map((score, i) => score - klCoefficient * kls[i]!)),
      completionLength: mean(lengths), truncatedShare: mean(answers.map(({ ended }) => (ended ? 0 : 1))),
      value: mean(evaluated.map(({ values }) => mean(Array.from(values)))), ...(failed > 0 ? { withoutReward: failed } : {}), ...(Number.isNaN(gap) ? {} : { samplerGap: gap }),
    },
    samples: dealt(judged, 3).map(([one]) => ({ prompt: textOf(prompts[one!.answer.prompt]!), text: one!.answer.text, rewards: one!.score.byName })),
    warnings: failed > 0 ? [...errors, `${failed} of ${sampled.length} answers have no reward or no token and are left out`] : [],
  }
}

const textOf = ({ prompt }: PromptRow): string => (typeof prompt === 'string' ? prompt : prompt.map(({ role, content }) => `${role}: ${typeof content === 'string' ? content : JSON.stringify(content)}`).join('\n'))

/** Mean reward of each function over the answers it judged. */
function rewardMetrics(scores: readonly Score[]): Record<string, number> {
  const names = [...new Set(scores.flatMap(({ byName }) => Object.keys(byName)))]
  return Object.fromEntries(names.map((name) => [`reward/${name}`, mean(scores.map(({ byName }) => byName[name]).filter((x) => x !== null && x !== undefined))]))
}
