// Proves that rewards, advantages, returns, losses and gradients of PPO equal TRL's and verl's to 1e-9 in float64, and what must hold of them in any case.
import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { ppoAdvantages, whiten, type PpoAdvantageOptions, type PpoSequence } from '../../../src/methods/reinforcement/ppo/advantages.ts'
import { adaptiveKl, fixedKl } from '../../../src/methods/reinforcement/ppo/kl.ts'
import { ppoLoss } from '../../../src/methods/reinforcement/ppo/loss.ts'
import { SequenceStarts } from '../../../src/ops/index.ts'
import { backward, scope, Tensor, type DType } from '../../../src/tensor/index.ts'

type Grid = number[][]
interface Inputs { logprobs: Grid; ref_logprobs: Grid; values: Grid; scores: number[]; sequence_lengths: number[]; new_logprobs: Grid; vpred: Grid }
interface Case {
  kl_estimator: 'k1' | 'k3'; whiten_rewards: boolean; dual_clip?: number | null; mask?: Grid | null
  rewards: Grid; advantages: Grid; returns: Grid; pg_loss: number; vf_loss: number; vf_clipfrac: number; loss: number; d_new_logprobs?: Grid; d_vpred?: Grid
}
const recorded = (name: string): { inputs: Inputs; cases: Case[] } =>
  JSON.parse(readFileSync(new URL(`../../recorded/ppo/${name}.json`, import.meta.url), 'utf8')) as { inputs: Inputs; cases: Case[] }

const options: PpoAdvantageOptions = { klCoef: 0.05, klEstimator: 'k1', gamma: 1, lam: 0.95, whitenRewards: false, whitenAdvantages: true }

/** The recorded grid's rows without padding: `sequence_lengths` are places of last tokens, and a row that does not fill the grid has a value more. */
function sequencesOf(inputs: Inputs, mask: Grid | null | undefined): PpoSequence[] {
  return inputs.logprobs.map((row, i) => {
    const tokens = inputs.sequence_lengths[i]! + 1
    return {
      logprobs: row.slice(0, tokens), reference: inputs.ref_logprobs[i]!.slice(0, tokens), values: inputs.values[i]!.slice(0, tokens + 1), score: inputs.scores[i]!,
      ...(mask ? { mask: mask[i]!.slice(0, tokens) } : {}),
    }
  })
}

async function check(inputs: Inputs, one: Case, dtype: DType, tolerance: number): Promise<void> {
  const sequences = sequencesOf(inputs, one.mask)
  const targets = await ppoAdvantages(sequences, { ...options, klEstimator: one.kl_estimator, whitenRewards: one.whiten_rewards })
  const near = (actual: ArrayLike<number>, wanted: readonly number[], what: string): void => {
    for (let t = 0; t < actual.length; t++) expect(Math.abs(actual[t]! - wanted[t]!), `${what} ${t}`).toBeLessThan(tolerance)
  }
  const exact = (actual: ArrayLike<number>, wanted: readonly number[], what: string): void => {
    for (let t = 0; t < actual.length; t++) expect(Math.abs(actual[t]! - wanted[t]!), `${what} ${t}`).toBeLessThan(1e-9)
  }
  targets.forEach((target, i) => {
    exact(target.rewards, one.rewards[i]!, `reward ${i}`)
    exact(target.advantages, one.advantages[i]!, `advantage ${i}`)
    exact(target.returns, one.returns[i]!, `return ${i}`)
  })
  const written = sequences.map(({ logprobs, mask }) => Array.from(logprobs, (_, t) => mask?.[t] ?? 1))
  const places = sequences.map(({ values }, i) => Array.from(values, (_, t) => written[i]![t] ?? 1))
  const normalised = (rows: Grid): number[] => { const flat = rows.flat(); const n = flat.reduce((a, b) => a + b, 0); return flat.map((x) => x / n) }
  const grid = (rows: readonly ArrayLike<number>[]): Tensor => Tensor.from(rows.flatMap((row) => Array.from(row)), undefined, { dtype })
  const logprobs = grid(sequences.map((sequence, i) => inputs.new_logprobs[i]!.slice(0, sequence.logprobs.length))).requiresGrad_()
  const values = grid(sequences.map((sequence, i) => inputs.vpred[i]!.slice(0, sequence.values.length))).requiresGrad_()
  const reads = scope(() => {
    const result = ppoLoss(logprobs, values, {
      sequences: SequenceStarts.ofLengths(sequences.map((sequence) => sequence.logprobs.length)), cliprange: 0.2, dualClip: one.dual_clip ?? undefined, vfCoef: 0.1,
      oldLogprobs: grid(sequences.map((sequence) => sequence.logprobs)), advantages: grid(targets.map(({ advantages }) => advantages)), weights: grid([normalised(written)]),
      value: { old: grid(sequences.map((sequence) => sequence.values)), returns: grid(targets.map(({ returns }) => returns)), weights: grid([normalised(places)]), clipRange: 0.2 },
    })
    const numbers = [result.policy.loss, result.valueLoss, result.loss, result.clipFraction].map((tensor) => tensor.item())
    backward(result.loss)
    return numbers
  })
  near((await Promise.all(reads)).slice(0, 3), [one.pg_loss, one.vf_loss, one.loss], 'loss')
  expect(Math.abs((await reads[3]!) - one.vf_clipfrac)).toBeLessThan(1e-6)
  if (one.d_new_logprobs) near(await logprobs.grad!.toArray(), one.d_new_logprobs.flatMap((row, i) => row.slice(0, sequences[i]!.logprobs.length)), 'gradient of log-probabilities')
  if (one.d_vpred) near(await values.grad!.toArray(), one.d_vpred.flatMap((row, i) => row.slice(0, sequences[i]!.values.length)), 'gradient of values')
}

describe.each([['trl'], ['ppo']])('recorded %s', (name) => {
  const { inputs, cases } = recorded(name)
  test.each(cases.map((one, i) => [i, one] as const))('case %d in float64', async (_, one) => { await check(inputs, one, 'float64', 1e-9) })
  test('float32 to 2e-6', async () => { for (const one of cases) await check(inputs, one, 'float32', 2e-6) })
})

describe('properties', () => {
  const { inputs } = recorded('ppo')
  test('whitened advantages have mean 0 and variance 1', async () => {
    const all = (await ppoAdvantages(sequencesOf(inputs, null), options)).flatMap(({ advantages }) => [...advantages])
    const mean = all.reduce((a, b) => a + b, 0) / all.length
    expect(Math.abs(mean)).toBeLessThan(1e-12)
    expect(all.reduce((a, b) => a + (b - mean) ** 2, 0) / (all.length - 1)).toBeCloseTo(1, 6)
  })

  test('with lambda 1 and no KL the return of every token is the score', async () => {
    const targets = await ppoAdvantages(sequencesOf(inputs, null), { ...options, lam: 1, klCoef: 0, whitenAdvantages: false })
    targets.forEach(({ returns }, i) => { for (const one of returns) expect(one).toBeCloseTo(inputs.scores[i]!, 12) })
  })

  test('what tokens of a tool say changes nothing: neither their log-probabilities nor their values', async () => {
    const mask = inputs.logprobs.map((row) => row.map((_, t) => (t === 1 ? 0 : 1)))
    const sequences = sequencesOf(inputs, mask)
    const before = await ppoAdvantages(sequences, options)
    const other = sequences.map((sequence) => ({ ...sequence, logprobs: Array.from(sequence.logprobs, (x, t) => (t === 1 ? 9 : x)), values: Array.from(sequence.values, (x, t) => (t === 1 && sequence.logprobs.length > 1 ? 9 : x)) }))
    const after = await ppoAdvantages(other, options)
    after.forEach(({ advantages }, i) => { expect(advantages).toEqual(before[i]!.advantages) })
  })

  test('a reward on a token of a tool goes to the last written token before it', async () => {
    const one = { logprobs: [0, 0, 0], reference: [0, 0, 0], values: [0, 0, 0, 0], score: 0, mask: [1, 0, 1] }
    const at = async (place: number): Promise<unknown> => ppoAdvantages([{ ...one, tokenRewards: [0, 1, 2].map((t) => (t === place ? 1 : 0)) }], options)
    expect(await at(1)).toEqual(await at(0))
    expect(await at(1)).not.toEqual(await at(2))
  })

  test('empty answers and batches are no trouble; a single token keeps its sign', async () => {
    expect(await ppoAdvantages([], options)).toEqual([])
    const [empty] = await ppoAdvantages([{ logprobs: [], reference: [], values: [0.5], score: 1 }], options)
    expect(Array.from(empty!.returns)).toEqual([1])
    expect(empty!.advantages.length).toBe(0)
  })

  test('wrong lengths are named', async () => {
    await expect(ppoAdvantages([{ logprobs: [0, 0], reference: [0], values: [0, 0], score: 1 }], options)).rejects.toThrow('sequence 0: reference must have the 2 entries of logprobs, but has 1')
    await expect(ppoAdvantages([{ logprobs: [0], reference: [0], values: [], score: 1 }], options)).rejects.toThrow('values must have 1 entries, or 2')
  })

  test('whitening without shift keeps the mean', () => {
    const rows = [Float64Array.from([1, 2, 3]), Float64Array.from([6])]
    whiten(rows, () => true, false)
    expect((rows[0]!.reduce((a, b) => a + b, 0) + rows[1]![0]!) / 4).toBeCloseTo(3, 12)
  })

  test('the adaptive coefficient rises above the target and falls below it, by at most 20 % of samples over horizon', () => {
    const controller = adaptiveKl(0.2, { target: 6, horizon: 1000 })
    controller.update(60, 100)
    expect(controller.coefficient).toBeCloseTo(0.2 * 1.02, 12)
    controller.update(0, 100)
    expect(controller.coefficient).toBeCloseTo(0.2 * 1.02 * 0.98, 12)
    controller.update(6.6, 100)
    expect(controller.coefficient).toBeCloseTo(0.2 * 1.02 * 0.98 * 1.01, 12)
    const fixed = fixedKl(0.3)
    fixed.update(100, 100)
    expect(fixed.coefficient).toBe(0.3)
  })
})
