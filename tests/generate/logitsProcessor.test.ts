// Proves that functions over logits see what they should, that their errors reach their own answer only, and that answers beside them do not change.
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { allowedTokens, generate, GenerationEngine, oneOf, resolveGenerationConfig, sampleSeed, stream, type GenerationOptions, type GenerationRequest, type LogitsContext, type LogitsProcessor } from '../../src/generate/index.ts'
import { AutoModelForCausalLM, type CausalLanguageModel } from '../../src/models/index.ts'
import { folderOf } from '../models/recorded.ts'
import { textModel } from './support.ts'

let model: CausalLanguageModel
beforeAll(async () => { model = await AutoModelForCausalLM.fromPretrained(folderOf('llama2')) })
afterAll(() => { model.dispose() })

const request = (ids: number[], options: GenerationOptions = {}, more: Partial<GenerationRequest> = {}): GenerationRequest => {
  const promptIds = Int32Array.from(ids)
  return { promptIds, config: resolveGenerationConfig({ maxNewTokens: 12, doSample: true, temperature: 1.3, eosTokenId: null, ...options }), seed: sampleSeed(4, promptIds, 0), ...more }
}
const only = (...ids: number[]) => allowedTokens(() => ids)
const live = async () => { await model.device.fence(); return model.device.memory().live }

/** Plain answers and answers with every kind of control. */
const requests = (): GenerationRequest[] => [
  request([5, 6, 7]), request([8], { repetitionPenalty: 1.3 }, { logitsProcessors: [only(9, 10, 11, 12, 13, 14)] }), request([9, 10], { noRepeatNgramSize: 2, topK: 7 }),
  request([9, 10, 11, 12], { sequenceBias: [[[5], 3], [[5, 6], 9]], topP: 0.9 }), request([40, 41], { doSample: false }),
  request([12], { forcedEosTokenId: 3, repetitionPenalty: 0.8, suppressTokens: [7] }), request([13, 14], { badWordsIds: [[5], [6, 7]], minP: 0.02 }, { logitsProcessors: [({ logits }) => logits.map((one) => 2 * one)] }),
]

test('the same controls give the same answers alone and in any batch, and leave their neighbours as they are', async () => {
  const alone = await Promise.all(requests().map(async (one) => {
    using own = new GenerationEngine(model, { slots: 32 })
    return await own.submit(one)
  }))
  for (const options of [{ slots: 400 }, { slots: 400, maxBatchSize: 3, prefillTokens: 2 }]) {
    using engine = new GenerationEngine(model, options)
    expect(await Promise.all(requests().map((one) => engine.submit(one)))).toEqual(alone)
    expect(await Promise.all(requests().toReversed().map((one) => engine.submit(one)))).toEqual(alone.toReversed())
  }
  expect(alone[1]!.tokenIds.every((id) => id >= 9 && id <= 14)).toBe(true)
  expect(alone[5]!.tokenIds.at(-1)).toBe(3)
})

test('a function that does nothing changes nothing, whatever the options', async () => {
  for (const { promptIds, config, seed } of requests()) {
    using engine = new GenerationEngine(model, { slots: 64 })
    expect(await engine.submit({ promptIds, config, seed, logitsProcessors: [() => undefined, ({ logits }) => logits.slice()] })).toEqual(await engine.submit({ promptIds, config, seed }))
  }
})

test('functions see the prompt, what was drawn, and the logits after the other options and functions', async () => {
  const seen: LogitsContext[] = []
  const look: LogitsProcessor = (context) => { seen.push({ ...context, logits: context.logits.slice() }) }
  const scribble: LogitsProcessor = ({ promptIds, tokenIds }) => { promptIds.fill(0); tokenIds.fill(0) }
  const options = { maxNewTokens: 4, eosTokenId: [2, 3], minNewTokens: 4, suppressTokens: [9], sequenceBias: [[[4], 2]] as [number[], number][] }
  const [plain] = await generate(model, null, [5, 6], options)
  const [output] = await generate(model, null, [5, 6], { ...options, logitsProcessor: [scribble, look, ({ logits }) => logits.map((one) => one + 1), look] })
  expect(output).toEqual(plain)
  expect(seen).toHaveLength(8)
  for (const [i, { promptIds, tokenIds, eosTokenIds, logits }] of seen.entries()) {
    expect(Array.from(promptIds)).toEqual([5, 6])
    expect(Array.from(tokenIds)).toEqual(output!.tokenIds.slice(0, Math.floor(i / 2)))
    expect(eosTokenIds).toEqual([2, 3])
    expect(logits).toHaveLength(model.config.vocabSize)
    for (const id of [2, 3, 9]) expect(logits[id]).toBe(-Infinity)
    if (i % 2 === 1) expect(logits).toEqual(seen[i - 1]!.logits.map((one) => one + 1))
  }
})

test('only some rows may have one, at some steps', async () => {
  const late: LogitsProcessor = ({ tokenIds, logits }) => tokenIds.length === 2 ? logits.fill(-Infinity).fill(0, 17, 18) : undefined
  const outputs = await generate(model, null, [[5, 6], [7]], { maxNewTokens: 5, eosTokenId: null, logitsProcessor: late })
  for (const { tokenIds } of outputs) expect(tokenIds[2]).toBe(17)
})

describe('errors', () => {
  const failing: [string, LogitsProcessor, string][] = [
    ['NaN', function spoil({ logits }) { logits[7] = NaN }, 'logitsProcessor 1 (spoil) at step 3 of the answer: expected numbers or -Infinity, got NaN for token 7'],
    ['Infinity', ({ logits }) => { logits[0] = Infinity }, 'logitsProcessor 1 at step 3 of the answer: expected numbers or -Infinity, got Infinity for token 0'],
    ['a wrong length', ({ logits }) => logits.subarray(1), 'expected 160 logits, one for each token of the vocabulary, got 159'],
    ['all -Infinity', ({ logits }) => { logits.fill(-Infinity) }, 'every token has -Infinity'],
    ['throwing', () => { throw new RangeError('mine') }, 'step 3 of the answer: mine'],
    ['a wrong type', (() => [1, 2]) as never, 'expected a Float32Array of logits or nothing, got an array'],
    ['a promise', (() => Promise.reject(new Error('late'))) as never, 'expected a synchronous function'],
    ['no tokens allowed', only(), 'logitsProcessor 1 (allowedTokens) at step 3 of the answer: every token has -Infinity'],
    ['an allowed id outside the vocabulary', only(160), 'expected ids from 0 to 159, the model\'s vocabulary, got 160'],
  ]
  test.each(failing)('%s: names function and step, and reaches its own answer only', async (_, processor, message) => {
    using engine = new GenerationEngine(model, { slots: 200 })
    const expected = await Promise.all([engine.submit(request([6])), engine.submit(request([7], { noRepeatNgramSize: 1 }, { logitsProcessors: [() => undefined] }))])
    await engine.submit(request([5]))
    const before = await live()
    const atThird: LogitsProcessor = (context) => context.tokenIds.length === 3 ? processor(context) : undefined
    Object.defineProperty(atThird, 'name', { value: processor.name })
    const error = engine.submit(request([5], {}, { logitsProcessors: [() => undefined, atThird] })).catch((reason: unknown) => reason)
    const others = [engine.submit(request([6])), engine.submit(request([7], { noRepeatNgramSize: 1 }, { logitsProcessors: [() => undefined] }))]
    expect(await error).toMatchObject({ code: 'ERR_CONFIG', message: expect.stringContaining(message) as string })
    expect(await Promise.all(others)).toEqual(expected)
    expect(await live()).toBe(before)
  })

  test('every token banned by options reaches its own answer only', async () => {
    using engine = new GenerationEngine(model, { slots: 200 })
    const all = Array.from({ length: 160 }, (_, id) => id)
    const expected = await engine.submit(request([6]))
    const errors = [{ suppressTokens: all }, { badWordsIds: all.map((id) => [id]) }].map((options) => engine.submit(request([5], options)).catch((reason: unknown) => reason))
    const processed = engine.submit(request([5], { suppressTokens: all }, { logitsProcessors: [({ logits }) => { logits.fill(0) }] })).catch((reason: unknown) => reason)
    const other = engine.submit(request([6]))
    for (const error of [...errors, processed]) expect(await error).toMatchObject({ code: 'ERR_CONFIG', message: expect.stringContaining('no token can be drawn at step 0 of the answer') as string })
    expect(await other).toEqual(expected)
  })

  test.each([
    ['an async function', { logitsProcessor: (async () => { await Promise.resolve() }) as never }, 'logitsProcessor 0: expected a synchronous function'],
    ['no function', { logitsProcessor: 5 as never }, 'logitsProcessor: expected a function'],
    ['a biased id outside the vocabulary', { sequenceBias: [[[5, 160], 1]] as [number[], number][] }, 'sequenceBias: expected ids from 0 to 159, the model\'s vocabulary, got 160'],
    ['a banned id outside the vocabulary', { badWordsIds: [[161]] }, 'badWordsIds: expected ids from 0 to 159'],
    ['a last id outside the vocabulary', { forcedEosTokenId: 160 }, 'forcedEosTokenId: expected ids from 0 to 159'],
    ['a last id that may not come', { forcedEosTokenId: 5, suppressTokens: [5] }, 'forcedEosTokenId: expected an id that may come'],
  ])('%s is refused at once', async (_, options, message) => {
    await expect(generate(model, null, [5], options)).rejects.toMatchObject({ code: 'ERR_CONFIG', message: expect.stringContaining(message) as string })
  })

  test('stream() gives what came before', async () => {
    const pieces: number[] = []
    const read = async () => {
      for await (const { tokenId } of stream(model, null, [5], { eosTokenId: null, logitsProcessor: ({ tokenIds }) => { if (tokenIds.length === 3) throw new Error('mine') } })) pieces.push(tokenId)
    }
    await expect(read()).rejects.toThrow('mine')
    expect(pieces).toHaveLength(3)
  })
})

describe('a choice', () => {
  test('of tokens by what came before', async () => {
    const [output] = await generate(model, null, [5, 6], { maxNewTokens: 6, eosTokenId: 2, logitsProcessor: allowedTokens((promptIds, tokenIds) => tokenIds.length === 4 ? [2] : [promptIds[0]! + tokenIds.length]) })
    expect(output).toMatchObject({ tokenIds: [5, 6, 7, 8, 2], finishReason: 'stop' })
  })

  test('of texts, drawn and greedy', async () => {
    const { tokenizer, model: own } = await textModel()
    const texts = ['the fox', 'the fox jumps', 'lazy dog', '🦊']
    const eosTokenId = tokenizer.encode('<|endoftext|>')[0]!
    const options = { eosTokenId, maxNewTokens: 40, logitsProcessor: oneOf(texts, tokenizer) }
    const outputs = await generate(own, tokenizer, ['quick', 'brown'], { ...options, doSample: true, temperature: 3, seed: 5, numReturnSequences: 30 })
    expect(new Set(outputs.map(({ text }) => text))).toEqual(new Set(texts))
    expect(outputs.every(({ finishReason }) => finishReason === 'stop')).toBe(true)
    expect(texts).toContain((await generate(own, tokenizer, 'quick', options))[0]!.text)
    await expect(generate(own, tokenizer, 'quick', { ...options, eosTokenId: null })).rejects.toThrow('oneOf) at step 0 of the answer: no token ends the answer')
    expect(() => oneOf([], tokenizer)).toThrow('expected one or more texts')
    own.dispose()
  })
})
