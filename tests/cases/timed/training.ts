// Timed: the optimizers and what surrounds them, advantages, random numbers and sampling.
import { gae, groupAdvantages } from '../../../src/ops/index.ts'
import { Tensor } from '../../../src/tensor/index.ts'
import { integers, sharing } from '../case.ts'
import type { OpCase } from '../case.ts'
import { beside, constant, moving, numbers, single, timed } from './common.ts'

/** Those of GPT-2 124M. */
const parameters = 124_439_808
const blocks = numbers / 256
/** The moments of adamw_8bit: codes and scales of both. */
const eightBitMoments = () => {
  const [first, second] = [127, 0].map((code) => Tensor.full([numbers], code, { dtype: 'uint8' })) as [Tensor, Tensor]
  const [firstScale, secondScale] = [1e-3, 1e-6].map((scale) => Tensor.full([blocks], scale)) as [Tensor, Tensor]
  const all = [first, second, firstScale, secondScale] as const
  return { all, dispose: () => { for (const tensor of all) tensor.dispose() } }
}

const optimizers: OpCase[] = [
  // Parameter and both moments are read and written.
  timed('adamw', '124M parameters', [single([parameters]), single([parameters]), single([parameters]), single([parameters])], { bytes: () => parameters * 28 }, (p, m, v, g) => {
    p.device.kernels.adamw([p.handle], [m.handle], [v.handle], [], [g.handle], 0, [1e-4], 0.9, 0.999, 1e-8, [0.1], 3)
    return p
  }, { peer: { formula: 'adamw' }, dtypes: ['float32'] }),
  timed('adamw8bit', '16M parameters', [single([numbers]), constant([numbers])], { bytes: (size) => numbers * (12 + size) }, sharing(eightBitMoments, ({ all }, p, g) => {
    const [first, second, firstScale, secondScale] = all
    p.device.kernels.adamw_8bit([p.handle], [first.handle], [second.handle], [firstScale.handle], [secondScale.handle], [], [g.handle], 0, [1e-4], 0.9, 0.999, 1e-8, [0.1], 3)
    return p
  })),
  timed('sumSquares', '16M numbers', [constant([numbers])], moving(numbers, 1), (x) => {
    const y = beside(x, [1], 'float64')
    x.device.kernels.sum_squares(y.handle, [x.handle], false)
    return y
  }, { peer: { formula: 'norm' } }),
  timed('countNonFinite', '16M numbers', [constant([numbers])], moving(numbers, 1), (x) => {
    const y = beside(x, [1], 'int32')
    x.device.kernels.count_non_finite(y.handle, x.handle, false)
    return y
  }, { peer: { formula: 'count_non_finite' } }),
]

const [groups, group] = [512, 8]
const advantages: OpCase[] = [
  timed('groupAdvantages', `${groups} groups of ${group}`, [single([groups * group])], { bytes: () => groups * group * 8 }, (rewards) => groupAdvantages(rewards, { groupSize: group }).advantages,
    { peer: { formula: 'group_advantages', group }, dtypes: ['float32'] }),
  timed('gae', '64 sequences of 512', [single([64, 512]), single([64, 512])], { bytes: () => 64 * 512 * 16 }, (rewards, values) => {
    const { advantages, returns } = gae(rewards, values)
    return [advantages, returns]
  }, { peer: { formula: 'gae', gamma: 1, lambda: 0.95 }, dtypes: ['float32'] }),
]

const random: OpCase[] = (['random_uniform', 'random_normal'] as const).map((kernel) => timed(
  kernel === 'random_normal' ? 'randomNormal' : 'randomUniform', '16M numbers', [constant([numbers])], moving(numbers, 1), (x) => {
    x.device.kernels[kernel](x.handle, 0, 1, 1, 2)
    return x
  }, { peer: { formula: kernel } },
))

const sampling = ([['greedy', [0, 0, 1, 0, 1]], ['top-k 50, top-p 0.95', [0.8, 50, 0.95, 0, 1]]] as const).map(([name, options]): OpCase => timed(
  'sample', `8x151936 ${name}`, [constant([8, 151936], { low: -8, high: 8 }), integers(Array.from({ length: 16 }, (_, i) => i), [8, 2])], moving(8 * 151936, 1), (logits, draw) => {
    const [token, logprob] = [beside(logits, [8], 'int32'), beside(logits, [8], 'float32')]
    const table = Tensor.from(Array.from({ length: 8 }, () => options).flat(), [8, 5], { device: logits.device })
    logits.device.kernels.sample(token.handle, logprob.handle, logits.handle, table.handle, 0, draw.handle)
    return token
  }, { peer: { formula: 'sample', temperature: options[0], topK: options[1], topP: options[2] } },
))

export const timedTraining: readonly OpCase[] = [...optimizers, ...advantages, ...random, ...sampling]
