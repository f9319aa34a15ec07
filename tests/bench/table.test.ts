// Proves that the tables of the benchmarks' page come from a run: every figure once, beside its peers.
import { expect, test } from 'vitest'
import type { Measurement, Run } from '../../bench/measurement.ts'
import { figures, withFigures } from '../../bench/table.ts'

const own: Measurement = { name: 'tiny-float32', isa: 'avx2', threads: 2, dtype: 'float32', pass: 'step', median: 0.01, best: 0.009, samples: 9, others: 0.01, unit: 'GFLOP/s', value: 100, share: 0.5, lag: 0.002, peakMemory: 2e9 }
const run: Run = {
  date: '2026-01-02T00:00:00.000Z', commit: 'abc', machine: 'a machine', versions: { node: 'v20' }, peaks: { threads: 2, gflops: { avx2: 200 }, read: 20, copy: 30 },
  measurements: [own, { ...own, peer: 'torch', isa: 'peer', median: 0.025, share: null, peakMemory: 3e9 }, { ...own, name: 'linear 1x2x3', pass: 'forward' }],
}

test('a step stands beside its peers, with ratio and memory', () => {
  const text = figures(run)
  expect(text).toContain('| tiny-float32, float32 | 10.0 ms | 100 GFLOP/s, 50 % of peak, 2.00 GB, lag p99 2.00 ms | 25.0 ms (2.50×), 3.00 GB |')
  expect(text).toContain('| linear 1x2x3, float32 | 10.0 ms | 100 GFLOP/s, 50 % of peak |')
  expect(text).toContain('2026-01-02 at commit abc')
})

test('only what stands between the marks is replaced', () => {
  expect(withFigures('a\n<!-- figures -->\nold\n<!-- /figures -->\nb\n', 'new')).toBe('a\n<!-- figures -->\nnew\n<!-- /figures -->\nb\n')
  expect(() => withFigures('no marks', 'new')).toThrow('<!-- figures -->')
})
