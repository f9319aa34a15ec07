import { expect, test } from 'vitest'
import { matmul } from '../../src/ops/index.ts'
import { cpu, Graph, profile, scope, Tensor } from '../../src/tensor/index.ts'

const square = (size: number): Tensor => Tensor.zeros([size, size], { device: cpu })

test('a profile counts and times the kernels that ran, the longest first, those of graphs too', async () => {
  const [x, small] = [square(300), square(4)]
  const { graph } = Graph.capture(cpu, () => { cpu.kernels.fill(small.handle, 1) })
  const times = await profile(() => {
    scope(() => { for (let i = 0; i < 3; i++) matmul(x, x) })
    graph.replay()
    graph.replay()
  }, cpu)
  expect(times.map(({ kernel, calls }) => [kernel, calls])).toEqual([['gemm', 3], ['fill', 2]])
  expect(times[0]!.seconds).toBeGreaterThan(times[1]!.seconds)
  expect(times[1]!.seconds).toBeGreaterThan(0)
  const later = await profile(() => { cpu.kernels.fill(small.handle, 2) }, cpu)
  expect(later).toMatchObject([{ kernel: 'fill', calls: 1 }])
  for (const end of [x, small, graph]) end.dispose()
})

test('one at a time, and the next may be taken after one that failed', async () => {
  await expect(profile(() => profile(() => undefined, cpu), cpu)).rejects.toThrow('profile: one of cpu is being taken already; await it first')
  expect(await profile(() => undefined, cpu)).toEqual([])
})
