// Proves that online DPO ranks and learns as TRL's OnlineDPOTrainer does, that its loss is DPO's on the same pairs, that it comes to prefer what is rewarded, and that a run repeats and resumes to the bit.
import { readFileSync } from 'node:fs'
import { createServer, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { ConfigError } from '../../../src/errors.ts'
import { collatePairs } from '../../../src/methods/preference/dpo.ts'
import { onlineDpo, type OnlineDpoInput } from '../../../src/methods/reinforcement/onlineDpo/onlineDpo.ts'
import type { OnlineDpoOptions } from '../../../src/methods/reinforcement/onlineDpo/options.ts'
import { exampleOf, rankedPair } from '../../../src/methods/reinforcement/onlineDpo/pairs.ts'
import { betaOf, onlineDpoLoss } from '../../../src/methods/reinforcement/onlineDpo/task.ts'
import type { Rollout } from '../../../src/methods/reinforcement/rollouts/rollouts.ts'
import { AutoModelForCausalLM } from '../../../src/models/index.ts'
import { Classifier } from '../../../src/models/sequenceClassification.ts'
import { rewardEach, type PairwiseJudge } from '../../../src/rewards/index.ts'
import { backward, noGrad, scope } from '../../../src/tensor/index.ts'
import { temporaryFolder } from '../../files/helpers.ts'
import { weightsHash } from '../../train/support.ts'
import { followed, sharedModel } from '../support.ts'

interface Recorded {
  scale: number, eos: number, prompts: number[][], answers: number[][], rewards: number[]
  cases: { loss_type: 'sigmoid' | 'ipo', beta: number, missing_eos_penalty: number | null, max_length: number, loss: number, stats: Record<string, number>, gradient: { name: string, values: number[] } }[]
}
const recorded = JSON.parse(readFileSync(join(import.meta.dirname, '../../recorded/online-dpo/trl.json'), 'utf8')) as Recorded

const rolloutOf = (promptIds: number[], completionIds: number[], eos: number): Rollout => ({
  prompt: 0, sample: 0, promptIds: Int32Array.from(promptIds), completionIds: Int32Array.from(completionIds), text: '', mask: new Uint8Array(completionIds.length).fill(1),
  logprobs: new Float32Array(completionIds.length), finishReason: completionIds.at(-1) === eos ? 'stop' : 'length',
})

const live: { dispose(): void }[] = []
afterEach(() => { for (const one of live.splice(0)) one.dispose() })

describe('as TRL', () => {
  test.each(recorded.cases.map((one) => [`${one.loss_type}, beta ${one.beta}, penalty ${one.missing_eos_penalty}`, one] as const))('%s: loss, gradient and numbers of the log', async (_, one) => {
    const load = () => AutoModelForCausalLM.fromPretrained(join(import.meta.dirname, '../../recorded/models/llama3'), { dtype: 'float32', device: 'cpu' })
    const [policy, reference] = [await load(), await load()]
    live.push(policy, reference)
    for (const { tensor } of policy.parameters()) tensor.copy_((await tensor.toArray()).map((value) => value * recorded.scale))
    const { prompts, answers, rewards, eos } = recorded
    const pairs = prompts.map((promptIds, i) => {
      const places = [i, i + prompts.length]
      return rankedPair({ prompt: { prompt: '', promptIds: Int32Array.from(promptIds), row: {} }, rollouts: places.map((at) => rolloutOf(promptIds, answers[at]!, eos)), values: Float64Array.from(places, (at) => rewards[at]!) },
        { rewardWeights: [1], missingEosPenalty: one.missing_eos_penalty ?? undefined, maxLength: one.max_length })
    })
    const batch = { ...collatePairs(pairs), beta: one.beta, counted: pairs.length }
    const result = scope(() => {
      const { loss, sums } = onlineDpoLoss(policy, { run: (body) => noGrad(() => body(reference)) }, batch, { lossType: one.loss_type, numItems: pairs.length })
      backward(loss)
      return { loss: loss.item(), sums: Object.entries(sums!).map(([name, { sum, count }]) => [name, sum.item(), count] as const) }
    })
    const close = (found: number, wanted: number, what: string): void => { expect(Math.abs(found - wanted), what).toBeLessThan(3e-5 * Math.max(1, Math.abs(wanted))) }
    close(await result.loss, one.loss, 'loss')
    for (const [name, sum, count] of result.sums) if (one.stats[name] !== undefined) close(await sum / count, one.stats[name], name)
    const mean = (numbers: number[]): number => numbers.reduce((a, b) => a + b, 0) / numbers.length
    close(mean(pairs.flatMap(({ chosenScore, rejectedScore }) => [chosenScore, rejectedScore])), one.stats['objective/scores']!, 'scores')
    close(mean(pairs.map(({ chosenScore, rejectedScore }) => chosenScore - rejectedScore)), one.stats['objective/scores_margin']!, 'margin')
    const gradient = await new Map(policy.namedParameters()).get(one.gradient.name)!.grad!.toArray()
    one.gradient.values.forEach((wanted, i) => { close(gradient[i]!, wanted, `gradient ${i}`) })
  })
})

test('a pair is ranked by its scores, the first of equal ones before the second; one without a score is known by NaN', () => {
  const group = (values: number[]) => ({ prompt: { prompt: '', promptIds: Int32Array.of(1), row: {} }, rollouts: [rolloutOf([1], [7, 3], 3), rolloutOf([1], [8], 3)], values: Float64Array.from(values) })
  const options = { rewardWeights: [1, 2], maxLength: 10 }
  expect(rankedPair(group([1, 0, 0, 0.75]), options)).toMatchObject({ chosenScore: 1.5, rejectedScore: 1 })
  expect(Array.from(rankedPair(group([1, 0, 1, 0]), options).chosen.inputIds)).toEqual([1, 7, 3])
  // The second answer does not end.
  expect(rankedPair(group([1, 0, 0, 0.75]), { ...options, missingEosPenalty: 2 })).toMatchObject({ chosenScore: 1, rejectedScore: -0.5 })
  expect(rankedPair(group([1, 0, NaN, NaN]), options).rejectedScore).toBeNaN()
})

test('a prompt that is too long loses its beginning in the loss, but for one token', () => {
  expect(exampleOf(rolloutOf([1, 2, 3, 4], [7, 8], 3), 5)).toEqual({ inputIds: Int32Array.of(2, 3, 4, 7, 8), promptLength: 3 })
  expect(exampleOf(rolloutOf([1, 2], [7, 8], 3), 2)).toEqual({ inputIds: Int32Array.of(2, 7, 8), promptLength: 1 })
})

test('each epoch has its beta, and the last one stays', () => {
  expect([0, 1, 2, 7].map((epoch) => betaOf([0.5, 0.2, 0.1], epoch))).toEqual([0.5, 0.2, 0.1, 0.1])
  expect(betaOf(0.3, 4)).toBe(0.3)
})

interface Row { prompt: string }
const rows: Row[] = ['the cat', 'a dog', 'my friend', 'one bird', 'the old king', 'the moon', 'a river', 'some bread'].map((prompt) => ({ prompt }))
/** The share of the letter e in the answer. */
const letters = rewardEach<Row>('letters', ({ completion }) => (completion.match(/e/g)?.length ?? 0) / Math.max(completion.length, 1))

const model = sharedModel()

type Inputs = Pick<OnlineDpoInput<Row>, 'rewards' | 'judge' | 'rows' | 'evalRows'>
const given: Inputs = { rows, rewards: [letters] }
async function run(changed: Partial<OnlineDpoOptions> = {}, inputs: Inputs = given, stopAt?: number) {
  const one = await onlineDpo<Row>({
    model, outputDir: temporaryFolder(), reportTo: [], saveStrategy: 'no', perDeviceTrainBatchSize: 8, maxNewTokens: 8, learningRate: 3e-3, lrSchedulerType: 'constant', temperature: 1, maxSteps: 4, loggingSteps: 1, ...changed, ...inputs,
  })
  live.push(one, one.model)
  return followed(one, stopAt)
}

test('it begins at log 2 and comes to write what is rewarded, held-out prompts included', async () => {
  const { logs, events } = await run({ maxSteps: 40, learningRate: 5e-3, beta: 0.05, evalStrategy: 'steps', evalSteps: 20 }, { ...given, rows: Array.from({ length: 16 }, (_, i) => rows[i % 8]!), evalRows: rows.slice(0, 4) })
  expect(logs[0]!['loss']).toBeCloseTo(Math.LN2, 6)
  expect(logs[0]!['objective/kl']).toBeCloseTo(0, 6)
  const mean = (from: number, to: number): number => logs.slice(from, to).reduce((total, log) => total + log['objective/scores']!, 0) / (to - from)
  expect(mean(35, 40)).toBeGreaterThan(mean(0, 5) + 0.15)
  for (const name of ['rewards/chosen', 'rewards/accuracies', 'logps/rejected', 'objective/non_score_reward', 'objective/entropy', 'objective/scores_margin', 'objective/ties', 'val/contain_eos_token', 'beta', 'rewards/letters/mean', 'completions/meanLength']) {
    expect(Number.isFinite(logs.at(-1)![name]), name).toBe(true)
  }
  expect(events.flatMap((event) => (event.type === 'evaluate' ? [event.metrics['reward']] : []))).toHaveLength(2)
})

test.each<[string, Partial<OnlineDpoOptions>]>([['DPO', {}], ['IPO in several micro-batches with a beta for each epoch', { lossType: 'ipo', beta: [0.5, 0.1], perDeviceTrainBatchSize: 2, gradientAccumulationSteps: 2 }]])('%s repeats and resumes to the bit', async (_, changed) => {
  const whole = await run(changed)
  expect((await run({ ...changed, maxBatchSize: 3 })).hash).toBe(whole.hash)
  const outputDir = temporaryFolder()
  const part = await run({ ...changed, outputDir }, given, 2)
  expect(part.hash).not.toBe(whole.hash)
  expect((await run({ ...changed, outputDir, resumeFromCheckpoint: true })).hash).toBe(whole.hash)
  if (changed.beta) expect(whole.logs.map(({ beta }) => beta)).toEqual([0.5, 0.5, 0.1, 0.1])
})

test('a reward model ranks, an adapter is trained, and a judge may compare the two answers', async () => {
  const judge = await Classifier.fromPretrained(model, { seed: 5 })
  const folder = temporaryFolder()
  await judge.savePretrained(join(folder, 'reward'))
  judge.dispose()
  const { logs } = await run({ rewardModel: join(folder, 'reward'), rewardWeights: [1], maxSteps: 2, adapter: { type: 'lora', r: 4, targetModules: 'all-linear' } }, { rows })
  expect(logs[0]!['loss']).toBeCloseTo(Math.LN2, 6)
  expect(Number.isFinite(logs[0]!['rewards/rewardModel/mean'])).toBe(true)
  const longer = (samples: readonly { completion: string }[]) => samples.map(({ completion }) => (completion.length >= Math.max(...samples.map((one) => one.completion.length)) ? 1 : 0))
  const compared = await run({ maxSteps: 1 }, { rows, rewards: [longer] })
  expect(compared.logs[0]!['objective/scores_margin']).toBeGreaterThan(0.5)
})

describe('a judge', () => {
  let server: Server
  let url: string
  const asked: (string | undefined)[] = []
  /** What becomes of the next requests. */
  let trouble: ((response: ServerResponse) => void)[] = []
  beforeAll(async () => {
    server = createServer((request, response) => {
      let text = ''
      request.on('data', (piece) => { text += String(piece) })
      request.on('end', () => {
        const { messages } = JSON.parse(text) as { messages: { content: string }[] }
        asked.push(request.headers.authorization)
        const next = trouble.shift()
        if (next) { next(response); return }
        const [prompt, first, second] = messages[0]!.content.split('|') as [string, string, string]
        if (prompt === 'a dog') { response.writeHead(400).end('no'); return }
        const letters = (one: string): number => one.match(/e/g)?.length ?? 0
        response.end(JSON.stringify({ choices: [{ message: { content: letters(second) > letters(first) ? '1' : '0' } }] }))
      })
    })
    await new Promise<void>((done) => { server.listen(0, '127.0.0.1', done) })
    url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`
  })
  afterAll(() => {
    server.closeAllConnections()
    server.close()
  })

  test('of a server ranks by its verdicts, with the key of an environment variable; what it fails on is left out', async () => {
    process.env['ANNEAL_TEST_JUDGE_KEY'] = 'secret'
    const options = { judge: url, judgePrompt: '{prompt}|{response0}|{response1}', judgeApiKeyEnv: 'ANNEAL_TEST_JUDGE_KEY', maxSteps: 2 } as const
    const { logs, hash, warnings } = await run(options, { rows })
    expect(asked).toHaveLength(16)
    expect(new Set(asked)).toEqual(new Set(['Bearer secret']))
    expect(logs[0]).toMatchObject({ 'rewards/judge/mean': 0.5, 'rewards/judge/failed': 2, 'objective/scores_margin': 1, withoutReward: 1 })
    expect(warnings).toContain('1 of 8 pairs have an answer without a reward and are left out')
    expect((await run(options, { rows })).hash).toBe(hash)
    const outputDir = temporaryFolder()
    await run({ ...options, outputDir }, { rows }, 1)
    expect((await run({ ...options, outputDir, resumeFromCheckpoint: true }, { rows })).hash).toBe(hash)
  })

  test('that is slow, busy or broken for a while decides the same; one that stays so is no end of the run', async () => {
    const options = { judge: url, judgePrompt: '{prompt}|{response0}|{response1}', maxSteps: 1 } as const
    const { hash } = await run(options, { rows })
    trouble = [() => undefined, (response) => { response.writeHead(429, { 'retry-after': '0' }).end() }, (response) => { response.end('<html>') }, (response) => { response.destroy() }]
    asked.length = 0
    const { hash: same, logs } = await run({ ...options, judgeTimeout: 500, judgeRetries: 3 }, { rows })
    expect([same, asked.length, logs[0]!['rewards/judge/failed']]).toEqual([hash, 8 + 4, 2])
    trouble = Array.from({ length: 2 * 8 }, () => (response) => { response.writeHead(503, { 'retry-after': '0' }).end('later') })
    const { logs: none, warnings } = await run({ ...options, judgeRetries: 1 }, { rows })
    expect(none[0]).toMatchObject({ loss: 0, gradNorm: 0, withoutReward: 8, 'rewards/judge/failed': 16 })
    expect(warnings.join()).toContain('reward function judge failed for every answer')
    expect(warnings.join()).toContain('503: later')
  })

  test('may be a function, and may have nothing to say', async () => {
    const longer: PairwiseJudge<Row> = ([first, second]) => (first.completion === second.completion ? null : first.completion.length >= second.completion.length ? 0 : 1)
    const { logs } = await run({ maxSteps: 1 }, { rows, judge: longer })
    expect(logs[0]).toMatchObject({ 'rewards/longer/failed': 0, 'objective/scores_margin': 1, 'objective/ties': 0 })
    const mute = await run({ maxSteps: 1 }, { rows, judge: () => null })
    expect(mute.logs[0]).toMatchObject({ loss: 0, gradNorm: 0, withoutReward: 8 })
  })

  test.each<[string, Partial<OnlineDpoOptions>, Inputs]>([
    ['judge: expected http://', { judge: 'judge.local' }, { rows }],
    ['judge: a judge ranks answers by itself', { judge: 'http://127.0.0.1:1/v1' }, given],
    ['missingEosPenalty: a judge gives no score', { missingEosPenalty: 1 }, { rows, judge: () => 0 }],
    ['rewardWeights: a judge says', { rewardWeights: [1] }, { rows, judge: () => 0 }],
    ['judge: it compares two answers of the same policy', { evalSplit: 2 }, { rows, judge: () => 0 }],
    ['judgePrompt: expected a text with {prompt}', { judge: 'http://127.0.0.1:1/v1', judgePrompt: 'Which?' }, { rows }],
    ['judgeApiKeyEnv: the environment variable ANNEAL_TEST_NO_SUCH_KEY is not set', { judge: 'http://127.0.0.1:1/v1', judgeApiKeyEnv: 'ANNEAL_TEST_NO_SUCH_KEY' }, { rows }],
    ['expected 0 or 1, the number of the better answer, or null, got "first"', {}, { rows, judge: () => 'first' as never }],
  ])('bad input says "%s"', async (message, changed, inputs) => {
    const failure = run(changed, inputs)
    await expect(failure).rejects.toThrow(ConfigError)
    await expect(failure).rejects.toThrow(message)
  })
})

test('pairs without a reward are left out and counted; where none has one the step changes nothing', async () => {
  const some = rewardEach<Row>('some', ({ row, completion }) => { if (row.prompt === 'a dog') throw new Error('no judge'); return completion.length })
  const { logs, warnings } = await run({ maxSteps: 1 }, { rows, rewards: [some] })
  expect(logs[0]).toMatchObject({ withoutReward: 1, 'rewards/some/failed': 2 })
  expect(warnings).toContain('1 of 8 pairs have an answer without a reward and are left out')
  const none = await run({ maxSteps: 1 }, { rows, rewards: [rewardEach('none', () => Promise.reject(new Error('no judge')))] })
  const own = await AutoModelForCausalLM.fromPretrained(model)
  live.push(own)
  expect(none.hash).toBe(await weightsHash(own))
  expect(none.logs[0]).toMatchObject({ loss: 0, gradNorm: 0, withoutReward: 8 })
  expect(none.warnings[0]).toContain('reward function none failed for every answer')
  const alike = await run({ maxSteps: 1 }, { rows, rewards: [rewardEach('alike', () => 1)] })
  expect(alike.warnings[0]).toContain('both answers to every prompt have the same score')
})

test.each<[string, Partial<OnlineDpoOptions>, Inputs]>([
  ['maxNewTokens: expected less than maxLength 8', { maxLength: 8 }, given],
  ['reward: nothing judges the answers', {}, { rows }],
  ['rewardWeights: expected 1', { rewardWeights: [1, 2] }, given],
  ['files: give the prompts', {}, { rewards: [letters] }],
  ['rolloutServerApiKeyEnv: the environment variable ANNEAL_TEST_NO_SUCH_KEY is not set', { rolloutServer: 'http://127.0.0.1:1/v1', rolloutServerApiKeyEnv: 'ANNEAL_TEST_NO_SUCH_KEY' }, given],
  ['reward function letters: expected 2 numbers, one for each sample, got 1', {}, { rows, rewards: [Object.defineProperty(() => [1], 'name', { value: 'letters' })] }],
])('bad input says "%s"', async (message, changed, inputs) => {
  const failure = run(changed, inputs)
  await expect(failure).rejects.toThrow(ConfigError)
  await expect(failure).rejects.toThrow(message)
})
