// Proves that GRPO's and RLOO's losses and advantages equal those of TRL 1.13's own trainers to 1e-9 in float64, gradients included, and their properties.
import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { grpoAdvantages, rlooAdvantages, type Rewards } from '../../../src/methods/reinforcement/policy/advantages.ts'
import { policyObjective, type ObjectiveOptions } from '../../../src/methods/reinforcement/policy/objective.ts'
import { samplerLogRatio, samplerWeights } from '../../../src/methods/reinforcement/policy/samplerCorrection.ts'
import { keepFactors, tokenWeight, type PolicyLossType } from '../../../src/methods/reinforcement/policy/weights.ts'
import { SequenceStarts } from '../../../src/ops/index.ts'
import { backward, scope, Tensor } from '../../../src/tensor/index.ts'

type Table = number[][]
interface Arguments {
  loss_type: PolicyLossType; importance_sampling_level: 'token' | 'sequence'; beta: number; epsilon_low: number; epsilon_high: number; delta: number | null; use_bias_correction_kl: boolean
  top_entropy_quantile: number; off_policy_mask_threshold: number | null; vllm_ratio: Table | null; entropy_coef: number; grad_accum: number; steps_per_generation: number
}
interface Goldens {
  grpo: {
    inputs: { per_token_logps: Table; old_per_token_logps: Table; ref_per_token_logps: Table; completion_mask: Table; advantages: number[]; entropies: Table; max_completion_length: number }
    cases: { args: Arguments; loss: number; grad_logps: Table; metrics: Record<string, number> }[]
  }
  rloo: { per_token_logps: Table; completion_mask: Table; old_logps: number[]; advantages: number[]; loss: number; grad: Table }
  advantages: {
    name: string; trainer: string; rewards_per_func: (number | null)[][]; reward_weights: number[]; num_generations: number; advantages: number[]; metrics: Record<string, number>
    opts: { scale_rewards?: 'batch' | 'none'; multi_objective_aggregation?: string; normalize_advantages?: boolean; beta?: number; _old?: Table; _ref?: Table; _mask?: Table }
  }[]
}
const goldens = JSON.parse(readFileSync(new URL('../../recorded/alignment/trl.json', import.meta.url), 'utf8')) as Goldens
const defaults: ObjectiveOptions = {
  lossType: 'dapo', epsilon: 0.2, importanceSamplingLevel: 'token', beta: 0, useBiasCorrectionKl: true, entropyCoef: 0, sapoTemperaturePos: 1, sapoTemperatureNeg: 1.05, vespoPos: [2, 3], vespoNeg: [3, 2],
}
const total = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0)

interface Inputs { logps: Table; old: Table | null; reference: Table | null; mask: Table; entropies: Table; advantages: number[]; factors: Table | null; samplerLogRatios?: number[] }

/** Loss and gradient of rows as long as the mask is wide. */
async function lossOf(inputs: Inputs, options: Partial<ObjectiveOptions>, { accumulation = 1, stepsPerGeneration = 1, maxCompletionLength = 8 } = {}): Promise<{ loss: number, gradient: number[] }> {
  const { logps, old, reference, mask, entropies, advantages, factors, samplerLogRatios } = inputs
  const all = { ...defaults, ...options }
  const tokens = total(mask.flat())
  const weights = mask.map((row) => {
    const weight = tokenWeight(total(row), { lossType: all.lossType, rows: mask.length, batchTokens: tokens, generationTokens: tokens, maxCompletionLength, gradientAccumulationSteps: accumulation, stepsPerGeneration })
    return row.map((one) => one * weight)
  })
  const make = (values: Table): Tensor => Tensor.from(values.flat(), undefined, { dtype: 'float64' })
  const { loss, logprob } = scope(() => {
    const logprob = make(logps).requiresGrad_()
    const { loss } = policyObjective({
      logprob, entropy: make(entropies), counted: make(mask), countedTokens: tokens, bonus: make(mask), bonusTokens: tokens, sequences: SequenceStarts.ofLengths(mask.map((row) => row.length)), advantages: Tensor.from(advantages, undefined, { dtype: 'float64' }),
      weights: make(weights), old: old && make(old), reference: reference && make(reference), factors: factors && make(factors),
      samplerLogRatios: samplerLogRatios ? Tensor.from(samplerLogRatios, undefined, { dtype: 'float64' }) : null,
    }, { ...all, gradientAccumulationSteps: accumulation })
    backward(loss)
    return { loss, logprob }
  })
  return { loss: await loss.item(), gradient: Array.from(await logprob.grad!.data(), Number) }
}

const expectClose = (found: ArrayLike<number>, wanted: readonly number[], tolerance = 1e-9): void => {
  expect(found.length).toBe(wanted.length)
  wanted.forEach((value, i) => { expect(Math.abs(found[i]! - value), `number ${i}`).toBeLessThanOrEqual(tolerance * Math.max(1, Math.abs(value))) })
}

interface VespoGoldens {
  sampler: Record<string, Table>
  cases: { engine: string | null; mode: 'token_truncate' | 'token_mask' | null; beta: number; corrected: boolean; most: number; least: number | null; level: 'token' | 'sequence'; loss: number; gradient: Table }[]
}
const vespo = JSON.parse(readFileSync(new URL('../../recorded/alignment/vespo.json', import.meta.url), 'utf8')) as VespoGoldens

const { inputs, cases } = goldens.grpo
const base: Inputs = {
  logps: inputs.per_token_logps, old: inputs.old_per_token_logps, reference: null, mask: inputs.completion_mask, entropies: inputs.entropies, advantages: inputs.advantages, factors: null,
}

describe("TRL's VESPO", () => {
  test.each(vespo.cases.map((golden) => [`${golden.engine ?? 'no'} sampler, ${golden.mode ?? 'no weights'}, beta ${golden.beta}, ${golden.corrected ? 'corrected' : 'plain'} KL, ${golden.level}`, golden] as const))('%s', async (_, golden) => {
    const { engine, mode, beta, corrected, most, least, level } = golden
    const correction = { vllmImportanceSamplingCorrection: true, vllmImportanceSamplingMode: mode ?? 'token_mask', vllmImportanceSamplingClipMax: most, vllmImportanceSamplingClipMin: least }
    const ratios = engine === null ? undefined : inputs.completion_mask.map((mask, i) => {
      const counted = Uint8Array.from(mask)
      return samplerLogRatio(samplerWeights(Float32Array.from(inputs.old_per_token_logps[i]!), Float32Array.from(vespo.sampler[engine]![i]!), counted, correction), counted)
    })
    const found = await lossOf({ ...base, reference: beta > 0 ? inputs.ref_per_token_logps : null, ...ratios ? { samplerLogRatios: ratios } : {} }, { lossType: 'vespo', beta, useBiasCorrectionKl: corrected, importanceSamplingLevel: level })
    // Weights of tokens are float32, as are the log-probabilities they are made of.
    const tolerance = engine === null ? 1e-9 : 2e-6
    expectClose([found.loss], [golden.loss], tolerance)
    expectClose(found.gradient, golden.gradient.flat(), tolerance)
  })
})

describe.each(cases.map((golden, i) => ({ name: `${i}: ${golden.args.loss_type}, ${golden.args.importance_sampling_level}`, golden })))("TRL's GRPO loss $name", ({ golden: { args, loss, grad_logps: gradient } }) => {
  test('float64', async () => {
    const { completion_mask: mask, per_token_logps: logps, old_per_token_logps: old } = inputs
    const counts = mask.map(total)
    const own = (table: Table): Table => table.map((row, i) => row.filter((_, t) => mask[i]![t]))
    const kept = keepFactors(counts, { entropies: own(inputs.entropies), logprobs: own(logps), sampled: own(old), advantages: inputs.advantages }, { topEntropyQuantile: args.top_entropy_quantile, offPolicyMaskThreshold: args.off_policy_mask_threshold })
    const factors = mask.map((row, i) => row.map((_, t) => (kept[i]![t] ?? 0) * (args.vllm_ratio && args.loss_type !== 'vespo' ? args.vllm_ratio[i]![t] ?? args.vllm_ratio[i]![0]! : 1)))
    const found = await lossOf({ ...base, reference: args.beta > 0 ? inputs.ref_per_token_logps : null, factors }, {
      lossType: args.loss_type, epsilon: args.epsilon_low, epsilonHigh: args.epsilon_high, importanceSamplingLevel: args.importance_sampling_level, beta: args.beta, useBiasCorrectionKl: args.use_bias_correction_kl,
      entropyCoef: args.entropy_coef, ...(args.delta === null ? {} : { delta: args.delta }),
    }, { accumulation: args.grad_accum, stepsPerGeneration: args.steps_per_generation, maxCompletionLength: inputs.max_completion_length })
    expectClose([found.loss], [loss])
    expectClose(found.gradient, gradient.flat())
  })
})

test("TRL's RLOO loss", async () => {
  const { rloo } = goldens
  const lengths = rloo.completion_mask.map(total)
  const old = rloo.completion_mask.map((row, i) => row.map(() => rloo.old_logps[i]! / lengths[i]!))
  const { loss, gradient } = await lossOf({ ...base, logps: rloo.per_token_logps, old, mask: rloo.completion_mask, advantages: rloo.advantages }, { lossType: 'rloo' })
  expectClose([loss], [rloo.loss])
  expectClose(gradient, rloo.grad.flat())
})

const rewardsOf = ({ rewards_per_func: table, reward_weights: weights, num_generations: numGenerations }: Goldens['advantages'][number]): Rewards =>
  ({ values: Float64Array.from(table.flat(), (one) => one ?? NaN), weights, numGenerations })

test.each(goldens.advantages.map((golden) => [`${golden.trainer} ${golden.name}`, golden] as const))("TRL's advantages: %s", async (_, golden) => {
  const { opts, trainer } = golden
  const kl = opts._old && Float64Array.from(opts._old, (row, i) => total(row.map((value, t) => (opts._mask?.[i]![t] ?? 1) * (value - opts._ref![i]![t]!))))
  const { advantages, rewards } = trainer === 'RLOOTrainer'
    ? await rlooAdvantages(rewardsOf(golden), { normalizeAdvantages: opts.normalize_advantages ?? false, beta: opts.beta ?? 0, kl })
    : await grpoAdvantages(rewardsOf(golden), opts.multi_objective_aggregation === 'normalize_then_sum' ? 'normalize_then_sum' : opts.scale_rewards ?? 'group')
  expectClose(advantages, golden.advantages)
  expect(rewards.length).toBe(advantages.length)
})

describe('properties', () => {
  test.each(['group', 'batch', 'none', 'normalize_then_sum'] as const)('%s advantages of a group sum to zero', async (scaling) => {
    const values = Float64Array.from({ length: 24 }, (_, i) => Math.sin(7 * i + 1))
    const { advantages } = await grpoAdvantages({ values, weights: [1], numGenerations: 4 }, scaling)
    for (let g = 0; g < 6; g++) expect(Math.abs(total(Array.from(advantages.subarray(4 * g, 4 * g + 4))))).toBeLessThan(1e-12)
  })

  test.each(['grpo', 'dapo', 'bnpo', 'dr_grpo', 'luspo', 'rloo'] as const)('%s: where the policy sampled, the gradient is the policy gradient', async (lossType) => {
    const sampled = await lossOf({ ...base, old: base.logps }, { lossType })
    const alone = await lossOf({ ...base, old: null }, { lossType })
    expect(alone).toEqual(sampled)
    const weight = (row: number): number => tokenWeight(total(base.mask[row]!), { lossType, rows: 4, batchTokens: 16, generationTokens: 16, maxCompletionLength: 8, gradientAccumulationSteps: 1, stepsPerGeneration: 1 })
    const share = (row: number): number => lossType === 'rloo' ? weight(row) * total(base.mask[row]!) : weight(row)
    expectClose(sampled.gradient, base.mask.flatMap((row, i) => row.map((one) => -one * share(i) * base.advantages[i]!)), 1e-12)
  })

  test('the KL is never negative', async () => {
    const without = await lossOf({ ...base, reference: inputs.ref_per_token_logps }, { lossType: 'grpo' })
    const withKl = await lossOf({ ...base, reference: inputs.ref_per_token_logps }, { lossType: 'grpo', beta: 0.1 })
    expect(withKl.loss).toBeGreaterThan(without.loss)
    expect((await lossOf({ ...base, reference: base.logps }, { lossType: 'grpo', beta: 0.1 })).loss).toBeCloseTo(without.loss, 12)
  })
})
