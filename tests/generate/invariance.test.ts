// Proves that an answer depends on its prompt, options and seed only, and that with float32 weights its log-probabilities are those of teacher forcing, bit
// for bit. Weights in fewer bits: tests/generate/decoding.test.ts.
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { generate, type GenerateOptions, type GenerationOutput } from '../../src/generate/index.ts'
import { AutoModelForCausalLM, type CausalLanguageModel } from '../../src/models/index.ts'
import { autocast } from '../../src/tensor/autocast.ts'
import { manualSeed, noGrad, scope } from '../../src/tensor/index.ts'
import { everyModel, folderOf, recordedOf } from '../models/recorded.ts'

let llama: CausalLanguageModel
beforeAll(async () => { llama = await AutoModelForCausalLM.fromPretrained(folderOf('llama2')) })
afterAll(() => { llama.dispose() })

const prompts = [[5, 9, 30], [7], [12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22], [40, 41], [99, 3, 99, 3, 99, 3]]
const sampling: GenerateOptions = { doSample: true, maxNewTokens: 12, seed: 11, eosTokenId: null, repetitionPenalty: 1.1 }

async function teacherForced(model: CausalLanguageModel, prompt: readonly number[], { tokenIds }: GenerationOutput, bf16 = false): Promise<number[]> {
  const run = () => scope(() => noGrad(() => model.logprobs({ inputIds: [[...prompt, ...tokenIds]] }).logprob))
  const logprob = bf16 ? autocast('bfloat16', run) : run()
  return Array.from(await logprob.data(), Number).slice(prompt.length - 1, -1)
}

describe('an answer does not depend on', () => {
  let alone: GenerationOutput[]
  beforeAll(async () => { alone = (await Promise.all(prompts.map((prompt) => generate(llama, null, [prompt], sampling)))).flat() })

  test.each([
    ['what else is generated', {}],
    ['how many at a time', { maxBatchSize: 2 }],
    ['the pieces prompts are computed in', { prefillTokens: 3 }],
    ['the room in the cache', { maxCacheBytes: 1 }],
  ] as [string, GenerateOptions][])('%s', async (_, options) => {
    expect(await generate(llama, null, prompts, { ...sampling, ...options })).toEqual(alone)
    expect(await generate(llama, null, prompts.toReversed(), { ...sampling, ...options })).toEqual(alone.toReversed())
  })

  test('the order and number of samples of its prompt', async () => {
    const many = await generate(llama, null, prompts, { ...sampling, numReturnSequences: 4 })
    expect(prompts.map((_, i) => many[4 * i])).toEqual(alone)
    for (const options of [{ maxBatchSize: 3, prefillTokens: 4 }, { maxBatchSize: 1 }, { maxCacheBytes: 1 }]) {
      expect(await generate(llama, null, prompts, { ...sampling, numReturnSequences: 4, ...options })).toEqual(many)
    }
    // Equal prompts handed in one by one are samples too, and differ.
    const repeated = await generate(llama, null, [prompts[0]!, prompts[1]!, prompts[0]!, prompts[0]!], sampling)
    expect([repeated[0], repeated[2], repeated[3]]).toEqual(many.slice(0, 3))
    expect(new Set(many.slice(0, 4).map(({ tokenIds }) => tokenIds.join())).size).toBe(4)
  })
})

test('another seed gives another answer; without a seed manualSeed() repeats the answers', async () => {
  const tokens = async (options: GenerateOptions) => (await generate(llama, null, prompts, { ...sampling, ...options })).map(({ tokenIds }) => tokenIds)
  expect(await tokens({ seed: 12 })).not.toEqual(await tokens({ seed: 11 }))
  manualSeed(5)
  const [first, second] = [await tokens({ seed: undefined }), await tokens({ seed: undefined })]
  expect(second).not.toEqual(first)
  manualSeed(5)
  expect([await tokens({ seed: undefined }), await tokens({ seed: undefined })]).toEqual([first, second])
})

describe('log-probabilities are those of teacher forcing, to the bit', () => {
  // LongRoPE's frequencies change when an answer passes the original context, and dynamic scaling's at each token: keys in the cache keep the old ones.
  test.each(everyModel.filter(([label]) => !/longrope|dynamic/.test(label)))('%s', async (_, folder, { config, inputIds }) => {
    const model = await AutoModelForCausalLM.fromPretrained(folder, { config })
    const own = inputIds.map((ids) => ids.slice(0, 6))
    for (const options of [sampling, { ...sampling, temperature: 0.5, topK: 5, minNewTokens: 8, eosTokenId: [1, 2, 3], prefillTokens: 2, numReturnSequences: 2 }]) {
      const outputs = await generate(model, null, own, options)
      for (const [i, output] of outputs.entries()) expect(output.logprobs).toEqual(await teacherForced(model, own[Math.floor(i * own.length / outputs.length)]!, output))
    }
    model.dispose()
  })

  test('in float32 multiplied in bfloat16', async () => {
    const model = await AutoModelForCausalLM.fromPretrained(folderOf('qwen3'), { config: recordedOf('qwen3').default!.config })
    const outputs = await generate(model, null, prompts, { ...sampling, bf16: true })
    for (const [i, output] of outputs.entries()) expect(output.logprobs).toEqual(await teacherForced(model, prompts[i]!, output, true))
    model.dispose()
  })
})

test('dynamic scaling: an answer beyond the original context does not depend on the others', async () => {
  const model = await AutoModelForCausalLM.fromPretrained(folderOf('llama-rope'), { config: recordedOf('llama-rope').dynamic!.config })
  const long = [Array.from({ length: 20 }, (_, i) => 5 + i), [7, 8, 9], Array.from({ length: 14 }, (_, i) => 50 - i)]
  const alone = await Promise.all(long.map(async (prompt) => (await generate(model, null, [prompt], sampling))[0]))
  expect(await generate(model, null, long, { ...sampling, prefillTokens: 5 })).toEqual(alone)
  // Nor on others of the same prompt, which share its keys and values.
  const shared = await generate(model, null, [long[0]!], { ...sampling, numReturnSequences: 3 })
  expect(shared[0]).toEqual(alone[0])
  model.dispose()
})
