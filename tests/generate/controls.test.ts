// Proves that options which ban or favour tokens give transformers' greedy answers token for token, and change no other answer.
import { readFileSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { biasAfter, completions, orderedBias, repetitions } from '../../src/generate/controls.ts'
import { generate, type GenerateOptions, type LogitsProcessor } from '../../src/generate/index.ts'
import { AutoModelForCausalLM, type CausalLanguageModel } from '../../src/models/index.ts'
import { noGrad, scope } from '../../src/tensor/index.ts'
import { folderOf } from '../models/recorded.ts'
import { camelCase } from './support.ts'

interface Case { prompt: number[], options: Record<string, unknown>, tokens: number[] }
const { families } = JSON.parse(readFileSync(new URL('../recorded/generate/controls.json', import.meta.url), 'utf8')) as { families: Record<string, { cases: Case[], even: Case }> }

/** record_controls.py's `Even`. */
const even: LogitsProcessor = ({ logits }) => {
  for (let id = 0; id < logits.length; id++) logits[id] = id % 2 === 1 ? -Infinity : logits[id]! + (id % 6 === 0 ? 4 : 0)
}
const nothing: LogitsProcessor = () => undefined

describe.each(Object.entries(families))('%s', (family, { cases, even: evenCase }) => {
  let model: CausalLanguageModel
  beforeAll(async () => { model = await AutoModelForCausalLM.fromPretrained(folderOf(family)) })
  afterAll(() => { model.dispose() })
  const answer = async ({ prompt, options }: Case, more: GenerateOptions = {}) =>
    (await generate(model, null, [prompt], { maxNewTokens: 16, eosTokenId: null, ...camelCase(options), ...more }))[0]!

  test('continues as transformers does, on the device and by the host', async () => {
    for (const one of cases) {
      const output = await answer(one)
      expect(output.tokenIds, JSON.stringify(one.options)).toEqual(one.tokens)
      expect(await answer(one, { logitsProcessor: nothing, prefillTokens: 4 })).toEqual(output)
    }
  })

  test('applies a function where transformers does', async () => {
    const output = await answer(evenCase, { logitsProcessor: even })
    expect(output.tokenIds).toEqual(evenCase.tokens)
    const whole = [...evenCase.prompt, ...output.tokenIds]
    const expected = scope(() => noGrad(() => model.logprobs({ inputIds: [whole] }).logprob))
    expect(output.logprobs).toEqual(Array.from(await expected.data(), Number).slice(evenCase.prompt.length - 1, -1))
  })

  test('the same from generation_config.json', async () => {
    const [one] = cases
    const kept = model.generationConfig
    model.generationConfig = { ...kept, ...one!.options } as typeof kept
    expect((await generate(model, null, [one!.prompt], { maxNewTokens: 16, eosTokenId: null }))[0]!.tokenIds).toEqual(one!.tokens)
    model.generationConfig = kept
  })
})

describe('properties', () => {
  /** Repeatable numbers of a small range, so that sequences come again. */
  const numbers = (count: number, below: number, seed: number): Int32Array => {
    let state = seed
    return Int32Array.from({ length: count }, () => { state = (Math.imul(state, 1664525) + 1013904223) >>> 0; return Math.floor(state / 2 ** 32 * below) })
  }
  const last = (ids: ArrayLike<number>, count: number) => Array.from(ids).slice(ids.length - count).join()

  test('repetitions are the tokens that would repeat a sequence', () => {
    for (let seed = 1; seed < 60; seed++) {
      const ids = numbers(seed, 4, seed)
      for (const size of [1, 2, 3, 5]) {
        const sequences = new Set(Array.from({ length: Math.max(0, ids.length - size + 1) }, (_, i) => Array.from(ids.subarray(i, i + size)).join()))
        const expected = [0, 1, 2, 3].filter((id) => ids.length >= size && sequences.has(last([...ids, id], size)))
        expect(repetitions(ids, size).toSorted((a, b) => a - b)).toEqual(expected)
      }
    }
  })

  test('completions and biases are of the sequences that the next token completes', () => {
    for (let seed = 1; seed < 60; seed++) {
      const ids = numbers(seed % 7, 3, seed)
      const sequences = [1, 2, 3, 4].flatMap((length) => [Array.from(numbers(length, 3, seed + length)), Array.from(numbers(length, 3, 9 * seed + length))])
      const completed = sequences.filter((sequence) => sequence.length <= ids.length + 1 && last([...ids, sequence.at(-1)!], sequence.length) === sequence.join())
      expect(completions(sequences, ids)).toEqual(completed.map((sequence) => sequence.at(-1)!))
      const distinct = new Map(sequences.map((sequence, i) => [sequence.join(), { sequence, bias: i + 1 }]))
      const bias = biasAfter(orderedBias(sequences.map((sequence, i) => [sequence, i + 1])), ids)
      for (const id of [0, 1, 2]) {
        const sum = [...distinct.values()].filter(({ sequence }) => completed.some((one) => one.join() === sequence.join()) && sequence.at(-1) === id).reduce((total, { bias }) => total + bias, 0)
        expect(bias.get(id) ?? 0).toBe(sum)
      }
    }
  })

  test('a sampled answer holds no banned sequence', async () => {
    const model = await AutoModelForCausalLM.fromPretrained(folderOf('llama2'))
    const badWordsIds = [[5], [6, 7], [43, 87, 41]]
    const outputs = await generate(model, null, [5, 6], { doSample: true, seed: 5, temperature: 2, numReturnSequences: 8, maxNewTokens: 40, eosTokenId: null, badWordsIds, noRepeatNgramSize: 2 })
    for (const { tokenIds } of outputs) {
      const all = `,${[5, 6, ...tokenIds].join()},`
      for (const word of [',6,7,', ',43,87,41,']) expect(all).not.toContain(word)
      expect(tokenIds).not.toContain(5)
      const pairs = [6, ...tokenIds].map((id, i, ids) => `${ids[i - 1] ?? 5},${id}`)
      expect(new Set(pairs).size).toBe(pairs.length)
    }
    model.dispose()
  })
})
