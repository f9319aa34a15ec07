// Proves that every primitive computes what plain loops compute, and that its gradient is the one central differences give in float64.
import { readFileSync } from 'node:fs'
import { afterAll, describe, expect, test } from 'vitest'
import * as operations from '../../src/ops/index.ts'
import {
  activations, advantageScalings, binaryOperations, policyObjectives, quantizedFormats, ratioLevels, reduceOperations, unaryOperations,
} from '../../src/ops/operations.ts'
import { backward, cpu, scope, Tensor } from '../../src/tensor/index.ts'
import { label, numbersOf } from '../cases/case.ts'
import { primitiveCases } from '../cases/primitives.ts'
import type { PrimitiveCase } from '../cases/primitives.ts'
import { randomNumbers } from '../cases/random.ts'
import { compute, normalisedError } from './compare.ts'

const { mul, sum } = operations
const isa = cpu.isa
afterAll(() => { cpu.isa = isa })

const seedOf = (opCase: PrimitiveCase, i: number): string => `${opCase.op} ${opCase.name} ${i}`
const numbers = (opCase: PrimitiveCase): Float64Array[] => opCase.inputs.map((input, i) => numbersOf(input, seedOf(opCase, i)))

function tensors(opCase: PrimitiveCase, values: readonly Float64Array[], dtype: 'float32' | 'float64' | 'bfloat16'): Tensor[] {
  return opCase.inputs.map((input, i) => Tensor.from(values[i]!, input.shape, { dtype: input.kind === 'integer' ? 'int32' : dtype }))
}

/** A weighted sum of the result, so that it is one number. */
const objective = (opCase: PrimitiveCase, inputs: Tensor[], weights: Tensor): Tensor => sum(mul(opCase.run(...inputs) as Tensor, weights))

const eps = 1e-6
const pick = (n: number): number[] => n <= 40 ? Array.from({ length: n }, (_, i) => i) : Array.from({ length: 40 }, (_, i) => Math.floor(i * n / 40))

describe.each(primitiveCases.map((opCase) => ({ name: label(opCase), opCase })))('$name', ({ opCase }) => {
  const values = numbers(opCase)
  const plain = opCase.plain(...opCase.inputs.map((input, i) => ({ shape: input.shape, numbers: values[i]! })))

  test.each([['float64', 1e-12], ['float32', 2e-6], ['bfloat16', 1e-2]] as const)('%s equals plain loops', async (dtype, tolerance) => {
    for (const isa of cpu.isas) {
      cpu.isa = isa
      const result = await compute(() => {
        const y = opCase.run(...tensors(opCase, values, dtype)) as Tensor
        expect(y.shape).toEqual(plain.shape)
        return y
      })
      expect(normalisedError(result, Float64Array.from(plain.numbers))).toBeLessThanOrEqual(tolerance)
    }
  })

  test('has the gradient of central differences', async () => {
    const random = randomNumbers(`weights ${label(opCase)}`)
    const weights = Tensor.from(Float64Array.from(plain.numbers, () => 2 * random() - 1), plain.shape)
    const inputs = tensors(opCase, values, 'float64')
    inputs.forEach((input, i) => { if (opCase.inputs[i]!.kind === 'float' && (opCase.inputs[i] as { gradient: boolean }).gradient) input.requiresGrad_() })
    if (!inputs.some((input) => input.requiresGrad)) return
    scope(() => { backward(objective(opCase, inputs, weights)) })
    const value = async (moved: Float64Array[]): Promise<number> => Number((await compute(() => objective(opCase, tensors(opCase, moved, 'float64'), weights)))[0])
    for (const [i, input] of inputs.entries()) {
      if (!input.requiresGrad) continue
      expect(input.grad!.shape).toEqual(input.shape)
      const gradient = await input.grad!.data()
      for (const k of pick(input.size)) {
        const moved = (by: number): Float64Array[] => values.map((array, j) => j === i ? array.map((x, at) => at === k ? x + by : x) : array)
        // float32 in between would drown the difference.
        const step = opCase.op === 'toDtype' ? 2 ** -6 : eps
        const expected = (await value(moved(step)) - await value(moved(-step))) / (2 * step)
        expect(Math.abs(Number(gradient[k]) - expected), `input ${i} at ${k}: ${String(gradient[k])} and ${expected}`).toBeLessThanOrEqual(1e-5 + 1e-3 * Math.abs(expected))
      }
    }
    for (const tensor of [weights, ...inputs]) tensor.dispose()
  })
})

test('every primitive has a case', () => {
  const source = readFileSync(new URL('../../src/ops/primitives.ts', import.meta.url), 'utf8')
  const names = [...source.matchAll(/^export (?:const|function) (\w+)/gm)].map((match) => match[1]!)
  const tested = new Set(primitiveCases.map(({ op }) => op.split(' ')[0]!))
  expect(names.filter((name) => !tested.has(name))).toEqual([])
})

test.each([[[3, 3]], [[8, -1]]])('split refuses the lengths %j of an axis of 7', (lengths) => {
  using x = Tensor.ones([2, 7])
  expect(() => operations.split(x, lengths)).toThrow(`split: lengths [${lengths.join(', ')}] must be 0 or more and sum to axis 1 of [2, 7]`)
})

test('operations.ts and native/operations.h hold the same lists', () => {
  const header = readFileSync(new URL('../../native/operations.h', import.meta.url), 'utf8')
  const lists = Object.fromEntries([...header.matchAll(/enum class (\w+) \{ (.+) \}/g)].map((match) => [match[1]!, match[2]!.split(', ')]))
  const names = (numbered: Record<string, number>): string[] => Object.entries(numbered).sort((a, b) => a[1] - b[1]).map(([name]) => name)
  expect(lists).toEqual({
    BinaryOperation: names(binaryOperations), UnaryOperation: names(unaryOperations), ReduceOperation: names(reduceOperations), Activation: names(activations),
    QuantizedFormat: names(quantizedFormats), AdvantageScaling: names(advantageScalings), PolicyObjective: names(policyObjectives), RatioLevel: names(ratioLevels),
  })
})
