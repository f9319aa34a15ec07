// Proves that a row's text reaches the teacher in its own tokens, and that the tokens of a group stand for the same text in both tokenizers.
import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { collate } from '../../../src/data/index.ts'
import { DataError } from '../../../src/errors.ts'
import { alignRow, sharedTokens } from '../../../src/methods/distillation/alignment.ts'
import { placesOf, UniversalAligner, type UldOptions } from '../../../src/methods/distillation/universalBatch.ts'
import { Tokenizer } from '../../../src/tokenizers/index.ts'

const eos: Record<string, string> = { gpt2: '<|endoftext|>', qwen2: '<|im_end|>', llama2: '</s>' }
const read = (name: string): Tokenizer => Tokenizer.fromJSON(readFileSync(new URL(`../../recorded/tokenizers/${name}.tokenizer.json`, import.meta.url), 'utf8'), { eos_token: eos[name], bos_token: name === 'llama2' ? '<s>' : undefined })
const tokenizers = Object.fromEntries(Object.keys(eos).map((name) => [name, read(name)]))

const prompt = 'The café costs 12,50 €. Why?'
const completion = ' Because naïve 日本語 😀 tokens split unpredictably — don’t they?\n\tYes.'

function rowOf(tokenizer: Tokenizer): { ids: number[], labels: number[] } {
  const before = tokenizer.encode(prompt)
  const after = [...tokenizer.encode(completion, { addSpecialTokens: false }), tokenizer.eosTokenId!]
  return { ids: [...before, ...after], labels: [...before.map(() => -100), ...after] }
}

test.each([['gpt2', 'qwen2'], ['qwen2', 'gpt2'], ['gpt2', 'llama2'], ['llama2', 'qwen2']] as const)('%s with %s as its teacher', (own, other) => {
  const [student, teacher] = [tokenizers[own]!, tokenizers[other]!]
  const { ids, labels } = rowOf(student)
  const { teacherIds, groups } = alignRow(student, teacher, ids, labels, { skipEos: true })
  const clean = (text: string): string => text.replaceAll('</s>', '').replaceAll('<s>', '').replaceAll(/<\|\w+\|>/g, '')
  expect(clean(teacher.decode(teacherIds)).trim()).toBe(clean(student.decode(ids)).trim())
  expect(teacherIds.at(-1)).toBe(teacher.eosTokenId)
  // Groups follow one another, and together they are the completion.
  for (const side of ['student', 'teacher'] as const) for (const [i, group] of groups.entries()) if (i > 0) expect(group[side][0]).toBe(groups[i - 1]![side][1])
  expect(groups.at(-1)!.student[1]).toBe(ids.length - 1)
  expect(groups.at(-1)!.teacher[1]).toBe(teacherIds.length - 1)
  expect(groups.length).toBeGreaterThan(10)
  for (const { student: [from, to], teacher: [start, end] } of groups) {
    expect(teacher.decode(teacherIds.slice(start, end)).trim()).toBe(student.decode(ids.slice(from, to)).trim())
  }
  expect(alignRow(student, teacher, ids, labels, { skipEos: false }).groups.at(-1)).toEqual({ student: [ids.length - 1, ids.length], teacher: [teacherIds.length - 1, teacherIds.length] })
})

test('several trained parts are aligned one by one, and a row without an end has none in the teacher', () => {
  const [student, teacher] = [tokenizers['gpt2']!, tokenizers['qwen2']!]
  const parts = ['Ask one.', ' Answer one.', ' Ask two.', ' Answer twice.'].map((text) => student.encode(text))
  const ids = parts.flat()
  const labels = parts.flatMap((part, i) => i % 2 === 0 ? part.map(() => -100) : part)
  const { teacherIds, groups } = alignRow(student, teacher, ids, labels, { skipEos: true })
  expect(teacher.decode(teacherIds)).toBe('Ask one. Answer one. Ask two. Answer twice.')
  expect(groups.map(({ student: [from, to] }) => student.decode(ids.slice(from, to))).join('')).toBe(' Answer one. Answer twice.')
})

test('the same tokenizer groups token with token', () => {
  const { ids, labels } = rowOf(tokenizers['gpt2']!)
  const { teacherIds, groups } = alignRow(tokenizers['gpt2']!, tokenizers['gpt2']!, ids, labels, { skipEos: false })
  expect(teacherIds).toEqual(ids)
  expect(groups.every(({ student, teacher }) => student[1] - student[0] === 1 && teacher[0] === student[0])).toBe(true)
})

test('shared tokens are written alike', () => {
  const [student, teacher] = [tokenizers['gpt2']!, tokenizers['qwen2']!]
  const shared = sharedTokens(student, teacher)
  expect(shared.student.length).toBeGreaterThan(200)
  shared.student.forEach((id, i) => { expect(student.idToToken(id)).toBe(teacher.idToToken(shared.teacher[i]!)) })
})

test('places of merged groups: the last distribution, or the one after the first token', () => {
  const ids = [9, 8, 7, 6, 5]
  expect(placesOf([[1, 2], [2, 5]], ids, 'bayesian')).toEqual({ base: Int32Array.of(0, 3), factorIds: Int32Array.of(-100, 7, 6, -100, -100), factors: [[], [1, 2]] })
  expect(placesOf([[1, 2], [2, 5]], ids, 'observed')).toEqual({ base: Int32Array.of(1, 2), factorIds: Int32Array.of(-100, -100, -100, 6, 5), factors: [[], [3, 4]] })
})

test('a batch: rows follow one another, weigh as much as their trained tokens, and must fit the teacher', () => {
  const [student, teacher] = [tokenizers['gpt2']!, tokenizers['qwen2']!]
  const options: UldOptions = { useExtendedUld: true, uldTokenMergeStrategy: 'bayesian', uldSkipEos: true, uldUseHybridLoss: false }
  const row = rowOf(student)
  const example = { inputIds: Int32Array.from(row.ids), labels: Int32Array.from(row.labels) }
  const batch = collate([example, example])
  const aligned = new UniversalAligner(student, teacher, options, 4096).align(batch)
  const half = aligned.weights.length / 2
  expect(aligned.weights.reduce((a, b) => a + b, 0)).toBeCloseTo(batch.numItems, 3)
  expect(aligned.student.base[half]).toBe(aligned.student.base[0]! + row.ids.length)
  expect(aligned.teacher.base[half]).toBe(aligned.teacher.base[0]! + aligned.cuSeqlens[1]!)
  expect(() => new UniversalAligner(student, teacher, options, 8).align(batch)).toThrow(DataError)
  const byPlace = new UniversalAligner(student, teacher, { ...options, useExtendedUld: false }, 4096).align(batch)
  expect(byPlace.student.factors.every((places) => places.length === 0)).toBe(true)
})
