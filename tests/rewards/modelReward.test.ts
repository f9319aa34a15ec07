// Proves that modelReward() gives a reward model's own score of prompt and completion, as tokens or as text, and says nothing of what does not fit.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { ConfigError } from '../../src/errors.ts'
import { Classifier } from '../../src/models/sequenceClassification.ts'
import { modelReward, type RewardSample } from '../../src/rewards/index.ts'
import { noGrad } from '../../src/tensor/index.ts'
import { Tokenizer } from '../../src/tokenizers/index.ts'
import { makeModel } from '../methods/support.ts'

let folder: string
let classifier: Classifier
let tokenizer: Tokenizer
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'anneal-reward-'))
  await makeModel(folder, 32)
  classifier = await Classifier.fromPretrained(folder, { numLabels: 1, seed: 5 })
  tokenizer = await Tokenizer.fromPretrained(folder)
})
afterAll(async () => {
  classifier.dispose()
  await rm(folder, { recursive: true })
})

const context = { signal: new AbortController().signal, step: 0 }
const sample = (prompt: string, completion: string): RewardSample =>
  ({ prompt, completion, promptIds: Int32Array.from(tokenizer.encode(prompt)), completionIds: Int32Array.from(tokenizer.encode(completion)), finishReason: 'stop', row: {} })
const scoreOf = (ids: readonly number[]): Promise<number> => noGrad(() => classifier.forward({ inputIds: [ids] })).item()

test('the score is that of the tokens, whatever else is scored', async () => {
  const samples = [sample('the cat', ' sees the moon.'), sample('a dog', ' likes')]
  const scores = await modelReward(classifier)(samples, context)
  for (const [i, { promptIds, completionIds }] of samples.entries()) expect(scores[i]).toBeCloseTo(await scoreOf([...promptIds, ...completionIds]), 6)
  expect(scores[0]).not.toBeCloseTo(scores[1]!, 4)
})

test('with a tokenizer of its own it reads the text, and of messages the chat', async () => {
  const reward = modelReward(classifier, { name: 'kindness', tokenizer })
  expect(reward.name).toBe('kindness')
  const [text] = await reward([{ ...sample('the cat', ' sees'), promptIds: Int32Array.of(1), completionIds: Int32Array.of(2) }], context)
  expect(text).toBeCloseTo(await scoreOf(tokenizer.encode('the cat sees')), 6)
  const messages = [{ role: 'user' as const, content: 'hi' }]
  const [chat] = await reward([{ ...sample('', 'the cat'), prompt: messages }], context)
  expect(chat).toBeCloseTo(await scoreOf([...tokenizer.applyChatTemplate([...messages, { role: 'assistant', content: 'the cat' }])]), 6)
})

test('an answer in a conversation that ended is read as the chat template ends it', async () => {
  const policyTokenizer = await Tokenizer.fromPretrained(folder)
  policyTokenizer.chatTemplate = "{% for message in messages %}{{ message.role }}: {{ message.content }}{{ '" + policyTokenizer.eosToken! + "' if message.role == 'assistant' }} end {% endfor %}"
  const prompt = [{ role: 'user' as const, content: 'hi' }]
  const whole = policyTokenizer.applyChatTemplate([...prompt, { role: 'assistant', content: 'the cat' }])
  const end = whole.lastIndexOf(policyTokenizer.eosTokenId!) + 1
  expect(whole.length).toBeGreaterThan(end)
  const answer = { ...sample('', 'the cat'), prompt, promptIds: Int32Array.from(whole.slice(0, 3)) }
  const samples = [{ ...answer, completionIds: Int32Array.from(whole.slice(3, end)) }, { ...answer, completionIds: Int32Array.from(whole.slice(3, end - 1)) }]
  const [ended, cut] = await modelReward(classifier, { policyTokenizer })(samples, context)
  expect(ended).toBeCloseTo(await scoreOf(whole), 6)
  expect(cut).toBeCloseTo(await scoreOf(whole.slice(0, end - 1)), 6)
})

test('what is longer than the context is not scored, and the model trains on as before', async () => {
  classifier.model.train()
  const scores = await modelReward(classifier)([{ ...sample('a', 'b'), completionIds: new Int32Array(40).fill(3) }, sample('a', 'b')], context)
  expect(scores.map((score) => score === null)).toEqual([true, false])
  expect(classifier.model.training).toBe(true)
  classifier.model.eval()
})

test('a model of several labels is refused', async () => {
  const three = await Classifier.fromPretrained(folder, { numLabels: 3 })
  expect(() => modelReward(three)).toThrow(ConfigError)
  expect(() => modelReward(three)).toThrow('expected a reward model with one label, got 3')
  three.dispose()
})
