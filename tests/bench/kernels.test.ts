// Proves that the benchmarks time every kernel, forward and backward, or say why not. Kernels are recorded and not run: the cases are large.
import { afterAll, beforeAll, expect, test } from 'vitest'
import { native } from '../../lib/index.js'
import type { Kernels } from '../../lib/index.js'
import { cpu } from '../../src/tensor/index.ts'
import { callsOf, dtypesOf } from '../../bench/calls.ts'
import { notTimed } from '../../bench/notTimed.ts'
import { label } from '../cases/case.ts'
import type { OpCase } from '../cases/case.ts'
import { timedCases } from '../cases/timed/index.ts'

type Name = keyof Kernels
const names = Object.keys(native.kernels) as Name[]
const real = { ...native.kernels }
const called = new Set<Name>()

beforeAll(() => { for (const name of names) native.kernels[name] = () => { called.add(name) } })
afterAll(() => { Object.assign(native.kernels, real) })

/** What the timed calls of a case call, without what makes their inputs. */
function kernelsOf(opCase: OpCase): Name[] {
  return dtypesOf(opCase).flatMap((dtype) => {
    const calls = callsOf(opCase, dtype, cpu)
    called.clear()
    calls.forward()
    calls.both?.()
    calls.dispose()
    return [...called]
  })
}

test('every kernel is timed, or it says why not', () => {
  const byCase = timedCases.map((opCase) => ({ name: label(opCase), kernels: kernelsOf(opCase) }))
  const timed = new Set(byCase.flatMap(({ kernels }) => kernels))
  expect(byCase.filter(({ kernels }) => kernels.length === 0).map(({ name }) => name)).toEqual([])
  expect(names.filter((name) => !timed.has(name) && !(name in notTimed))).toEqual([])
  expect(Object.keys(notTimed).filter((name) => timed.has(name as Name))).toEqual([])
})

test('no two timed cases have the same name', () => {
  const labels = timedCases.map(label)
  expect(labels.filter((name, i) => labels.indexOf(name) !== i)).toEqual([])
})
