// Proves that greedy answers are transformers' token for token, with every option, and that draws follow its distributions.
import { afterEach, describe, expect, test } from 'vitest'
import { contextLength, generate } from '../../src/generate/index.ts'
import { AutoModelForCausalLM, type CausalLanguageModel } from '../../src/models/index.ts'
import { everyModel, folderOf } from '../models/recorded.ts'
import { camelCase, recorded } from './support.ts'

let model: CausalLanguageModel | undefined
afterEach(() => { model?.dispose(); model = undefined })

describe('greedy', () => {
  test.each(everyModel)('%s continues as transformers does', async (_, folder, { config, prompt, greedy }) => {
    model = await AutoModelForCausalLM.fromPretrained(folder, { config })
    const [output] = await generate(model, null, prompt, { maxNewTokens: greedy.length, eosTokenId: null })
    // Dynamic scaling by 2 ends at 32 tokens here; transformers goes on.
    expect(output!.tokenIds).toEqual(greedy.slice(0, contextLength(model.config) - prompt.length))
    expect(output!.finishReason).toBe('length')
  })

  test.each(Object.entries(recorded.families))('%s with penalties, ends, bans and lengths, each alone and in pieces', async (family, { cases }) => {
    model = await AutoModelForCausalLM.fromPretrained(folderOf(family))
    for (const { prompt, options, tokens } of cases) {
      const own = { maxNewTokens: options.max_length === undefined ? 16 : undefined, eosTokenId: null, ...camelCase(options) }
      for (const prefillTokens of [512, 4]) {
        const [output] = await generate(model, null, [prompt], { ...own, prefillTokens })
        expect(output!.tokenIds).toEqual(tokens)
        expect(output!.finishReason).toBe(options.eos_token_id !== undefined && tokens.length < 16 ? 'stop' : 'length')
        expect(output!.promptTokens).toBe(prompt.length)
      }
    }
  })

  test.each(Object.entries(recorded.families))('%s: ragged prompts together give what each gives alone', async (family, { cases }) => {
    model = await AutoModelForCausalLM.fromPretrained(folderOf(family))
    const plain = cases.slice(0, 1)
    const prompts = [...plain.map(({ prompt }) => prompt), ...cases.slice(1).map(({ prompt }) => prompt)]
    const together = await generate(model, null, prompts, { maxNewTokens: 16, eosTokenId: null, maxBatchSize: 3, prefillTokens: 7 })
    expect(together[0]!.tokenIds).toEqual(plain[0]!.tokens)
    for (const [i, prompt] of prompts.entries()) expect(together[i]).toEqual((await generate(model, null, [prompt], { maxNewTokens: 16, eosTokenId: null }))[0])
  })

  test('generation_config.json gives the length and the end', async () => {
    model = await AutoModelForCausalLM.fromPretrained(folderOf('qwen2'))
    const [output] = await generate(model, null, [5, 6, 7], { eosTokenId: [] })
    expect(output!.tokenIds.length).toBe(recorded.families.qwen2!.defaultLength)
    const end = output!.tokenIds[3]!
    model.generationConfig = { ...model.generationConfig, eos_token_id: [end, 2] }
    const [ended] = await generate(model, null, [5, 6, 7])
    expect(ended!.tokenIds).toEqual(output!.tokenIds.slice(0, output!.tokenIds.indexOf(end) + 1))
    expect(ended!.finishReason).toBe('stop')
  })
})

describe('sampling', () => {
  const { prompt, cases } = recorded.distributions
  test.each(cases)('draws from the distribution of $options', async ({ options, tokens, probabilities }) => {
    model = await AutoModelForCausalLM.fromPretrained(folderOf('llama2'))
    const count = 2000
    const outputs = await generate(model, null, [prompt], { ...camelCase(options), doSample: true, maxNewTokens: 1, eosTokenId: null, numReturnSequences: count, seed: 3, maxBatchSize: 500 })
    const counts = new Map<number, number>()
    for (const { tokenIds: [id] } of outputs) counts.set(id!, (counts.get(id!) ?? 0) + 1)
    for (const id of counts.keys()) expect(tokens).toContain(id)
    // Pearson's statistic over the tokens expected at least 5 times; 5 deviations above its mean.
    let [statistic, cells] = [0, 0]
    tokens.forEach((id, i) => {
      const expected = probabilities[i]! * count
      if (expected < 5) return
      statistic += ((counts.get(id) ?? 0) - expected) ** 2 / expected
      cells++
    })
    expect(statistic).toBeLessThan(cells + 5 * Math.sqrt(2 * cells))
  })
})
