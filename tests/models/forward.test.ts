// Proves what forward() promises: padding and packing change nothing, the cache continues, losses add up, outputs on request, errors by input.
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { AutoModelForCausalLM, KeyValueCache, type CausalLanguageModel, type ForwardInput } from '../../src/models/index.ts'
import { backward, scope, Tensor } from '../../src/tensor/index.ts'
import { distance, folderOf, recordedOf } from './recorded.ts'

let llama: CausalLanguageModel
let gpt2: CausalLanguageModel
let mistral: CausalLanguageModel
let dynamic: CausalLanguageModel
let gemma3: CausalLanguageModel
beforeAll(async () => {
  [llama, gpt2, mistral, dynamic, gemma3] = await Promise.all([
    AutoModelForCausalLM.fromPretrained(folderOf('llama2')), AutoModelForCausalLM.fromPretrained(folderOf('gpt2')), AutoModelForCausalLM.fromPretrained(folderOf('mistral')),
    AutoModelForCausalLM.fromPretrained(folderOf('llama-rope'), { config: recordedOf('llama-rope').dynamic!.config }),
    AutoModelForCausalLM.fromPretrained(folderOf('gemma3')),
  ])
})
afterAll(() => { for (const model of [llama, gpt2, mistral, dynamic, gemma3]) model.dispose() })

const live: { dispose(): void }[] = []
afterEach(() => { for (const one of live.splice(0)) one.dispose() })

const { inputIds, labels } = recordedOf('llama2').default!
const floats = async (tensor: Tensor | undefined) => await tensor!.data() as Float32Array
const logitsOf = (model: CausalLanguageModel, input: ForwardInput) => floats(model.forward({ ...input, outputLogits: true }).logits)
const lossOf = (model: CausalLanguageModel, input: ForwardInput) => model.forward(input).loss!.item()

const longest = Math.max(...inputIds.map((ids) => ids.length))
const pad = (rows: number[][], value: number, left = false) => rows.map((row) => {
  const fill = Array<number>(longest - row.length).fill(value)
  return left ? [...fill, ...row] : [...row, ...fill]
})
const flat = inputIds.flat()
const cuSeqlens = [0, 13, 33, 40]

describe('the same batch', () => {
  test.each([
    ['padded on the right', { inputIds: pad(inputIds, 0), labels: pad(labels, -100), attentionMask: pad(inputIds.map((ids) => ids.map(() => 1)), 0) }],
    ['padded on the left', { inputIds: pad(inputIds, 0, true), labels: pad(labels, -100, true), attentionMask: pad(inputIds.map((ids) => ids.map(() => 1)), 0, true) }],
    ['packed', { inputIds: Int32Array.from(flat), labels: Int32Array.from(labels.flat()), cuSeqlens }],
    ['with positions given', { inputIds, labels, positionIds: inputIds.map((ids) => ids.map((_, i) => i)) }],
  ] as [string, ForwardInput][])('%s gives the same bits', async (_, input) => {
    for (const model of [llama, gpt2, mistral, gemma3]) {
      expect(await logitsOf(model, input)).toEqual(await logitsOf(model, { inputIds, labels }))
      expect(await lossOf(model, input)).toBe(await lossOf(model, { inputIds, labels }))
    }
  })

  test('one sequence at a time gives the same bits', async () => {
    for (const model of [llama, gpt2, mistral, gemma3]) {
      const together = await logitsOf(model, { inputIds })
      const alone = (await Promise.all(inputIds.map((ids) => logitsOf(model, { inputIds: ids })))).flatMap((values) => [...values])
      expect([...together]).toEqual(alone)
    }
  })

  test('shifted labels, as arrays and as a tensor', async () => {
    const shiftLabels = labels.map((row) => [...row.slice(1), -100])
    const expected = await lossOf(llama, { inputIds, labels })
    const numLabels = llama.forward({ inputIds, labels }).numLabels!
    expect(await lossOf(llama, { inputIds, shiftLabels })).toBe(expected)
    const onDevice = { inputIds: Tensor.from(Int32Array.from(flat)), cuSeqlens, shiftLabels: Tensor.from(Int32Array.from(shiftLabels.flat())) }
    expect(await lossOf(llama, { ...onDevice, numItems: numLabels })).toBe(expected)
    expect(() => llama.forward(onDevice)).toThrow('numItems: expected the number of labels')
  })
})

describe('the loss', () => {
  test('of parts, each over numItems, adds up', async () => {
    const whole = llama.forward({ inputIds, labels })
    const numItems = whole.numLabels!
    expect(numItems).toBe(labels.flatMap((row) => row.slice(1)).filter((label) => label !== -100).length)
    let sum = 0
    for (const [i, ids] of inputIds.entries()) sum += await lossOf(llama, { inputIds: [ids], labels: [labels[i]!], numItems })
    expect(Math.abs(sum / await whole.loss!.item() - 1)).toBeLessThan(1e-6)
  })

  test('is 0 with no label that counts', async () => {
    expect(await lossOf(llama, { inputIds: [[5, 6, 7]], labels: [[-100, -100, -100]] })).toBe(0)
    expect(await lossOf(llama, { inputIds: [[5]], labels: [[5]] })).toBe(0)
  })

  test('equals that of the logits, with label smoothing too', async () => {
    const shifted = labels.map((row) => [...row.slice(1), -100]).flat()
    const logits = await logitsOf(llama, { inputIds })
    for (const labelSmoothing of [0, 0.1]) {
      let [sum, count, correct] = [0, 0, 0]
      shifted.forEach((label, t) => {
        if (label === -100) return
        const row = [...logits.subarray(t * 160, (t + 1) * 160)]
        const most = Math.max(...row)
        const lse = most + Math.log(row.reduce((a, x) => a + Math.exp(x - most), 0))
        sum += (1 - labelSmoothing) * (lse - row[label]!) + labelSmoothing * (lse - row.reduce((a, x) => a + x, 0) / 160)
        correct += row[label] === most ? 1 : 0
        count++
      })
      const out = llama.forward({ inputIds, labels, labelSmoothing })
      expect(await out.loss!.item()).toBeCloseTo(sum / count, 5)
      expect((await floats(out.correct)).reduce((a, b) => a + b, 0)).toBe(correct)
      expect(out.logits).toBeUndefined()
    }
  })

  test('log-probabilities of the next tokens', async () => {
    const { nll } = llama.forward({ inputIds, labels: inputIds })
    const { logprob } = llama.logprobs({ inputIds })
    expect(distance(await floats(logprob), (await floats(nll)).map((x) => -x))).toBeLessThan(1e-6)
  })
})

describe('outputs on request', () => {
  test.each(['llama2', 'gpt2', 'gemma3'])('hidden states and attentions of %s as transformers has them', async (family) => {
    const model = { llama2: llama, gpt2, gemma3 }[family]!
    const recorded = recordedOf(family).default!
    const out = model.forward({ inputIds: recorded.inputIds, outputHiddenStates: true, outputAttentions: true })
    expect(out.hiddenStates!.length).toBe(recorded.hiddenStates!.length)
    for (const [i, states] of out.hiddenStates!.entries()) {
      const values = await floats(states)
      const width = model.config.hiddenSize
      expect(distance(values.subarray(32 * width, 33 * width), recorded.hiddenStates![i]!)).toBeLessThan(1e-5)
    }
    for (const [layer, ofLayer] of out.attentions!.entries()) {
      expect(ofLayer.map((one) => one.shape)).toEqual([13, 20, 7].map((n) => [model.config.numAttentionHeads, n, n]))
      const values = await floats(ofLayer[1])
      expect(distance(values.subarray(-20), recorded.attentions![layer]!)).toBeLessThan(1e-5)
    }
    expect(distance(await floats(out.logits), await logitsOf(model, { inputIds: recorded.inputIds }))).toBeLessThan(1e-6)
  })

  test('logits of the last tokens only', async () => {
    const all = await logitsOf(llama, { inputIds })
    const last = await floats(llama.forward({ inputIds, logitsToKeep: 1 }).logits)
    const rows = [12, 32, 39].flatMap((row) => [...all.subarray(row * 160, (row + 1) * 160)])
    expect([...last]).toEqual(rows)
    expect(llama.forward({ inputIds, logitsToKeep: 8 }).logits!.shape).toEqual([23, 160])
  })

  test('cuSeqlens says where sequences begin', () => {
    expect([...llama.forward({ inputIds }).cuSeqlens]).toEqual(cuSeqlens)
  })
})

describe('training', () => {
  const gradients = async (model: CausalLanguageModel) => {
    const result = new Map<string, Float32Array>()
    for (const [name, parameter] of model.namedParameters()) if (parameter.grad) result.set(name, await floats(parameter.grad))
    model.zeroGrad()
    return result
  }
  const run = (model: CausalLanguageModel) => { scope(() => { backward(model.forward({ inputIds, labels }).loss!) }) }

  test.each(['llama', 'gpt2', 'dynamic', 'gemma3'])('checkpointing %s gives the same gradients', async (name) => {
    const model = { llama, gpt2, dynamic, gemma3 }[name]!
    run(model)
    const plain = await gradients(model)
    model.train()
    model.gradientCheckpointingEnable()
    // No dropout in this comparison: GPT-2's would draw in another order.
    if (name === 'gpt2') for (const [, module] of model.namedModules()) if (module !== model) module.training = false
    run(model)
    model.gradientCheckpointingDisable()
    model.eval()
    for (const [parameter, gradient] of await gradients(model)) expect(distance(gradient, plain.get(parameter)!), parameter).toBeLessThan(1e-5)
  })

  test('frozen parameters get no gradient', async () => {
    llama.requiresGrad_(false)
    llama.requiresGrad_(true, 'model.layers.1')
    run(llama)
    expect([...(await gradients(llama)).keys()].every((name) => name.startsWith('model.layers.1.'))).toBe(true)
    llama.requiresGrad_(true)
  })

  test('dropout acts in train() only, and repeats with checkpointing', async () => {
    const plain = await lossOf(gpt2, { inputIds, labels })
    gpt2.train()
    const [first, second] = [await lossOf(gpt2, { inputIds, labels }), await lossOf(gpt2, { inputIds, labels })]
    gpt2.eval()
    expect(first).not.toBe(plain)
    expect(first).not.toBe(second)
    expect(Math.abs(first - plain)).toBeLessThan(1)
    expect(await lossOf(gpt2, { inputIds, labels })).toBe(plain)
  })
})

describe('the cache', () => {
  const open = (model: CausalLanguageModel, slots = 128) => {
    const cache = new KeyValueCache(model.config, { slots })
    live.push(cache)
    return cache
  }

  test('continues ragged prompts as one pass would', async () => {
    for (const model of [llama, gpt2, mistral, gemma3]) {
      const cache = open(model)
      const sequences = inputIds.map((ids) => cache.allocate(ids.length + 2))
      const cuts = [5, 11, 1]
      const heads = await logitsOf(model, { inputIds: inputIds.map((ids, i) => ids.slice(0, cuts[i])), cache, cacheSequences: sequences })
      expect(sequences.map((sequence) => sequence.length)).toEqual(cuts)
      const tails = await logitsOf(model, { inputIds: inputIds.map((ids, i) => ids.slice(cuts[i])), cache, cacheSequences: sequences })
      const whole = await logitsOf(model, { inputIds })
      const width = model.config.vocabSize
      let [h, t, w] = [0, 0, 0]
      inputIds.forEach((ids, i) => {
        const joined = [...heads.subarray(h, h += cuts[i]! * width), ...tails.subarray(t, t += (ids.length - cuts[i]!) * width)]
        expect(distance(joined, whole.subarray(w, w += ids.length * width))).toBeLessThan(2e-6)
      })
    }
  })

  test('lets sequences come, fork, be cut back, grow and go', async () => {
    const cache = open(llama, 40)
    const [first, other] = [cache.allocate(8), cache.allocate(8)]
    llama.forward({ inputIds: [[5, 6, 7, 8], [20, 21]], cache, cacheSequences: [first, other] })
    const fork = cache.fork(first, 10)
    cache.truncate(fork, 3)
    const part = cache.fork(first, 2, 2)
    expect([part.capacity, part.length]).toEqual([2, 2])
    cache.free(part)
    cache.free(other)
    cache.grow(first, 14)
    expect([first.capacity, first.length, fork.length]).toEqual([14, 4, 3])
    const both = await logitsOf(llama, { inputIds: [[9], [9]], cache, cacheSequences: [first, fork] })
    expect(distance(both.subarray(0, 160), (await logitsOf(llama, { inputIds: [[5, 6, 7, 8, 9]] })).subarray(640))).toBeLessThan(2e-6)
    expect(distance(both.subarray(160), (await logitsOf(llama, { inputIds: [[5, 6, 7, 9]] })).subarray(480))).toBeLessThan(2e-6)
    cache.free(first)
    cache.free(fork)
    expect([cache.freeSlots, cache.largestFree]).toEqual([40, 40])
  })

  test('says what does not fit', () => {
    const cache = open(llama, 10)
    const sequence = cache.allocate(4)
    expect(() => cache.allocate(7)).toThrow(/no room for 7 tokens: 6 of 10 slots are free, 6 in a row/)
    expect(() => llama.forward({ inputIds: [[1, 2, 3, 4, 5]], cache, cacheSequences: [sequence] })).toThrow(/holds 0 tokens of at most 4; 5 more do not fit/)
    expect(() => llama.forward({ inputIds: [[1]], cache })).toThrow('cache and cacheSequences: expected both or neither')
    expect(() => llama.forward({ inputIds: [[1], [2]], cache, cacheSequences: [sequence] })).toThrow('cacheSequences: expected 2')
    expect(() => llama.forward({ inputIds: [[1], [2]], cache, cacheSequences: [sequence, sequence] })).toThrow('cacheSequences: expected each sequence once')
    cache.free(sequence)
    expect(() => llama.forward({ inputIds: [[1]], cache, cacheSequences: [sequence] })).toThrow(/does not belong to this key-value cache, or was freed/)
    const narrow = new KeyValueCache(llama.config, { slots: 4, dtype: 'bfloat16' })
    live.push(narrow)
    expect(() => llama.forward({ inputIds: [[1]], cache: narrow, cacheSequences: [narrow.allocate(4)] })).toThrow('cache: expected dtype float32')
  })
})

describe('positions', () => {
  test('only differences matter, however far out', async () => {
    const near = await logitsOf(llama, { inputIds: [[5, 6, 7]], positionIds: [[0, 2, 3]] })
    for (const start of [100, 9000, 20_000_000]) {
      const far = await logitsOf(llama, { inputIds: [[5, 6, 7]], positionIds: [[start, start + 2, start + 3]] })
      // float32 angles of far positions are coarse, in transformers too.
      if (start < 10_000) expect(distance(far, near)).toBeLessThan(2e-3)
      expect(far.every(Number.isFinite)).toBe(true)
    }
  })
})

describe('a wrong input', () => {
  test.each([
    ['an id outside the vocabulary', { inputIds: [[5, 160]] }, 'inputIds: expected ids from 0 to 159, the model\'s vocabulary, got 160 at token 1'],
    ['a negative id', { inputIds: [[-1]] }, 'got -1 at token 0'],
    ['a fraction', { inputIds: [[1.5]] }, 'inputIds[0][0]: expected a whole number of 32 bits, got 1.5'],
    ['no tokens', { inputIds: [[]] }, 'inputIds: expected at least one token'],
    ['a label outside the vocabulary', { inputIds: [[5, 6]], labels: [[5, 161]] }, 'labels: expected ids from 0 to 159'],
    ['labels of another length', { inputIds: [[5, 6]], labels: [[5]] }, 'labels[0]: expected 2 entries, as inputIds[0] has, got 1'],
    ['too few label rows', { inputIds: [[5], [6]], labels: [[5]] }, 'labels: expected 2 sequences, as inputIds has, got 1'],
    ['a mask of another shape', { inputIds: [[5, 6]], attentionMask: [[1]] }, 'attentionMask[0]: expected 2 entries'],
    ['cuSeqlens that end early', { inputIds: [5, 6, 7], cuSeqlens: [0, 2] }, 'cuSeqlens: expected to start at 0 and end at the number of tokens (3), got 0 and 2'],
    ['cuSeqlens that fall', { inputIds: [5, 6, 7], cuSeqlens: [0, 4, 3] }, 'cuSeqlens: expected whole numbers that never fall, got 4 before 3'],
    ['a negative position', { inputIds: [[5, 6]], positionIds: [[0, -1]] }, 'positionIds: expected 0 or more, got -1'],
    ['both kinds of labels', { inputIds: [[5]], labels: [[5]], shiftLabels: [[5]] }, 'labels and shiftLabels: expected one of them'],
  ] as [string, ForwardInput, string][])('%s', (_, input, message) => {
    expect(() => llama.forward(input)).toThrow(message)
  })

  test('a prompt longer than GPT-2\'s positions', () => {
    expect(() => gpt2.forward({ inputIds: [Array<number>(41).fill(5)] })).toThrow(/positions below 40, GPT-2's n_positions, but a sequence of the batch needs 41/)
  })
})
