// Proves MiniLLM's advantages against TRL in float64: on rows without padding they are TRL's, packed with prompts between them too, and constants.
import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { miniLlmAdvantages } from '../../../src/methods/index.ts'
import { Tensor } from '../../../src/tensor/index.ts'

interface Golden { minillm: { student: number[][], teacher: number[][], cases: { gamma: number, lengthNormalization: boolean, advantage: number[][] }[] } }
const { minillm } = JSON.parse(readFileSync(new URL('../../recorded/distillation/golden.json', import.meta.url), 'utf8')) as Golden
const { student, teacher } = minillm

/** Each completion after a prompt of some length, of numbers that must not count. */
const prompts = [2, 0, 3, 1]
const packed = (rows: readonly number[][], filler: number): number[] => rows.flatMap((row, i) => [...Array<number>(prompts[i]!).fill(filler), ...row])
const counted = packed(student.map((row) => row.map(() => 1)), 0)
const cuSeqlens = student.reduce<number[]>((ends, row, i) => [...ends, ends.at(-1)! + prompts[i]! + row.length], [0])

test.each(minillm.cases)('gamma $gamma, lengthNormalization $lengthNormalization', async ({ gamma, lengthNormalization, advantage }) => {
  const own = Tensor.from(packed(student, 77), [counted.length], { dtype: 'float64' }).requiresGrad_()
  const taught = Tensor.from(packed(teacher, -5), [counted.length], { dtype: 'float64' })
  const result = miniLlmAdvantages(own, taught, { cuSeqlens, counts: (token) => counted[token] === 1 }, { gamma, lengthNormalization })
  const wanted = packed(advantage, 0)
  expect(result.requiresGrad).toBe(false)
  ;(await result.toArray()).forEach((x, i) => { expect(Math.abs(x - wanted[i]!)).toBeLessThan(1e-12) })
})
