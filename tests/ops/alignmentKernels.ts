// The tests of advantages, policy losses and AdamW with 8-bit moments, for any device: against the numbers of TRL's own trainers and against formulas.
import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { gae, groupAdvantages, policyLoss, quantize, dequantize, QuantizedTensor, SequenceStarts } from '../../src/ops/index.ts'
import type { AdvantageScaling, PolicyLossOptions } from '../../src/ops/index.ts'
import { backward, Tensor } from '../../src/tensor/index.ts'
import type { DType } from '../../src/tensor/index.ts'
import { draw } from './adapterKernels.ts'
import type { Run } from './adapterKernels.ts'
import { normalisedError, toNumbers } from './compare.ts'

interface LossArguments {
  loss_type: string; importance_sampling_level: 'token' | 'sequence'; beta: number; epsilon_low: number; epsilon_high: number; delta: number | null; use_bias_correction_kl: boolean
  top_entropy_quantile: number; off_policy_mask_threshold: number | null; vllm_ratio: number[][] | null; entropy_coef: number; grad_accum: number; steps_per_generation: number
}
interface Goldens {
  grpo: {
    inputs: { per_token_logps: number[][]; old_per_token_logps: number[][]; ref_per_token_logps: number[][]; completion_mask: number[][]; advantages: number[]; entropies: number[][]; max_completion_length: number }
    cases: { args: LossArguments; loss: number; grad_logps: number[][]; metrics: Record<string, number> }[]
  }
  rloo: { per_token_logps: number[][]; completion_mask: number[][]; old_logps: number[]; advantages: number[]; loss: number; grad: number[][] }
  advantages: { name: string; trainer: string; rewards_per_func: (number | null)[][]; reward_weights: number[]; num_generations: number; opts: Record<string, unknown>; advantages: number[]; metrics: Record<string, number> }[]
  ppo: { inputs: { values: number[][]; sequence_lengths: number[] }; cases: { rewards: number[][]; returns: number[][] }[] }
}
const goldens = JSON.parse(readFileSync(new URL('../recorded/alignment/trl.json', import.meta.url), 'utf8')) as Goldens
const precisions: [DType, number][] = [['float64', 1e-9], ['float32', 2e-6]]

const scalingOf = ({ trainer, opts }: Goldens['advantages'][number]): AdvantageScaling =>
  trainer === 'RLOOTrainer' ? 'leave_one_out' : opts.multi_objective_aggregation === 'normalize_then_sum' ? 'normalize_then_sum' : (opts.scale_rewards as AdvantageScaling | undefined) ?? 'group'

export function describeAdvantages(run: Run): void {
  // Those that change rewards before or advantages after are the trainers' own.
  const cases = goldens.advantages.filter(({ opts }) => !opts.beta && !opts.normalize_advantages)
  describe.each(cases.map((golden) => ({ name: golden.name, golden })))("TRL's advantages: $name", ({ golden }) => {
    test.each(precisions)('%s', async (dtype, tolerance) => {
      const { advantages, withoutSpread } = await run(() => {
        const rewards = Tensor.from(golden.rewards_per_func.flat().map((x) => x ?? NaN), [golden.rewards_per_func.length, golden.reward_weights.length], { dtype })
        return { ...groupAdvantages(rewards, { groupSize: golden.num_generations, scaling: scalingOf(golden), weights: Tensor.from(golden.reward_weights, undefined, { dtype }) }) }
      })
      expect(normalisedError(advantages, Float64Array.from(golden.advantages))).toBeLessThan(tolerance)
      if (scalingOf(golden) !== 'batch') expect(Number(withoutSpread[0]) / (golden.rewards_per_func.length / golden.num_generations)).toBeCloseTo(golden.metrics.frac_reward_zero_std!, 6)
    })
  })

  test.each([[1, 5], [40, 3], [2, 300], [0, 4]])('%d by %d: a group of advantages sums to zero', async (groupSize, groups) => {
    const rewards = draw(groupSize * groups, 'rewards')
    const { advantages } = await run(() => ({ advantages: groupAdvantages(Tensor.from(rewards), { groupSize: Math.max(1, groupSize) }).advantages }))
    for (let g = 0; g < groups && groupSize > 0; g++) {
      expect(Math.abs(toNumbers(advantages).slice(g * groupSize, (g + 1) * groupSize).reduce((a, b) => a + b, 0))).toBeLessThan(1e-5)
    }
  })

  test.each(precisions)("TRL's returns, %s", async (dtype, tolerance) => {
    const { values, sequence_lengths: lengths } = goldens.ppo.inputs
    const steps = values[0]!.length
    // TRL's values are zero two steps past the last token.
    const shown = values.map((row, s) => row.map((v, t) => t > lengths[s]! + 1 ? 0 : v))
    for (const { rewards, returns } of goldens.ppo.cases) {
      const result = await run(() => ({ ...gae(Tensor.from(rewards.flat(), [3, steps], { dtype }), Tensor.from(shown.flat(), [3, steps], { dtype })) }))
      expect(normalisedError(result.returns, Float64Array.from(returns.flat()))).toBeLessThan(tolerance)
    }
  })

  test.each([1, 31, 33, 100])('estimation over %d steps passes over what the mask leaves out', async (steps) => {
    const [sequences, gamma, lambda] = [5, 0.97, 0.9]
    const [reward, value] = [draw(sequences * steps, 'reward'), draw(sequences * steps, 'value')]
    const mask = draw(sequences * steps, 'mask').map((x) => x > -0.4 ? 1 : 0)
    for (const masked of [false, true]) {
      const expected: { advantages: number[]; returns: number[] } = { advantages: [], returns: [] }
      for (let s = 0; s < sequences; s++) {
        let [next, carried] = [0, 0]
        for (let t = steps - 1; t >= 0; t--) {
          const i = s * steps + t
          if (masked && mask[i] === 0) {
            [expected.advantages[i], expected.returns[i]] = [0, value[i]!]
            continue
          }
          carried = reward[i]! + gamma * next - value[i]! + gamma * lambda * carried
          next = value[i]!
          ;[expected.advantages[i], expected.returns[i]] = [carried, carried + value[i]!]
        }
      }
      for (const [dtype, tolerance] of precisions) {
        const make = (numbers: number[]): Tensor => Tensor.from(numbers, [sequences, steps], { dtype })
        const result = await run(() => ({ ...gae(make(reward), make(value), { gamma, lambda, mask: masked ? make(mask) : null }) }))
        expect(normalisedError(result.advantages, Float64Array.from(expected.advantages))).toBeLessThan(tolerance)
        expect(normalisedError(result.returns, Float64Array.from(expected.returns))).toBeLessThan(tolerance)
      }
    }
  })
}

/** The objective, the weights of tokens and their factors, as TRL's arguments have them. */
function settings(args: LossArguments): { options: Partial<PolicyLossOptions>; weights: number[]; factors: number[] } {
  const { inputs } = goldens.grpo
  const mask = inputs.completion_mask
  const tokens = mask.flat().reduce((a, b) => a + b, 0)
  const lengths = mask.map((row) => row.reduce((a, b) => a + b, 0))
  const weight = (row: number): number => {
    switch (args.loss_type) {
      case 'grpo': case 'sapo': return 1 / (mask.length * Math.max(lengths[row]!, 1) * args.grad_accum)
      case 'bnpo': return 1 / (tokens * args.grad_accum)
      case 'dr_grpo': return 1 / (mask.length * inputs.max_completion_length * args.grad_accum)
      case 'luspo': return 1 / (mask.length * args.grad_accum)
      default: return args.steps_per_generation / (tokens * args.grad_accum)
    }
  }
  const objective: Partial<PolicyLossOptions> = args.loss_type === 'cispo' ? { objective: 'cispo', cap: args.epsilon_high } : args.loss_type === 'sapo' ? { objective: 'sapo' }
    : args.loss_type === 'vespo' ? { objective: 'vespo' } : { clipLow: args.epsilon_low, clipHigh: args.epsilon_high, ...args.delta === null ? {} : { limit: args.delta } }
  const entropies = mask.flatMap((row, i) => row.flatMap((m, t) => m ? [Math.fround(inputs.entropies[i]![t]!)] : [])).sort((a, b) => a - b)
  const at = Math.fround(1 - args.top_entropy_quantile) * (entropies.length - 1)
  const threshold = entropies[Math.floor(at)]! + (at - Math.floor(at)) * ((entropies[Math.ceil(at)] ?? 0) - entropies[Math.floor(at)]!)
  const factors = mask.map((row, i) => {
    const drift = row.reduce((total, m, t) => total + m * (inputs.old_per_token_logps[i]![t]! - inputs.per_token_logps[i]![t]!), 0) / lengths[i]!
    const off = args.off_policy_mask_threshold !== null && inputs.advantages[i]! < 0 && drift > args.off_policy_mask_threshold ? 0 : 1
    return row.map((_, t) => off * (args.vllm_ratio && args.loss_type !== 'vespo' ? args.vllm_ratio[i]![t] ?? args.vllm_ratio[i]![0]! : 1)
      * (args.top_entropy_quantile < 1 && inputs.entropies[i]![t]! < threshold ? 0 : 1))
  })
  return {
    options: { ...objective, level: args.importance_sampling_level === 'token' ? 'token' : 'sequence_mean', beta: args.beta, correctedKl: args.use_bias_correction_kl },
    weights: mask.flatMap((row, i) => row.map((m) => m * weight(i))), factors: factors.flat(),
  }
}

export function describePolicyLoss(run: Run): void {
  const { inputs, cases } = goldens.grpo
  const [rows, steps] = [inputs.advantages.length, inputs.per_token_logps[0]!.length]
  // The entropy bonus is not the kernel's.
  const own = cases.filter(({ args }) => args.entropy_coef === 0)
  describe.each(own.map((golden, i) => ({ name: `${i} ${golden.args.loss_type}, ${golden.args.importance_sampling_level}`, golden })))("TRL's loss $name", ({ golden }) => {
    test.each(precisions)('%s', async (dtype, tolerance) => {
      const { options, weights, factors } = settings(golden.args)
      const results = await run(() => {
        const make = (numbers: number[]): Tensor => Tensor.from(numbers, undefined, { dtype })
        const logprob = make(inputs.per_token_logps.flat()).requiresGrad_()
        const { loss, statistics } = policyLoss(logprob, {
          ...options, sequences: SequenceStarts.ofLengths(Array.from({ length: rows }, () => steps)), old: make(inputs.old_per_token_logps.flat()),
          reference: golden.args.beta > 0 ? make(inputs.ref_per_token_logps.flat()) : null, advantages: make(inputs.advantages), weights: make(weights), factors: make(factors),
        } as PolicyLossOptions)
        backward(loss)
        return { loss, statistics, gradient: logprob.grad! }
      })
      expect(Math.abs(Number(results.loss[0]) - golden.loss)).toBeLessThan(tolerance)
      expect(normalisedError(results.gradient, Float64Array.from(golden.grad_logps.flat()))).toBeLessThan(tolerance * 5)
      const [tokens, low, high] = toNumbers(results.statistics) as [number, number, number]
      const { 'clip_ratio/low_mean': wantedLow, 'clip_ratio/high_mean': wantedHigh, cispo_clip_ratio: wantedCap } = golden.metrics
      if (wantedLow !== undefined) expect(low / tokens).toBeCloseTo(wantedLow, 6)
      if ((wantedHigh ?? wantedCap) !== undefined) expect(high / tokens).toBeCloseTo((wantedHigh ?? wantedCap)!, 6)
    })
  })

  test.each(precisions)("TRL's RLOO loss, %s", async (dtype, tolerance) => {
    const { rloo } = goldens
    const mask = rloo.completion_mask
    const results = await run(() => {
      const make = (numbers: number[]): Tensor => Tensor.from(numbers, undefined, { dtype })
      const logprob = make(rloo.per_token_logps.flat()).requiresGrad_()
      const lengths = mask.map((row) => row.reduce((a, b) => a + b, 0))
      // Only the sum over a sequence counts: any old log-probabilities with TRL's sums.
      const old = mask.flatMap((row, i) => row.map(() => rloo.old_logps[i]! / lengths[i]!))
      const weights = mask.flatMap((row, i) => row.map((m) => m / (lengths[i]! * mask.length)))
      const { loss } = policyLoss(logprob, { sequences: SequenceStarts.ofLengths(mask.map((row) => row.length)), old: make(old), advantages: make(rloo.advantages), weights: make(weights), level: 'sequence_sum' })
      backward(loss)
      return { loss, gradient: logprob.grad! }
    })
    expect(Math.abs(Number(results.loss[0]) - rloo.loss)).toBeLessThan(tolerance)
    expect(normalisedError(results.gradient, Float64Array.from(rloo.grad.flat()))).toBeLessThan(tolerance * 5)
  })

  test('a ratio beyond e^20 stays finite and has no gradient', async () => {
    const { loss, gradient } = await run(() => {
      const logprob = Tensor.from([-1, -1, -300]).requiresGrad_()
      const { loss } = policyLoss(logprob, {
        sequences: SequenceStarts.ofLengths([1, 1, 1]), old: Tensor.from([-200, -200, -1]), reference: Tensor.from([-200, -200, -1]), beta: 0.1, advantages: Tensor.from([-1, 0, 1]), weights: Tensor.ones([3]),
      })
      backward(loss)
      return { loss, gradient: logprob.grad! }
    })
    expect(Number.isFinite(Number(loss[0]))).toBe(true)
    expect(toNumbers(gradient).every((x) => x === 0)).toBe(true)
  })
}

export function describeAdamw8bit(run: Run): void {
  const zeroStates = (size: number): { first: QuantizedTensor; second: QuantizedTensor } => ({
    first: quantize(Tensor.zeros([size]), { format: 'dynamic' }), second: quantize(Tensor.zeros([size]), { format: 'dynamic_unsigned' }),
  })
  describe.each(['float32', 'bfloat16'] as const)('AdamW with 8-bit moments, %s', (dtype) => {
    test.each([0, 1, 255, 256, 257, 1000])('%d parameters follow the formula on their rounded moments', async (size) => {
      const [learningRate, beta1, beta2, eps, decay] = [0.01, 0.9, 0.99, 1e-8, 0.1]
      const [start, gradients] = [draw(size, 'parameter'), [1, 2, 3].map((step) => draw(size, `gradient ${step}`))]
      const results = await run(() => {
        const parameter = Tensor.from(start, [size], { dtype })
        const { first, second } = zeroStates(size)
        const seen: Record<string, Tensor> = {}
        gradients.forEach((numbers, i) => {
          seen[`m ${i}`] = dequantize(first)
          seen[`v ${i}`] = dequantize(second)
          seen[`p ${i}`] = Tensor.from(start, [size], { dtype })
          parameter.device.kernels.convert(seen[`p ${i}`]!.handle, parameter.handle)
          const factor = Tensor.from([0.5])
          parameter.device.kernels.adamw_8bit([parameter.handle], [first.codes.handle], [second.codes.handle], [first.scales.handle], [second.scales.handle], [],
            [Tensor.from(numbers, [size], { dtype }).handle], factor.handle, [learningRate], beta1, beta2, eps, [decay], i + 1)
        })
        const all: Record<string, Tensor> = { ...seen, 'm 3': dequantize(first), 'v 3': dequantize(second), 'p 3': parameter }
        return all
      })
      gradients.forEach((gradient, step) => {
        const [m, v, p] = ['m', 'v', 'p'].map((name) => toNumbers(results[`${name} ${step}`]!)) as [number[], number[], number[]]
        const [nextM, nextV, nextP] = ['m', 'v', 'p'].map((name) => toNumbers(results[`${name} ${step + 1}`]!)) as [number[], number[], number[]]
        const exact = p.map((parameter, i) => {
          const g = gradient[i]! * 0.5
          const [a, b] = [beta1 * m[i]! + (1 - beta1) * g, beta2 * v[i]! + (1 - beta2) * g * g]
          const moved = parameter * (1 - learningRate * decay) - learningRate / (1 - beta1 ** (step + 1)) * a / (Math.sqrt(b / (1 - beta2 ** (step + 1))) + eps)
          return { m: a, v: b, p: moved }
        })
        exact.forEach(({ m, v, p }, i) => {
          const from = Math.floor(i / 256) * 256
          const part = exact.slice(from, from + 256)
          const [topM, topV] = [Math.max(...part.map((x) => Math.abs(x.m))), Math.max(...part.map((x) => x.v))]
          expect(Math.abs(nextP[i]! - p)).toBeLessThanOrEqual(dtype === 'bfloat16' ? 2 ** -8 * Math.abs(p) + 1e-6 : 3e-6)
          // Half the widest step of the code books.
          expect(Math.abs(nextM[i]! - m)).toBeLessThanOrEqual(0.0071 * topM + 1e-7)
          expect(Math.abs(nextV[i]! - v)).toBeLessThanOrEqual(0.0036 * topV + 1e-7)
        })
      })
    })
  })

  test('a factor of NaN leaves everything as it was', async () => {
    const { parameter, codes, scales } = await run(() => {
      const parameter = Tensor.ones([300])
      const { first, second } = zeroStates(300)
      parameter.device.kernels.adamw_8bit([parameter.handle], [first.codes.handle], [second.codes.handle], [first.scales.handle], [second.scales.handle], [],
        [Tensor.ones([300]).handle], Tensor.from([NaN]).handle, [0.1], 0.9, 0.99, 1e-8, [0.1], 1)
      return { parameter, codes: first.codes, scales: second.scales }
    })
    expect(toNumbers(parameter).every((x) => x === 1)).toBe(true)
    expect(toNumbers(codes).every((x) => x === 127)).toBe(true)
    expect(toNumbers(scales).every((x) => x === 0)).toBe(true)
  })
}
