// Proves that a rollout depends on seed, step and its number only, and that its log-probabilities are the model's.
import { afterAll, beforeAll, expect, test } from 'vitest'
import { ConfigError } from '../../../src/errors.ts'
import { generateRollouts, type Rollout, type RolloutOptions } from '../../../src/methods/reinforcement/rollouts/rollouts.ts'
import type { CausalLanguageModel } from '../../../src/models/index.ts'
import { noGrad, scope } from '../../../src/tensor/index.ts'
import type { Tokenizer } from '../../../src/tokenizers/index.ts'
import { textModel } from '../../generate/support.ts'

let model: CausalLanguageModel
let tokenizer: Tokenizer
beforeAll(async () => { ({ model, tokenizer } = await textModel()) })
afterAll(() => { model.dispose() })

const prompts = ['the quick', 'she sells sea', 'the quick', 'a']
const options: RolloutOptions = { seed: 3, step: 5, numGenerations: 3, maxCompletionLength: 9 }

test('groups come in order, with prompts, tokens, text and masks of their own', async () => {
  const seen: number[] = []
  const rollouts = await generateRollouts(model, tokenizer, prompts, { ...options, onGroup: (group) => { seen.push(group[0]!.prompt) } })
  expect(rollouts.map(({ prompt, sample }) => [prompt, sample])).toEqual([0, 1, 2, 3].flatMap((p) => [0, 1, 2].map((s) => [p, s])))
  expect(seen.sort()).toEqual([0, 1, 2, 3])
  for (const { prompt, promptIds, completionIds, logprobs, mask, text } of rollouts) {
    expect(Array.from(promptIds)).toEqual(Array.from(tokenizer.encode(prompts[prompt]!)))
    expect([logprobs.length, mask.length]).toEqual([completionIds.length, completionIds.length])
    expect(mask.every((one) => one === 1)).toBe(true)
    expect(text).toBe(tokenizer.decode(completionIds, { skipSpecialTokens: true }))
  }
  // The same text twice is two prompts.
  expect(new Set(rollouts.filter(({ prompt }) => prompt !== 1 && prompt !== 3).map(({ completionIds }) => completionIds.join())).size).toBe(6)
})

test('a rollout does not depend on what else is generated', async () => {
  const whole = await generateRollouts(model, tokenizer, prompts, options)
  for (const other of [{ maxBatchSize: 1 }, { maxBatchSize: 5, prefillTokens: 2 }, { maxCacheBytes: 1 }]) expect(await generateRollouts(model, tokenizer, prompts, { ...options, ...other })).toEqual(whole)
  const parts: Rollout[] = []
  for (const [i, prompt] of prompts.entries()) parts.push(...await generateRollouts(model, tokenizer, [prompt], { ...options, firstPrompt: i }))
  expect(parts.map(({ completionIds, logprobs }) => [completionIds, logprobs])).toEqual(whole.map(({ completionIds, logprobs }) => [completionIds, logprobs]))
  for (const other of [{ step: 6 }, { seed: 4 }]) expect(await generateRollouts(model, tokenizer, prompts, { ...options, ...other })).not.toEqual(whole)
})

test('log-probabilities are those of teacher forcing, to the bit', async () => {
  for (const { promptIds, completionIds, logprobs } of await generateRollouts(model, tokenizer, prompts, { ...options, topK: 20, temperature: 0.7 })) {
    const logprob = scope(() => noGrad(() => model.logprobs({ inputIds: [[...promptIds, ...completionIds]] }).logprob))
    expect(Array.from(logprobs)).toEqual(Array.from(await logprob.data(), Number).slice(promptIds.length - 1, -1))
  }
})

test('generation_config.json does not change how answers are drawn', async () => {
  const plain = await generateRollouts(model, tokenizer, prompts, options)
  model.generationConfig = { temperature: 0.1, top_k: 1, repetition_penalty: 2 }
  try {
    expect(await generateRollouts(model, tokenizer, prompts, options)).toEqual(plain)
  } finally {
    model.generationConfig = undefined
  }
})

test.each<[Partial<RolloutOptions>, string]>([
  [{ maxCompletionLength: 256 }, "prompt 0 has 4 tokens, which with maxCompletionLength 256 is more than the model's context of 256"],
  [{ numGenerations: 0 }, 'numGenerations: expected a whole number from 1, got 0'],
  [{ temperature: 0 }, 'temperature: expected a number above 0'],
])('%j is refused', async (wrong, message) => {
  const failure = generateRollouts(model, tokenizer, prompts, { ...options, ...wrong })
  await expect(failure).rejects.toThrow(ConfigError)
  await expect(failure).rejects.toThrow(message)
})
