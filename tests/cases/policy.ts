// Cases of the policy losses.
import { policyLoss, SequenceStarts } from '../../src/ops/index.ts'
import type { PolicyLossOptions } from '../../src/ops/index.ts'
import { Tensor } from '../../src/tensor/index.ts'
import { float, sharing } from './case.ts'
import type { OpCase } from './case.ts'
import { randomNumbers } from './random.ts'

type Chosen = PolicyLossOptions extends infer Options ? Options extends unknown ? Omit<Options, 'sequences' | 'advantages' | 'weights' | 'old' | 'reference' | 'factors'> : never : never
interface PolicyShape { name: string; lengths?: readonly number[]; options: Chosen; perToken?: boolean; factors?: boolean; old?: boolean; spread?: number; benchOnly?: boolean }

const shapes: PolicyShape[] = [
  { name: 'clip', options: {} },
  { name: 'clip, no old', options: { beta: 0.04 }, old: false },
  { name: 'clip with limits, KL and factors', options: { clipLow: 0.1, clipHigh: 0.28, limit: 1.5, dualLimit: 1.3, beta: 0.04, correctedKl: true }, factors: true },
  { name: 'an advantage for each token', options: { beta: 0.1 }, perToken: true },
  { name: 'GSPO', options: { level: 'sequence_mean', clipLow: 0.05, clipHigh: 0.05, beta: 0.04, correctedKl: true }, factors: true },
  { name: 'RLOO', options: { level: 'sequence_sum' }, spread: 0.1 },
  { name: 'cispo', options: { objective: 'cispo', cap: 1.2, beta: 0.01 } },
  { name: 'cispo over sequences', options: { objective: 'cispo', cap: 1.05, level: 'sequence_mean' } },
  { name: 'sapo', options: { objective: 'sapo' }, factors: true },
  { name: 'sapo over sequences', options: { objective: 'sapo', level: 'sequence_mean' } },
  { name: 'vespo', options: { objective: 'vespo', beta: 0.02 }, factors: true, spread: 0.1 },
  { name: 'no sequences', lengths: [], options: { beta: 0.1 } },
  { name: 'empty sequences', lengths: [0, 2, 0], options: { level: 'sequence_mean' } },
  { name: 'more sequences than the last sum has threads', lengths: Array.from({ length: 300 }, (_, i) => i % 3), options: { beta: 0.1 } },
  { name: '512 sequences of 512', lengths: Array.from({ length: 512 }, () => 512), options: { beta: 0.04 }, benchOnly: true },
]

export const policyCases: readonly OpCase[] = shapes.map(({ name, lengths = [1, 6, 70, 0, 3, 130], options, perToken = false, factors = false, old = true, spread = 0.6, benchOnly = false }): OpCase => {
  const tokens = lengths.reduce((a, b) => a + b, 0)
  const constant = (low: number, high: number, count = tokens) => float([count], { low, high, gradient: false, fixed: 'float32' })
  const near = { low: -1 - spread, high: -1 + spread }
  return {
    op: 'policyLoss', name, benchOnly, dtypes: ['float32'], peer: { formula: 'policy_loss', beta: options.beta ?? 0, sequences: lengths.length, length: lengths[0] ?? 0 },
    inputs: [
      float([tokens], { ...near, fixed: 'float32' }), constant(-1, 1, perToken ? tokens : lengths.length), ...old ? [constant(near.low, near.high)] : [],
      ...options.beta ? [constant(near.low, near.high)] : [], ...factors ? [constant(0.5, 1.5)] : [],
    ],
    ...sharing((dtype) => {
      const random = randomNumbers(`weights ${name}`)
      const weights = Tensor.from(Float64Array.from({ length: tokens }, () => random() < 0.2 ? 0 : 0.25 + random()), [tokens], { dtype })
      const sequences = SequenceStarts.ofLengths(lengths)
      return {
        weights, sequences,
        dispose() {
          weights.dispose()
          sequences.dispose()
        },
      }
    }, ({ weights, sequences }, ...inputs) => {
      const [logprob, advantages, ...rest] = inputs as [Tensor, Tensor, ...Tensor[]]
      const given = {
        advantages, weights, sequences,
        old: old ? rest.shift()! : null, reference: options.beta ? rest.shift()! : null, factors: factors ? rest.shift()! : null,
      }
      const { loss, tokenLoss, statistics } = policyLoss(logprob, { ...options, ...given })
      return [loss, tokenLoss, statistics]
    }),
    // Six numbers are read and two written.
    forward: { bytes: () => 32 * tokens },
  }
})
