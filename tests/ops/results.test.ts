// Proves that an operation called outside of any scope leaves nothing but its results: disposing of them gives all its memory back, and a call that fails
// leaves nothing.
import { afterEach, describe, expect, test } from 'vitest'
import { linear } from '../../src/ops/index.ts'
import { cpu, Tensor } from '../../src/tensor/index.ts'
import { label, makeInputs, numbersOf } from '../cases/case.ts'
import { fusedCases } from '../cases/index.ts'
import { primitiveCases } from '../cases/primitives.ts'

const live = (): number => cpu.memory().live
afterEach(() => { cpu.setMemoryLimit(0) })

/** The bytes that `run` leaves once what it returned is disposed of. */
function left(run: () => Tensor | readonly Tensor[]): number {
  const before = live()
  const results = run()
  for (const result of results instanceof Tensor ? [results] : results) result.dispose()
  return live() - before
}

describe.each(fusedCases.filter(({ benchOnly }) => !benchOnly).map((opCase) => ({ name: label(opCase), opCase })))('$name', ({ opCase }) => {
  test.each(['float32', 'float64'] as const)('%s', (dtype) => {
    const inputs = makeInputs(opCase, dtype)
    const prepared = opCase.prepare?.(dtype)
    const { run } = prepared ?? opCase
    expect(left(() => run(...inputs))).toBe(0)
    for (const one of [...inputs, ...prepared ? [prepared] : []]) one.dispose()
  })
})

// The others' cases call several operations.
const composed = new Set(['equal', 'split', 'toDtype', 'where'])
test.each(primitiveCases.filter(({ op }) => !composed.has(op)).map((opCase) => ({ name: label(opCase), opCase })))('$name', ({ opCase }) => {
  const inputs = opCase.inputs.map((input, i) => Tensor.from(numbersOf(input, `results ${i}`), input.shape, { dtype: input.kind === 'integer' ? 'int32' : 'float32' }).requiresGrad_(input.kind === 'float'))
  expect(left(() => opCase.run(...inputs))).toBe(0)
  for (const input of inputs) input.dispose()
})

test('a call that fails half-way', () => {
  using x = Tensor.ones([2, 1024, 8]).requiresGrad_()
  using weight = Tensor.ones([8192, 8])
  cpu.emptyCache()
  const before = live()
  // Room for the result of 64 MiB, but not for as much again that is saved for backward.
  cpu.setMemoryLimit(cpu.memory().system + (96 << 20))
  expect(() => linear(x, weight, null, { activation: 'gelu' })).toThrow(expect.objectContaining({ code: 'ERR_OUT_OF_MEMORY' }) as Error)
  expect(live()).toBe(before)
  expect(left(() => linear(x, weight))).toBe(0)
})
