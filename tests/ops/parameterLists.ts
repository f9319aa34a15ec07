// The tests of what takes lists of parameters, for any device.
import { expect, test } from 'vitest'
import type { Kernels } from '../../lib/index.js'
import { toDtype } from '../../src/ops/index.ts'
import { Tensor } from '../../src/tensor/index.ts'
import { draw, type Run } from './adapterKernels.ts'
import { sameBits } from './compare.ts'

/** Many tensors in one call, as an optimizer step has them: more than a launch's table holds, of ragged sizes, empty and unaligned ones among them. */
export function describeParameterLists(run: Run): void {
  const sizes = [...Array.from({ length: 150 }, (_, i) => i % 9 === 4 ? 0 : 1 + i * 37 % 300), 70_001, 4097]
  const [beta1, beta2, eps, step] = [0.9, 0.99, 1e-8, 3]
  const rates = sizes.map((_, i) => 0.01 * (1 + i % 3))
  const decays = sizes.map((_, i) => i % 2 ? 0.1 : 0)
  /** Rows of one tensor after an odd number, so that only some lie on 16 bytes. */
  const parts = (name: string, of: (x: number) => number = (x) => x): Tensor[] => sizes.map((size, i) => {
    const whole = Tensor.from([0, ...draw(size, `${name} ${i}`)].map(of))
    return i % 5 === 2 ? whole.viewAs([size], 1) : Tensor.from(draw(size, `${name} ${i}`).map(of), [size])
  })

  test('the sum of squares of all', async () => {
    const { all, one, halves } = await run(() => {
      const tensors = parts('x')
      const sums = { all: Tensor.full([1], 2, { dtype: 'float64' }), one: Tensor.zeros([1], { dtype: 'float64' }), halves: Tensor.zeros([1], { dtype: 'float64' }) }
      const { kernels } = sums.all.device
      kernels.sum_squares(sums.all.handle, tensors.map(({ handle }) => handle), true)
      for (const { handle } of tensors) kernels.sum_squares(sums.one.handle, [handle], true)
      const mixed = tensors.map((tensor, i) => i % 2 ? tensor : toDtype(tensor, 'bfloat16'))
      kernels.sum_squares(sums.halves.handle, mixed.map(({ handle }) => handle), false)
      return sums
    })
    expect(Math.abs(Number(all[0]) - 2 - Number(one[0]))).toBeLessThan(1e-9 * Number(one[0]))
    expect(Math.abs(Number(halves[0]) / Number(one[0]) - 1)).toBeLessThan(1e-3)
  })

  test.each(['adamw', 'adamw_8bit'] as const)('%s changes each as a call of its own does', async (kernel) => {
    const update = async (together: boolean) => run(() => {
      const parameters = parts('p')
      const gradients = parts('g')
      const copies = sizes.map((size) => Tensor.empty([size], { dtype: 'bfloat16' }))
      const factor = Tensor.from([0.5])
      const { kernels } = factor.device
      const eight = kernel === 'adamw_8bit'
      const zeros = (code: number): Tensor[] => sizes.map((size) => eight ? Tensor.full([size], code, { dtype: 'uint8' }) : Tensor.zeros([size]))
      const [first, second] = [zeros(127), zeros(0)]
      const scales = (): Tensor[] => sizes.map((size) => Tensor.zeros([Math.ceil(size / 256)]))
      const [firstScales, secondScales] = [scales(), scales()]
      const call = (indices: readonly number[]): void => {
        const of = <T>(list: readonly T[]): T[] => indices.map((i) => list[i]!)
        const handles = (list: readonly Tensor[]): number[] => of(list).map(({ handle }) => handle)
        const rest = [handles(copies), handles(gradients), factor.handle, of(rates), beta1, beta2, eps, of(decays), step] as const
        if (eight) kernels.adamw_8bit(handles(parameters), handles(first), handles(second), handles(firstScales), handles(secondScales), ...rest)
        else kernels.adamw(handles(parameters), handles(first), handles(second), ...rest)
      }
      const every = sizes.map((_, i) => i)
      if (together) call(every)
      else for (const i of every) call([i])
      const named = (name: string, list: readonly Tensor[]) => list.map((tensor, i) => [`${name} ${i}`, tensor] as const)
      return Object.fromEntries([...named('parameter', parameters), ...named('copy', copies), ...named('first', first), ...named('second', second), ...named('scale', secondScales)])
    })
    const [expected, actual] = [await update(false), await update(true)]
    for (const [name, numbers] of Object.entries(expected)) expect(sameBits(actual[name]!, numbers), name).toBe(true)
  })

  test('lists that do not fit are refused', async () => {
    const wrong = async (call: (kernels: Kernels, x: number) => void) => run(() => {
      const x = Tensor.zeros([3])
      call(x.device.kernels, x.handle)
      return { x }
    })
    await expect(wrong((kernels, x) => { kernels.adamw([x, x], [x, x], [x], [], [x, x], 0, [1, 1], 0.9, 0.99, 1e-8, [0, 0], 1) })).rejects.toThrow('adamw: second must have 2 tensors, one for each parameter, but has 1')
    await expect(wrong((kernels, x) => { kernels.adamw([x], [x], [x], [], [x], 0, [1, 1], 0.9, 0.99, 1e-8, [0], 1) })).rejects.toThrow('adamw: learning_rate and weight_decay must have 1 numbers, one for each parameter, but have 2 and 1')
    await expect(wrong((kernels) => { kernels.adamw([], [], [], [], [], 0, [], 0.9, 0.99, 1e-8, [], 1) })).rejects.toThrow('adamw: expected at least one tensor, got empty lists')
  })
}
