// Proves the options of GRPO and RLOO that steer what surrounds the loss: weights for answers of another engine, an entropy bonus with a target, the size of
// a generation, the order of prompts, dropout, evaluation with several answers, chat-template variables and reward models.
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { ConfigError } from '../../../src/errors.ts'
import { AdaptiveEntropy } from '../../../src/methods/reinforcement/policy/adaptiveEntropy.ts'
import { grpo } from '../../../src/methods/reinforcement/policy/grpo.ts'
import { policyBatch } from '../../../src/methods/reinforcement/policy/batch.ts'
import type { GrpoOptions } from '../../../src/methods/reinforcement/policy/options.ts'
import type { PolicyInput } from '../../../src/methods/reinforcement/policy/prepare.ts'
import { samplerWeights, type SamplerCorrection } from '../../../src/methods/reinforcement/policy/samplerCorrection.ts'
import { Classifier } from '../../../src/models/sequenceClassification.ts'
import { rewardEach } from '../../../src/rewards/index.ts'
import { Tokenizer } from '../../../src/tokenizers/index.ts'
import { temporaryFolder } from '../../files/helpers.ts'
import { followed, makeModel, sharedModel } from '../support.ts'

interface Row { prompt: string }
const rows: Row[] = ['the cat', 'a dog', 'my friend', 'one bird', 'the old king', 'the moon'].map((prompt) => ({ prompt }))
const letters = rewardEach<Row>('letters', ({ completion, completionIds }) => (completion.match(/e/g)?.length ?? 0) + completionIds[0]! / 100)

const model = sharedModel()
const live: { dispose(): void }[] = []
afterEach(() => { for (const one of live.splice(0)) one.dispose() })

async function run(changed: Partial<GrpoOptions> = {}, inputs: PolicyInput<Row> = { rows, rewards: [letters] }, stopAt?: number) {
  const one = await grpo<Row>({ model, outputDir: temporaryFolder(), reportTo: [], saveStrategy: 'no', numGenerations: 4, perDeviceTrainBatchSize: 8, maxCompletionLength: 6, learningRate: 3e-3, maxSteps: 2, loggingSteps: 1, ...changed, ...inputs })
  live.push(one, one.model)
  return followed(one, stopAt)
}

describe('weights for what another engine sampled', () => {
  const policy = Float32Array.of(-1, -2, -0.5, -1)
  const sampler = Float32Array.of(-1.5, -1, NaN, -3)
  const counted = Uint8Array.of(1, 1, 1, 0)
  const weigh = (options: Partial<SamplerCorrection>): number[] => Array.from(samplerWeights(policy, sampler, counted, {
    vllmImportanceSamplingCorrection: true, vllmImportanceSamplingMode: 'sequence_mask', vllmImportanceSamplingClipMax: 3, vllmImportanceSamplingClipMin: null, ...options,
  }), (value) => Number(value.toFixed(5)))

  test.each<[string, Partial<SamplerCorrection>, number[]]>([
    // e^0.5 = 1.64872, e^-1 = 0.36788 and e^-0.5 = 0.60653; an unknown log-probability and one that does not count weigh 1.
    ['by token', { vllmImportanceSamplingMode: 'token_truncate', vllmImportanceSamplingClipMax: null }, [1.64872, 0.36788, 1, 1]],
    ['by token, cut to bounds', { vllmImportanceSamplingMode: 'token_truncate', vllmImportanceSamplingClipMax: 1.5, vllmImportanceSamplingClipMin: 0.5 }, [1.5, 0.5, 1, 1]],
    ['by token, 0 beyond them', { vllmImportanceSamplingMode: 'token_mask', vllmImportanceSamplingClipMax: 1.5, vllmImportanceSamplingClipMin: 0.5 }, [0, 0, 1, 1]],
    ['of the answer', { vllmImportanceSamplingMode: 'sequence_truncate' }, [0.60653, 0.60653, 0.60653, 0.60653]],
    ['of the answer, 0 beyond a bound', { vllmImportanceSamplingClipMin: 0.7 }, [0, 0, 0, 0]],
  ])('%s', (_, options, wanted) => { expect(weigh(options)).toEqual(wanted) })

  test('multiply with the masks, token by token', () => {
    const rollout = { prompt: 0, sample: 0, promptIds: Int32Array.of(1, 2), completionIds: Int32Array.of(5, 6), text: '', logprobs: Float32Array.of(-1, -1), mask: Uint8Array.of(1, 1), finishReason: 'stop' } as const
    const one = { rollout, advantage: 1, counted: Uint8Array.of(1, 1), old: null, reference: null, weights: Float32Array.of(0.5, 2) }
    const options = { lossType: 'dapo', generationTokens: 2, maxCompletionLength: 4, gradientAccumulationSteps: 1, stepsPerGeneration: 1 } as const
    expect(Array.from(policyBatch([one], options).factors!)).toEqual([0, 0.5, 2])
    expect(Array.from(policyBatch([one], options, { factors: [[1, 0]], bonus: [[0, 1]] }).factors!)).toEqual([0, 0.5, 0])
    expect(Array.from(policyBatch([one], options, { factors: [[1, 0]], bonus: [[0, 1]] }).bonus)).toEqual([0, 0, 1])
    expect(policyBatch([{ ...one, weights: null }], options).factors).toBeNull()
    // VESPO takes them into its own weight of the answer.
    const vespo = policyBatch([{ ...one, weights: Float32Array.of(0.5, 0) }], { ...options, lossType: 'vespo' })
    expect(vespo.factors).toBeNull()
    expect(vespo.samplerLogRatios![0]).toBeCloseTo(Math.log(0.5) + Math.log(1e-8), 5)
    expect(policyBatch([{ ...one, weights: null }], { ...options, lossType: 'vespo' }).samplerLogRatios).toBeNull()
  })
})

describe('a rollout server', () => {
  let server: Server
  let url: string
  let asked: { model: unknown, authorization: string | undefined }[] = []
  beforeAll(async () => {
    server = createServer((request, response) => {
      let text = ''
      request.on('data', (piece) => { text += String(piece) })
      request.on('end', () => {
        const { model: name, seed } = JSON.parse(text) as { model: unknown, seed: number }
        asked.push({ model: name, authorization: request.headers.authorization })
        const ids = [5 + seed % 50, 9, 12]
        response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify({ choices: [{ text: 'e', finish_reason: 'length', token_ids: ids, logprobs: { token_logprobs: [-5, -6, -5.5] } }] }))
      })
    })
    await new Promise<void>((done) => { server.listen(0, '127.0.0.1', done) })
    url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`
  })
  afterAll(() => { server.close() })
  afterEach(() => { asked = [] })

  test('is asked for the model by its name, with the key of an environment variable, and its answers are weighed', async () => {
    process.env['ANNEAL_TEST_SERVER_KEY'] = 'secret'
    const named = { rolloutServer: url, rolloutServerModel: 'policy', rolloutServerApiKeyEnv: 'ANNEAL_TEST_SERVER_KEY' }
    const { logs, hash } = await run({ ...named, vllmImportanceSamplingMode: 'token_truncate', vllmImportanceSamplingClipMax: 1.25 })
    expect(asked).toHaveLength(16)
    expect(asked.every(({ model: name, authorization }) => name === 'policy' && authorization === 'Bearer secret')).toBe(true)
    for (const log of logs) {
      expect(log['importanceSamplingRatio/min']).toBeGreaterThan(0)
      expect(log['importanceSamplingRatio/max']).toBeLessThanOrEqual(1.25)
      // The old policy is the model's own, not the server's.
      expect(log['ratio/mean']).toBeCloseTo(1, 4)
    }
    const without = await run({ ...named, vllmImportanceSamplingCorrection: false })
    expect(without.logs[0]!['importanceSamplingRatio/mean']).toBeUndefined()
    expect(without.hash).not.toBe(hash)
  })

  test("vespo takes the tokens' weights into its own", async () => {
    const options = { rolloutServer: url, lossType: 'vespo', vllmImportanceSamplingMode: 'token_truncate', maxSteps: 1 } as const
    const { logs, hash } = await run(options)
    expect(logs[0]!['importanceSamplingRatio/max']).toBeLessThanOrEqual(3)
    expect(logs[0]!['gradNorm']).toBeGreaterThan(0)
    expect((await run({ ...options, vllmImportanceSamplingCorrection: false })).hash).not.toBe(hash)
  })

  test('a run of several updates resumes with its weights', async () => {
    const options = { rolloutServer: url, perDeviceTrainBatchSize: 4, stepsPerGeneration: 2, maxSteps: 4, vllmImportanceSamplingMode: 'token_mask' } as const
    const whole = await run(options)
    const outputDir = temporaryFolder()
    await run({ ...options, outputDir }, undefined, 1)
    expect((await run({ ...options, outputDir, resumeFromCheckpoint: true })).hash).toBe(whole.hash)
  })
})

describe('an entropy bonus that follows a target', () => {
  const options = { entropyCoef: 0.1, entropyCoefMin: 0.05, entropyCoefMax: 0.2, entropyCoefDelta: 0.06, entropyTarget: 1 }
  const step = async (one: AdaptiveEntropy, ...entropies: [sum: number, count: number][]): Promise<number[]> => {
    for (const [sum, count] of entropies) one.observe(Promise.resolve(sum), count)
    await one.settle()
    return [Number(one.coefficient.toFixed(6)), Number(one.applied.toFixed(6))]
  }

  test('rises below it and falls above it within its bounds, and is 0 while the entropy is above', async () => {
    const one = new AdaptiveEntropy(options)
    expect(one.applied).toBe(0)
    // The mean over all tokens of the step is 9 / 10.
    expect(await step(one, [1, 2], [8, 8])).toEqual([0.16, 0.16])
    expect(await step(one, [5, 10])).toEqual([0.2, 0.2])
    expect(await step(one, [20, 10])).toEqual([0.14, 0])
    for (let i = 0; i < 3; i++) await step(one, [20, 10])
    expect(one.coefficient).toBe(0.05)
    const again = new AdaptiveEntropy(options)
    const at = temporaryFolder()
    await one.save(at)
    await again.load(at)
    expect([again.coefficient, again.applied]).toEqual([0.05, 0])
  })

  test('in a run it is logged, and resumes to the bit', async () => {
    const changed = { useAdaptiveEntropy: true, entropyTarget: 100, entropyCoef: 0.01, maxSteps: 4 }
    const whole = await run(changed)
    expect(whole.logs.map((log) => Number(log['entropyCoef']!.toFixed(6)))).toEqual([0.01, 0.015, 0.02, 0.025])
    const outputDir = temporaryFolder()
    await run({ ...changed, outputDir }, undefined, 2)
    expect((await run({ ...changed, outputDir, resumeFromCheckpoint: true })).hash).toBe(whole.hash)
  })
})

test('generationBatchSize says how large a generation is, as stepsPerGeneration does', async () => {
  const steps = await run({ perDeviceTrainBatchSize: 4, stepsPerGeneration: 2, maxSteps: 4 })
  expect((await run({ perDeviceTrainBatchSize: 4, generationBatchSize: 8, maxSteps: 4 })).hash).toBe(steps.hash)
})

test('without shuffling, prompts come in their own order', async () => {
  const { events } = await run({ shuffleDataset: false, maxSteps: 3, numCompletionsToLog: 2 })
  expect(events.flatMap((event) => (event.type === 'sample' ? [event.prompt] : []))).toEqual(rows.map(({ prompt }) => prompt))
})

test('evaluation takes as many answers to a prompt as numGenerationsEval says', async () => {
  const seen: number[] = []
  const counting = Object.defineProperty((samples: readonly unknown[]) => { seen.push(samples.length); return samples.map(() => 1) }, 'name', { value: 'counting' })
  await run({ evalStrategy: 'steps', evalSteps: 1, maxSteps: 1, numGenerationsEval: 3 }, { rows, evalRows: rows.slice(0, 2), rewards: [counting] })
  expect(seen).toEqual([4, 4, 3, 3])
})

test('a reward model stands after the reward functions, with a weight of its own', async () => {
  const judge = await Classifier.fromPretrained(model, { seed: 5 })
  const folder = temporaryFolder()
  await judge.savePretrained(join(folder, 'reward'))
  judge.dispose()
  const { logs } = await run({ rewardModel: join(folder, 'reward'), rewardWeights: [0, 2], maxSteps: 1 })
  expect(logs[0]!['reward']).toBeCloseTo(2 * logs[0]!['rewards/rewardModel/mean']!, 5)
  const several = await Classifier.fromPretrained(model, { numLabels: 3 })
  await several.savePretrained(join(folder, 'several'))
  several.dispose()
  await expect(run({ rewardModel: join(folder, 'several') })).rejects.toThrow(/rewardModel: .*several has 3 labels/)
})

test("chat-template variables reach the template, a row's own before the option's", async () => {
  const at = join(temporaryFolder(), 'template')
  await makeModel(at)
  const config = JSON.parse(readFileSync(join(at, 'tokenizer_config.json'), 'utf8')) as object
  writeFileSync(join(at, 'tokenizer_config.json'), JSON.stringify({ ...config, chat_template: '{% for message in messages %}{{ message.content }}{% endfor %}{{ ending }}' }))
  rmSync(join(at, 'chat_template.jinja'), { force: true })
  const tokenizer = await Tokenizer.fromPretrained(at)
  const seen: string[] = []
  const seeing = rewardEach<object>('seeing', ({ promptIds }) => { seen.push(tokenizer.decode(promptIds)); return 0 })
  const prompt = [{ role: 'user', content: 'the cat' }]
  const one = await grpo<object>({
    model: at, outputDir: temporaryFolder(), reportTo: [], saveStrategy: 'no', numGenerations: 2, perDeviceTrainBatchSize: 4, maxCompletionLength: 2, maxSteps: 1, chatTemplateKwargs: { ending: ' sees' },
    rows: [{ prompt }, { prompt, chat_template_kwargs: { ending: ' finds' } }], rewards: [seeing],
  })
  live.push(one, one.model)
  await one.train()
  expect(seen.sort()).toEqual(['the cat finds', 'the cat finds', 'the cat sees', 'the cat sees'])
})

test.each<[string, Partial<GrpoOptions>]>([
  ['generationBatchSize, stepsPerGeneration: both say', { generationBatchSize: 8, stepsPerGeneration: 1 }],
  ['generationBatchSize: expected a multiple of perDeviceTrainBatchSize 8, got 12', { generationBatchSize: 12 }],
  ['rolloutServerApiKeyEnv: the environment variable ANNEAL_TEST_NO_SUCH_KEY is not set', { rolloutServer: 'http://127.0.0.1:1/v1', rolloutServerApiKeyEnv: 'ANNEAL_TEST_NO_SUCH_KEY' }],
  ["vllmImportanceSamplingMode: lossType vespo makes one weight of the tokens' weights of an answer, so expected token_truncate or token_mask, got sequence_mask", { lossType: 'vespo', rolloutServer: 'http://127.0.0.1:1/v1' }],
])('bad input says "%s"', async (message, changed) => {
  const failure = run(changed)
  await expect(failure).rejects.toThrow(ConfigError)
  await expect(failure).rejects.toThrow(message)
})
