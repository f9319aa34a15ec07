// Proves that masking hides the share of tokens it is asked to, never special ones, whole words where wanted, and the same for the same seed.
import { expect, test } from 'vitest'
import { collate, ignoreIndex, maskTokens, RandomSequence, type Masking } from '../../src/data/index.ts'

const [mask, special, vocabulary] = [4, 5, 100]
const isSpecial = new Uint8Array(vocabulary).fill(1, 0, special)
const masking: Masking = {
  maskTokenId: mask, isSpecial, ordinaryIds: Int32Array.from({ length: vocabulary - special }, (_, i) => special + i), mlmProbability: 0.15, maskReplaceProb: 0.8, randomReplaceProb: 0.1,
}
/** Rows [CLS] … [SEP] of ids that count upwards. */
const rows = (count: number, length: number) => Array.from({ length: count }, (_, row) => {
  const inputIds = Int32Array.from({ length }, (_, t) => (t === 0 ? 2 : t === length - 1 ? 3 : special + ((row * 7 + t) % (vocabulary - special))))
  return { inputIds, labels: inputIds }
})
const random = (step = 0) => new RandomSequence(42, 'masking', step)

test('15 % are chosen, of which 80 % are masked, 10 % random and 10 % kept; special tokens never are', () => {
  const batch = collate(rows(400, 102))
  const { inputIds, labels, numItems } = maskTokens(batch, masking, random(), 0)
  const chosen = Array.from(labels.keys()).filter((t) => labels[t] !== ignoreIndex)
  expect(numItems).toBe(chosen.length)
  expect(chosen.every((t) => labels[t] === batch.inputIds[t] && batch.inputIds[t]! >= special)).toBe(true)
  for (const [t, id] of inputIds.entries()) if (labels[t] === ignoreIndex) expect(id).toBe(batch.inputIds[t])
  // Bounds of four standard deviations of 40,000 and 6,000 draws.
  const within = (share: number, expected: number, draws: number) => { expect(Math.abs(share - expected)).toBeLessThan(4 * Math.sqrt(expected * (1 - expected) / draws)) }
  within(chosen.length / 40_000, 0.15, 40_000)
  const [masked, kept] = [chosen.filter((t) => inputIds[t] === mask), chosen.filter((t) => inputIds[t] === labels[t])]
  within(masked.length / chosen.length, 0.8, chosen.length)
  within(kept.length / chosen.length, 0.1 + 0.1 / 95, chosen.length)
  expect(chosen.filter((t) => inputIds[t] !== mask).every((t) => inputIds[t]! >= special)).toBe(true)
})

test('a step is masked alike however it is cut into batches, and another step otherwise', () => {
  const examples = rows(6, 30)
  const whole = maskTokens(collate(examples), masking, random(), 0)
  const parts = [0, 2, 4].map((first) => maskTokens(collate(examples.slice(first, first + 2)), masking, random(), first * 30))
  expect(parts.flatMap(({ inputIds }) => Array.from(inputIds))).toEqual(Array.from(whole.inputIds))
  expect(parts.flatMap(({ labels }) => Array.from(labels))).toEqual(Array.from(whole.labels))
  expect(Array.from(maskTokens(collate(examples), masking, random(1), 0).labels)).not.toEqual(Array.from(whole.labels))
})

test('whole words are chosen or left', () => {
  // Odd ids go on with the word before them.
  const continuesWord = Uint8Array.from({ length: vocabulary }, (_, id) => id % 2)
  const batch = collate(rows(200, 60))
  const { labels } = maskTokens(batch, { ...masking, continuesWord }, random(), 0)
  let chosen = 0
  for (const [t, id] of batch.inputIds.entries()) {
    if (labels[t] !== ignoreIndex) chosen++
    if (isSpecial[id] || id % 2 === 0 || isSpecial[batch.inputIds[t - 1]!]) continue
    expect(labels[t] === ignoreIndex).toBe(labels[t - 1] === ignoreIndex)
  }
  expect(Math.abs(chosen / (200 * 58) - 0.15)).toBeLessThan(0.02)
})
