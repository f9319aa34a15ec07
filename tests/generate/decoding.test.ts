// Proves, for weights of 16, 8 and 4 bits, whose new tokens are multiplied in another order than prompts: an answer does not depend on what is generated
// beside it, and its log-probabilities differ from teacher forcing's by little, which is stated.
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { generate, type GenerateOptions, type GenerationOutput } from '../../src/generate/index.ts'
import { AutoModelForCausalLM, type CausalLanguageModel } from '../../src/models/index.ts'
import { quantizeModel, type QuantizeModelOptions } from '../../src/quantization/index.ts'
import { cpu, noGrad, scope } from '../../src/tensor/index.ts'

const prompts = [[5, 9, 30], [7], [12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22], [40, 41], [99, 3, 99, 3, 99, 3]]
const sampling: GenerateOptions = { doSample: true, maxNewTokens: 24, seed: 11, eosTokenId: null }
const isa = cpu.isa
afterAll(() => { cpu.isa = isa })

const stored: { name: string, dtype: 'bfloat16' | 'float32', quantize?: QuantizeModelOptions, bound: number }[] = [
  // A bfloat16 model's activations are rounded after each operation: another order of sums may round one of them the other way, by 2^-8 of it.
  { name: 'bfloat16', dtype: 'bfloat16', bound: 0.1 },
  { name: 'nf4 and bfloat16', dtype: 'bfloat16', quantize: { format: 'nf4' }, bound: 0.1 },
  { name: 'nf4 and float32', dtype: 'float32', quantize: { format: 'nf4' }, bound: 5e-3 },
  { name: 'int4 and float32', dtype: 'float32', quantize: { format: 'int4', block: 64, zeroPoints: true }, bound: 5e-3 },
  { name: 'int8 and float32', dtype: 'float32', quantize: { format: 'int8' }, bound: 5e-3 },
]

describe.each(stored)('$name', ({ dtype, quantize, bound }) => {
  let model: CausalLanguageModel
  let alone: GenerationOutput[]
  beforeAll(async () => {
    cpu.isa = isa
    model = AutoModelForCausalLM.fromConfig({
      modelType: 'llama', vocabSize: 300, hiddenSize: 64, intermediateSize: 128, numHiddenLayers: 2, numAttentionHeads: 4, numKeyValueHeads: 2, maxPositionEmbeddings: 256,
      initializerRange: 0.2, bosTokenId: null, eosTokenId: null,
    }, { seed: 7, dtype })
    if (quantize) await quantizeModel(model, quantize)
    alone = (await Promise.all(prompts.map((prompt) => generate(model, null, [prompt], sampling)))).flat()
  })
  afterAll(() => { model.dispose() })

  test.each([
    ['what else is generated', {}],
    ['how many at a time', { maxBatchSize: 2 }],
    ['the pieces prompts are computed in', { prefillTokens: 1 }],
    ['the room in the cache', { maxCacheBytes: 1 }],
  ] as [string, GenerateOptions][])('an answer does not depend on %s', async (_, options) => {
    expect(await generate(model, null, prompts, { ...sampling, ...options })).toEqual(alone)
    expect(await generate(model, null, prompts.toReversed(), { ...sampling, ...options })).toEqual(alone.toReversed())
  })

  test('nor on the order and number of samples of its prompt', async () => {
    const many = await generate(model, null, prompts, { ...sampling, numReturnSequences: 4 })
    expect(prompts.map((_, i) => many[4 * i])).toEqual(alone)
    for (const options of [{ maxBatchSize: 3, prefillTokens: 4 }, { maxBatchSize: 1 }]) {
      expect(await generate(model, null, prompts, { ...sampling, numReturnSequences: 4, ...options })).toEqual(many)
    }
  })

  test.each(cpu.isas)('log-probabilities are those of teacher forcing, within the bound: %s', async (name) => {
    cpu.isa = name
    const outputs = await generate(model, null, prompts, sampling)
    let largest = 0
    for (const [i, { tokenIds, logprobs }] of outputs.entries()) {
      const forced = await scope(() => noGrad(() => model.logprobs({ inputIds: [[...prompts[i]!, ...tokenIds]] }).logprob)).data()
      logprobs.forEach((logprob, t) => { largest = Math.max(largest, Math.abs(logprob - Number(forced[prompts[i]!.length - 1 + t]))) })
    }
    expect(largest).toBeLessThan(bound)
    // The kernels for new tokens do run.
    expect(largest).toBeGreaterThan(0)
  })
})
