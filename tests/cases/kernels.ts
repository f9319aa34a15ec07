// Large cases of kernels that are not fused operations, for the benchmarks: the optimizer, conversions, copies, sums, random numbers, sampling.
import { abs, add, exp, permute, sum, toDtype } from '../../src/ops/index.ts'
import { cpu, Tensor } from '../../src/tensor/index.ts'
import { float, integers } from './case.ts'
import type { OpCase } from './case.ts'

const { kernels } = cpu
const parameters = 1 << 24
const constant = (shape: readonly number[], options: { low?: number; high?: number } = {}) => float(shape, { ...options, gradient: false })
const fixed = (shape: readonly number[], low = 0, high = 1) => float(shape, { low, high, gradient: false, fixed: 'float32' })
const square = [4096, 4096]

export const kernelCases: readonly OpCase[] = [
  {
    op: 'adamw', name: '16M parameters', inputs: [fixed([parameters]), fixed([parameters]), fixed([parameters]), constant([parameters])], benchOnly: true,
    run(p, m, v, g) {
      kernels.adamw([p.handle], [m.handle], [v.handle], [], [g.handle], 0, [1e-4], 0.9, 0.999, 1e-8, [0.1], 3)
      return p
    },
    // Parameter and both moments are read and written.
    forward: { bytes: (size) => parameters * (24 + size) },
  },
  {
    op: 'sumSquares', name: '16M numbers', inputs: [constant([parameters])], benchOnly: true, forward: { bytes: (size) => parameters * size },
    run(x) {
      const y = Tensor.empty([1], { dtype: 'float64' })
      kernels.sum_squares(y.handle, [x.handle], false)
      return y
    },
  },
  { op: 'convert', name: 'from float32, 16M numbers', inputs: [fixed([parameters])], run: (x) => toDtype(x, 'bfloat16'), forward: { bytes: () => parameters * 6 }, benchOnly: true },
  { op: 'add', name: '[4096, 4096]', inputs: [constant(square), constant(square)], run: (a, b) => add(a, b), forward: { bytes: (size) => parameters * 3 * size }, benchOnly: true },
  { op: 'add', name: '[4096, 4096] and a row', inputs: [constant(square), constant([4096])], run: (a, b) => add(a, b), forward: { bytes: (size) => parameters * 2 * size }, benchOnly: true },
  { op: 'exp', name: '[4096, 4096]', inputs: [constant(square)], run: (x) => exp(x), forward: { bytes: (size) => parameters * 2 * size }, benchOnly: true },
  { op: 'abs', name: '[4096, 4096]', inputs: [constant(square)], run: (x) => abs(x), forward: { bytes: (size) => parameters * 2 * size }, benchOnly: true },
  { op: 'sum', name: '[4096, 4096] of rows', inputs: [constant(square)], run: (x) => sum(x, [1]), forward: { bytes: (size) => parameters * size }, benchOnly: true },
  { op: 'sum', name: '[4096, 4096] of columns', inputs: [constant(square)], run: (x) => sum(x, [0]), forward: { bytes: (size) => parameters * size }, benchOnly: true },
  { op: 'permute', name: '[4096, 4096] transposed', inputs: [constant(square)], run: (x) => permute(x, [1, 0]), forward: { bytes: (size) => parameters * 2 * size }, benchOnly: true },
  {
    op: 'permute', name: '[4, 512, 12, 64] heads first', inputs: [constant([4, 512, 12, 64])], run: (x) => permute(x, [0, 2, 1, 3]),
    forward: { bytes: (size) => 4 * 512 * 12 * 64 * 2 * size }, benchOnly: true,
  },
  {
    op: 'randomNormal', name: '16M numbers', inputs: [constant([parameters])], benchOnly: true, forward: { bytes: (size) => parameters * size },
    run(x) {
      kernels.random_normal(x.handle, 0, 1, 1, 2)
      return x
    },
  },
  ...([['greedy', [0, 0, 1, 0, 1]], ['top-k 50, top-p 0.95', [0.8, 50, 0.95, 0, 1]]] as const).map(([name, options]): OpCase => ({
    op: 'sample', name: `8x151936 ${name}`, inputs: [constant([8, 151936], { low: -8, high: 8 }), integers(Array.from({ length: 16 }, (_, i) => i), [8, 2])], benchOnly: true,
    run(logits, draw) {
      const [token, logprob] = [Tensor.empty([8], { dtype: 'int32' }), Tensor.empty([8])]
      const table = Tensor.from(Array.from({ length: 8 }, () => options).flat(), [8, 5])
      kernels.sample(token.handle, logprob.handle, logits.handle, table.handle, 0, draw.handle)
      return token
    },
    forward: { bytes: (size) => 8 * 151936 * size },
  })),
]
