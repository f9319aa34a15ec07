// Proves that universal logit distillation equals TRL's ULDLoss, loss and gradient in float64, however many groups a chunk has, and that texts are aligned as
// TRL aligns them.
import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { alignByBytes } from '../../../src/methods/distillation/alignment.ts'
import { placesOf } from '../../../src/methods/distillation/universalBatch.ts'
import { universalDistances, type UniversalSide } from '../../../src/methods/distillation/universalLoss.ts'
import { mean, selectiveLogSoftmax } from '../../../src/ops/index.ts'
import { backward, scope, Tensor } from '../../../src/tensor/index.ts'

interface Side { ids: number[]; before: number; ends: number[]; logits: number[] }
interface Golden {
  vocabularies: [number, number]
  shared: { student: number[], teacher: number[] }
  rows: { student: Side, teacher: Side }[]
  cases: { extended: boolean, strategy: 'bayesian' | 'observed', hybrid: boolean, weights: [number, number] | null, beta: number, temperature: number, rows: { loss: number, gradient: number[] }[] }[]
  alignments: { student: number[], teacher: number[], groups: [number, number, number, number][] }[]
}
const golden = JSON.parse(readFileSync(new URL('../../recorded/distillation/uld.json', import.meta.url), 'utf8')) as Golden

test('tokens are grouped as TRL groups them', () => {
  for (const { student, teacher, groups } of golden.alignments) {
    expect(alignByBytes(student, teacher).map((group) => [...group.student, ...group.teacher])).toEqual(groups)
  }
})

/** A side whose hidden states are the logits themselves. */
const sideOf = (logits: Tensor, temperature: number): UniversalSide => ({ hidden: logits, logits: (rows) => rows, logprobs: (ids) => selectiveLogSoftmax(logits, ids, { temperature }).logprob })

const named = golden.cases.map((one) => ({ ...one, name: `${one.extended ? 'by text' : 'by place'}, ${one.strategy}${one.hybrid ? `, hybrid of ${String(one.weights ?? 'its share')}, beta ${one.beta}` : ''}, temperature ${one.temperature}` }))
test.each(named.flatMap((one) => [1, 2, 9].map((chunkRows) => ({ ...one, chunkRows }))))('$name, chunks of $chunkRows', async (one) => {
  const [own, theirs] = golden.vocabularies
  for (const [i, { student, teacher }] of golden.rows.entries()) {
    const aligned = one.extended
      ? alignByBytes(student.ends.slice(0, -1), teacher.ends.slice(0, -1))
      : Array.from({ length: Math.min(student.ends.length, teacher.ends.length) - 1 }, (_, at) => ({ student: [at, at + 1] as const, teacher: [at, at + 1] as const }))
    const places = (side: 'student' | 'teacher') => placesOf(aligned.map((group) => [golden.rows[i]![side].before + group[side][0], golden.rows[i]![side].before + group[side][1]]), golden.rows[i]![side].ids, one.strategy)
    const batch = { student: places('student'), teacher: places('teacher') }
    const logits = Tensor.from(Float64Array.from(student.logits), [student.ids.length, own], { dtype: 'float64' }).requiresGrad_()
    const taught = Tensor.from(Float64Array.from(teacher.logits), [teacher.ids.length, theirs], { dtype: 'float64' })
    const matched = one.weights?.[0] ?? golden.shared.teacher.length / theirs
    const hybrid = one.hybrid ? { student: Int32Array.from(golden.shared.student), teacher: Int32Array.from(golden.shared.teacher), matchedWeight: matched, unmatchedWeight: one.weights?.[1] ?? 1 - matched } : undefined
    const losses: Promise<number>[] = []
    scope(() => {
      const loss = mean(universalDistances(sideOf(logits, one.temperature), sideOf(taught, one.temperature), batch, { temperature: one.temperature, beta: one.beta, hybrid, chunkRows: one.chunkRows })!)
      losses.push(loss.item())
      backward(loss)
    })
    expect(await losses[0]).toBeCloseTo(one.rows[i]!.loss, 10)
    const gradient = await logits.grad!.toArray()
    one.rows[i]!.gradient.forEach((x, at) => { expect(gradient[at]).toBeCloseTo(x, 6) })
    logits.dispose()
    taught.dispose()
  }
})
