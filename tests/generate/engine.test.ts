// Proves that an engine takes requests at any time, aborts, reports errors to whom they concern, and gives its memory back.
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { addAdapter, deleteAdapter, loadAdapterWeights, mergeAndUnload, saveAdapter, setAdapter, withoutAdapters } from '../../src/adapters/index.ts'
import { ConfigError } from '../../src/errors.ts'
import { generate, GenerationEngine, PrefixGroup, resolveGenerationConfig, sampleSeed, type GenerationRequest } from '../../src/generate/index.ts'
import { AutoModelForCausalLM, type CausalLanguageModel } from '../../src/models/index.ts'
import { scope, Tensor } from '../../src/tensor/index.ts'
import { temporaryFolder } from '../files/helpers.ts'
import { folderOf } from '../models/recorded.ts'

let model: CausalLanguageModel
beforeAll(async () => { model = await AutoModelForCausalLM.fromPretrained(folderOf('llama2')) })
afterAll(() => { model.dispose() })

const request = (ids: number[], maxNewTokens: number, more: Partial<GenerationRequest> = {}): GenerationRequest => {
  const promptIds = Int32Array.from(ids)
  return { promptIds, config: resolveGenerationConfig({ maxNewTokens, doSample: true, eosTokenId: null }), seed: sampleSeed(4, promptIds, 0), ...more }
}
const live = async () => { await model.device.fence(); return model.device.memory().live }

test('requests that come while others run give what they give alone', async () => {
  const expected = await Promise.all([[5, 6, 7], [8], [9, 10, 11, 12]].map(async (ids) => {
    using own = new GenerationEngine(model, { slots: 64 })
    return await own.submit(request(ids, 20))
  }))
  using engine = new GenerationEngine(model, { slots: 64, maxBatchSize: 2 })
  const later: ReturnType<typeof engine.submit>[] = []
  const first = engine.submit(request([5, 6, 7], 20, { onToken: () => { if (later.length < 2) later.push(engine.submit(request([[8], [9, 10, 11, 12]][later.length]!, 20))) } }))
  expect([await first, ...await Promise.all(later)]).toEqual(expected)
  expect(await engine.submit(request([8], 20))).toEqual(expected[1])
})

describe('aborting', () => {
  test('keeps what there is and lets the others go on', async () => {
    const controller = new AbortController()
    const whole = await generate(model, null, [[5, 6, 7]], { maxNewTokens: 30, eosTokenId: null })
    using engine = new GenerationEngine(model, { slots: 200, maxBatchSize: 2 })
    let count = 0
    const greedy = resolveGenerationConfig({ maxNewTokens: 30, eosTokenId: null })
    const [aborted, waiting, other] = await Promise.all([
      engine.submit(request([5, 6, 7], 30, { config: greedy, signal: controller.signal, onToken: () => { if (++count === 4) controller.abort() } })),
      engine.submit(request([5, 6, 7], 30, { config: greedy })),
      engine.submit(request([8, 9], 30, { signal: controller.signal })),
    ])
    expect(aborted.finishReason).toBe('aborted')
    expect(aborted.tokenIds).toEqual(whole[0]!.tokenIds.slice(0, 4))
    expect(aborted.logprobs).toEqual(whole[0]!.logprobs.slice(0, 4))
    expect(waiting).toEqual(whole[0])
    expect(other).toMatchObject({ finishReason: 'aborted', tokenIds: [] })
  })

  test('a signal that is aborted already gives empty answers', async () => {
    const outputs = await generate(model, null, [[5], [6]], { signal: AbortSignal.abort(), numReturnSequences: 2 })
    expect(outputs).toEqual(Array(4).fill({ tokenIds: [], text: '', logprobs: [], finishReason: 'aborted', promptTokens: 1 }))
  })

  test('the first sample of a prompt leaves the others their prompt', async () => {
    const controller = new AbortController()
    const expected = await generate(model, null, [[5, 6, 7, 8, 9]], { maxNewTokens: 6, eosTokenId: null, doSample: true, seed: 4, numReturnSequences: 3 })
    using engine = new GenerationEngine(model, { slots: 30, prefillTokens: 2 })
    const group = new PrefixGroup()
    const promptIds = Int32Array.from([5, 6, 7, 8, 9])
    const answers = [0, 1, 2].map((sample) => engine.submit(request([5, 6, 7, 8, 9], 6, { group, seed: sampleSeed(4, promptIds, sample), ...(sample === 0 ? { signal: controller.signal } : {}) })))
    await Promise.resolve()
    controller.abort()
    const outputs = await Promise.all(answers)
    expect(outputs[0]!.finishReason).toBe('aborted')
    expect(outputs.slice(1)).toEqual(expected.slice(1))
  })
})

test('memory is back where it was after answers, errors and dispose()', async () => {
  await generate(model, null, [[5, 6]], { maxNewTokens: 2 })
  const before = await live()
  await generate(model, null, [[5, 6], [7, 8, 9]], { maxNewTokens: 10, doSample: true, numReturnSequences: 3, repetitionPenalty: 1.2, minNewTokens: 4 })
  expect(await live()).toBe(before)
  // Inside a scope too: what the engine makes is its own.
  const answers = scope(() => { const made = { running: generate(model, null, [[5, 6]], { maxNewTokens: 5 }) }; return [made.running].map((running) => ({ running: () => running })) })
  expect((await answers[0]!.running())[0]!.tokenIds.length).toBe(5)
  expect(await live()).toBe(before)
  // As soon as a token is there, and while the next step is under way.
  for (const moment of [(dispose: () => void) => { dispose() }, (dispose: () => void) => { setImmediate(dispose) }]) {
    const engine = new GenerationEngine(model, { slots: 100 })
    let tokens = 0
    const dispose = () => {
      engine.dispose()
      engine.dispose()
    }
    await expect(engine.submit(request([5, 6], 50, { onToken: () => { if (tokens++ === 0) moment(dispose) } }))).rejects.toThrow('disposed while it was generating')
    await new Promise((resolve) => { setTimeout(resolve, 20) })
    expect(await live()).toBe(before)
    await expect(engine.submit(request([5], 5))).rejects.toThrow('was disposed')
  }
})

test('dropout is off while generating, and on again after', () => {
  model.train()
  const inside = model.getModule('model.layers.0')
  inside.training = false
  const engine = new GenerationEngine(model, { slots: 10 })
  expect([...model.namedModules()].some(([, module]) => module.training)).toBe(false)
  engine.dispose()
  expect(model.training).toBe(true)
  expect(inside.training).toBe(false)
  model.eval()
})

describe('errors', () => {
  test.each([
    ['an empty prompt', [], {}, 'the prompt has no tokens'],
    ['an id outside the vocabulary', [5, 160], {}, 'token 1 is 160, but the model\'s vocabulary has ids 0 to 159'],
    ['a prompt as long as the context', Array<number>(64).fill(5), {}, 'the prompt has 64 tokens, but the model\'s context holds 64'],
    ['a prompt as long as maxLength', [5, 6, 7], { maxLength: 3 }, 'the prompt has 3 tokens, but maxLength is 3'],
    ['an end outside the vocabulary', [5], { eosTokenId: 160 }, 'eosTokenId: expected ids from 0 to 159'],
    ['a misspelt option', [5], { maxNewToken: 3 }, 'did you mean "maxNewTokens"?'],
    ['a misspelt option of the run', [5], { maxBatchsize: 3 }, 'did you mean "maxBatchSize"?'],
    ['a wrong value', [5], { topP: 2 }, 'topP: '],
  ] as [string, number[], object, string][])('%s', async (_, ids, options, message) => {
    // llama2's config has a BOS token, which stands in for an empty prompt.
    if (ids.length === 0) { using engine = new GenerationEngine(model, { slots: 9 }); await expect(engine.submit(request(ids, 5))).rejects.toThrow(message); return }
    await expect(generate(model, null, [ids], options)).rejects.toThrow(message)
    await expect(generate(model, null, [[5], ids], options)).rejects.toMatchObject({ code: 'ERR_CONFIG' })
  })

  test.each([
    ['no options', undefined, 'submit: expected an object of options, such as { promptIds, config, seed: 1 }, got undefined'],
    ['a list of ids', { ...request([5], 3), promptIds: [5] }, 'promptIds: expected an Int32Array of token ids'],
    ['no config', { ...request([5], 3), config: undefined }, 'config: expected what resolveGenerationConfig(options) gives'],
    ['options in the place of config', { ...request([5], 3), config: { maxNewTokens: 3 } }, 'config: expected what resolveGenerationConfig(options) gives'],
    ['no seed', { ...request([5], 3), seed: undefined }, 'seed: expected a whole number of 32 bits, got undefined'],
    ['a seed of more bits', request([5], 3, { seed: 2 ** 31 }), 'seed: expected a whole number of 32 bits, got 2147483648'],
  ])('a request with %s', async (_, wrong, message) => {
    using engine = new GenerationEngine(model, { slots: 10 })
    await expect(engine.submit(wrong as GenerationRequest)).rejects.toMatchObject({ code: 'ERR_CONFIG', message: expect.stringContaining(message) as string })
  })

  test('an answer longer than the engine\'s cache is refused at once', async () => {
    using engine = new GenerationEngine(model, { slots: 10 })
    await expect(engine.submit(request([5, 6], 20))).rejects.toThrow('need 21 slots, but the engine has 10')
    expect(() => new GenerationEngine(model, { slots: 0 })).toThrow('slots: expected a whole number from 1')
  })

  test('an error in onToken reaches its own request only', async () => {
    using engine = new GenerationEngine(model, { slots: 100 })
    const failing = engine.submit(request([5], 10, { onToken: () => { throw new Error('mine') } }))
    const other = engine.submit(request([6], 10))
    await expect(failing).rejects.toThrow('mine')
    expect((await other).tokenIds.length).toBe(10)
  })

  test('weights that are not numbers reject every answer, and the engine can go on', async () => {
    using engine = new GenerationEngine(model, { slots: 100 })
    const norm = model.getParameter('model.norm.weight').tensor
    const kept = await norm.data() as Float32Array
    const broken = Tensor.full(norm.shape, NaN)
    norm.device.kernels.convert(norm.handle, broken.handle)
    broken.dispose()
    const results = await Promise.allSettled([engine.submit(request([5], 10)), engine.submit(request([6, 7], 10))])
    for (const result of results) expect((result as PromiseRejectedResult).reason).toMatchObject({ code: 'ERR_NON_FINITE', message: expect.stringContaining('NaN') as string })
    norm.copy_(kept)
    expect((await engine.submit(request([5], 10))).tokenIds.length).toBe(10)
  })
})

describe('several tokens for each look', () => {
  const tiny = (more: { ropeScaling?: { type: 'linear' | 'dynamic', factor: number }, maxPositionEmbeddings?: number } = {}): CausalLanguageModel => AutoModelForCausalLM.fromConfig({
    modelType: 'llama', vocabSize: 50, hiddenSize: 32, intermediateSize: 64, numHiddenLayers: 2, numAttentionHeads: 4, numKeyValueHeads: 2, maxPositionEmbeddings: 256,
    initializerRange: 0.2, bosTokenId: null, eosTokenId: null, ...more,
  }, { seed: 7 })
  const greedy = (maxNewTokens: number): GenerationRequest => request([1, 2, 3, 4], maxNewTokens, { config: resolveGenerationConfig({ maxNewTokens, eosTokenId: null }) })

  test('reach every position that linear scaling adds, and those beyond the table', async () => {
    const own = tiny({ ropeScaling: { type: 'linear', factor: 64 } })
    // The capacity of the second needs positions that no table has.
    for (const [promptTokens, count] of [[4, 400], [8190, 12]] as const) {
      const promptIds = Int32Array.from({ length: promptTokens }, (_, i) => i % 50)
      using engine = new GenerationEngine(own, { slots: 9000 })
      const { tokenIds } = await engine.submit({ ...greedy(count), promptIds })
      expect(tokenIds).toHaveLength(count)
      const all = Int32Array.from([...promptIds, ...tokenIds])
      const logits = await own.forward({ inputIds: [all], outputLogits: true, logitsToKeep: count + 1 }).logits!.data()
      const largest = tokenIds.map((_, t) => {
        const row = Array.from(logits.subarray(t * 50, t * 50 + 50) as Float32Array)
        return row.indexOf(Math.max(...row))
      })
      expect(tokenIds).toEqual(largest)
    }
    own.dispose()
  })

  test('beside a prompt whose own frequencies leave no table', async () => {
    const own = tiny({ ropeScaling: { type: 'dynamic', factor: 2 }, maxPositionEmbeddings: 1024 })
    using engine = new GenerationEngine(own, { slots: 3000, prefillTokens: 2000 })
    const alone = await engine.submit(greedy(600))
    const fresh = tiny({ ropeScaling: { type: 'dynamic', factor: 2 }, maxPositionEmbeddings: 1024 })
    using other = new GenerationEngine(fresh, { slots: 3000, prefillTokens: 2000 })
    const [beside] = await Promise.all([other.submit(greedy(600)), other.submit({ ...greedy(1), promptIds: Int32Array.from({ length: 1100 }, (_, i) => i % 50) })])
    expect(beside).toEqual(alone)
    own.dispose()
    fresh.dispose()
  })

  test('follow adapters that come, change and go between requests', async () => {
    const own = tiny()
    using engine = new GenerationEngine(own, { slots: 100 })
    const fresh = async () => {
      using other = new GenerationEngine(own, { slots: 100 })
      return await other.submit(greedy(60))
    }
    const base = await engine.submit(greedy(60))
    expect(await engine.submit(greedy(60))).toEqual(base)
    await addAdapter(own, { type: 'lora', r: 4, targetModules: ['q_proj', 'v_proj'], initLoraWeights: false })
    const adapted = await engine.submit(greedy(60))
    expect(adapted).toEqual(await fresh())
    expect(adapted.tokenIds).not.toEqual(base.tokenIds)
    deleteAdapter(own, 'default')
    expect(await engine.submit(greedy(60))).toEqual(base)
    own.dispose()
  })
})

describe('adapters that change while an answer is under way', () => {
  /** A small model with adapters "a" and "b", of which "b" is active. */
  const adapted = async (): Promise<CausalLanguageModel> => {
    const own = AutoModelForCausalLM.fromConfig({
      modelType: 'llama', vocabSize: 50, hiddenSize: 32, intermediateSize: 64, numHiddenLayers: 2, numAttentionHeads: 4, numKeyValueHeads: 2, maxPositionEmbeddings: 4096, initializerRange: 0.2, bosTokenId: null, eosTokenId: null,
    }, { seed: 7 })
    for (const [name, seed] of [['a', 1], ['b', 2]] as const) await addAdapter(own, { type: 'lora', r: 4, targetModules: ['q_proj', 'v_proj'], initLoraWeights: false }, { name, seed })
    return own
  }
  type Change = (own: CausalLanguageModel, folder: string) => unknown
  const changes: [string, Change, RegExp][] = [
    ['setAdapter', (own) => { setAdapter(own, 'a') }, /begun with adapter b, and the model has adapter a now/],
    ['setAdapter to several', (own) => { setAdapter(own, ['a', 'b']) }, /adapter a and b now/],
    ['deleteAdapter', (own) => { deleteAdapter(own, 'b') }, /no adapter now/],
    ['mergeAndUnload', (own) => { mergeAndUnload(own) }, /no adapter now/],
    ['loadAdapterWeights', (own, folder) => loadAdapterWeights(own, folder, 'b'), /adapter b now/],
  ]

  test.each(changes)('%s: what was begun is rejected, and what waited begins with the new ones', async (_, change, message) => {
    const [own, folder] = [await adapted(), temporaryFolder()]
    await saveAdapter(own, folder, { name: 'a' })
    using engine = new GenerationEngine(own, { slots: 3100, maxBatchSize: 1 })
    let [changed, count]: [unknown, number] = [undefined, 0]
    const begun = engine.submit(request([1, 2, 3], 3000, { onToken: () => { if (++count === 12) changed = change(own, folder) } }))
    const waiting = engine.submit(request([4, 5], 20))
    await expect(begun).rejects.toThrow(ConfigError)
    await expect(begun).rejects.toThrow(message)
    const late = await waiting
    await Promise.resolve(changed)
    using other = new GenerationEngine(own, { slots: 200 })
    expect(await other.submit(request([4, 5], 20))).toEqual(late)
    expect(await engine.submit(request([4, 5], 20))).toEqual(late)
    own.dispose()
  })

  test('a pass without them, and the same again, disturb nothing', async () => {
    const own = await adapted()
    using engine = new GenerationEngine(own, { slots: 200 })
    const alone = await engine.submit(request([1, 2, 3], 60))
    const disturb = (): void => {
      withoutAdapters(own, () => { scope(() => own.forward({ inputIds: [Int32Array.of(1, 2)] })) })
      setAdapter(own, 'b')
    }
    expect(await engine.submit(request([1, 2, 3], 60, { onToken: disturb }))).toEqual(alone)
    own.dispose()
  })
})

test('samples of one prompt may be of different lengths', async () => {
  const limits = [40, 5, 6, 7]
  const alone = await Promise.all(limits.map(async (limit) => {
    using own = new GenerationEngine(model, { slots: 60 })
    return await own.submit(request([5, 6, 7], limit))
  }))
  using engine = new GenerationEngine(model, { slots: 100, maxBatchSize: 2 })
  const group = new PrefixGroup()
  expect(await Promise.all(limits.map((limit) => engine.submit(request([5, 6, 7], limit, { group }))))).toEqual(alone)
})
