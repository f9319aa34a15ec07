// Proves that grpo() and rloo() learn from conversations with an environment: its rewards are learnt from, its words are masked, and runs resume to the bit.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, expect, test } from 'vitest'
import { grpo } from '../../../src/methods/reinforcement/policy/grpo.ts'
import type { EnvironmentFactory } from '../../../src/methods/reinforcement/environment/environment.ts'
import type { GrpoOptions } from '../../../src/methods/reinforcement/policy/options.ts'
import type { PolicyInput, PolicyRun } from '../../../src/methods/reinforcement/policy/prepare.ts'
import { rloo } from '../../../src/methods/reinforcement/policy/rloo.ts'
import { rewardEach } from '../../../src/rewards/index.ts'
import { Tokenizer } from '../../../src/tokenizers/index.ts'
import { temporaryFolder } from '../../files/helpers.ts'
import { followed, sharedModel } from '../support.ts'

interface Row { prompt: string; wanted: number }
const rows: Row[] = ['the cat', 'a dog', 'my friend', 'one bird'].map((prompt) => ({ prompt, wanted: 40 }))

const model = sharedModel()
const live: { dispose(): void }[] = []
afterEach(() => { for (const one of live.splice(0)) one.dispose() })

/** Answers twice, for 0.25 each, and then pays for the length of the last answer as a share of what was wanted. */
const asking: EnvironmentFactory<Row> = () => {
  let wanted = 1
  return {
    reset: (row) => { wanted = row.wanted; return [{ role: 'user', content: row.prompt }] },
    step: (text, { turn }) => (turn < 2 ? { observation: 'some bread', reward: 0.25, done: false } : { reward: text.length / wanted, done: true }),
  }
}

/** An untrained model seldom ends a turn, so the vowels end it. */
const options = (changed: Partial<GrpoOptions> = {}): GrpoOptions => ({
  model, outputDir: temporaryFolder(), reportTo: [], saveStrategy: 'no', numGenerations: 4, perDeviceTrainBatchSize: 8, maxCompletionLength: 60, learningRate: 3e-3, maxSteps: 3, loggingSteps: 1,
  stopStrings: ['a', 'e', 'i', 'o', 'u'], maxTurns: 3, ...changed,
})

async function train(run: PolicyRun<Row>, stopAt?: number): Promise<{ hash: string, logs: Record<string, number>[] }> {
  live.push(run, run.model)
  return followed(run, stopAt)
}
const inputs: PolicyInput<Row> = { rows, evalRows: rows.slice(0, 2), environment: asking }

test('grpo trains on the tokens of the model in conversations, and not on those of the environment', async () => {
  const rolloutLog = join(temporaryFolder(), 'rollouts.jsonl')
  const { logs } = await train(await grpo<Row>({ ...options({ rolloutLog, evalStrategy: 'steps', evalSteps: 3 }), ...inputs }))
  expect(logs[0]!['rewards/environment/mean']).toBeGreaterThan(0.25)
  expect(logs[0]!['reward']).toBe(logs[0]!['rewards/environment/mean'])
  expect(logs[0]!['gradNorm']).toBeGreaterThan(0)
  // The tokens that count have the log-probabilities that they were drawn with, whatever stands between them.
  expect(logs[0]!['samplingLogprobDifference/max']).toBeLessThan(1e-5)
  const tokenizer = await Tokenizer.fromPretrained(model)
  const lines = readFileSync(rolloutLog, 'utf8').trim().split('\n').map((line) => JSON.parse(line) as { completionIds: number[], mask: number[], logprobs: number[], rewards: { environment: number } })
  expect(lines).toHaveLength(3 * 8)
  const answered = lines.filter(({ mask }) => mask.includes(0))
  expect(answered.length).toBeGreaterThan(lines.length / 2)
  for (const { completionIds, mask, logprobs, rewards } of answered) {
    expect(tokenizer.decode(completionIds.filter((_, t) => mask[t] === 0), { skipSpecialTokens: false })).toContain('user\nsome bread<|im_end|>')
    expect(tokenizer.decode(completionIds.filter((_, t) => mask[t] === 1), { skipSpecialTokens: false })).not.toContain('some bread')
    expect(logprobs.every((one, t) => (mask[t] === 1) === (one !== 0))).toBe(true)
    expect(rewards.environment).toBeGreaterThanOrEqual(0.25)
  }
})

test('a step without any reward is a warning, and leaves no NaN in the means of the log', async () => {
  let answers = 0
  // The eight conversations of the third step have none.
  const sometimes: EnvironmentFactory<Row> = () => ({ ...asking(), step: (text) => ({ done: true, ...++answers > 16 && answers <= 24 ? {} : { reward: 1 + text.length } }) })
  const run = await grpo<Row>({ ...options({ maxSteps: 4, loggingSteps: 2 }), rows, environment: sometimes })
  const warnings: string[] = []
  run.trainer.on((event) => { if (event.type === 'warning') warnings.push(event.message) })
  const { logs } = await train(run)
  expect(warnings).toEqual([expect.stringContaining('no answer has a reward')])
  for (const log of logs) for (const name of ['reward', 'rewardStd', 'rewards/environment/mean', 'rewards/environment/std']) expect(log[name]).toBeGreaterThan(0)
  expect(logs.at(-1)!['fracRewardZeroStd']).toBeGreaterThanOrEqual(0.5)
})

test('the environment stands beside reward functions, last', async () => {
  const short = rewardEach<Row>('short', ({ completionIds }) => -completionIds.length)
  const { logs } = await train(await grpo<Row>({ ...options({ maxSteps: 1, rewardWeights: [0.5, 2] }), ...inputs, rewards: [short] }))
  expect(logs[0]!['reward']).toBeCloseTo(0.5 * logs[0]!['rewards/short/mean']! + 2 * logs[0]!['rewards/environment/mean']!, 6)
})

test.each([['grpo', grpo, { beta: 0.05 }], ['rloo', rloo, {}]] as const)('%s stopped between two updates on the same conversations ends with the same bytes', async (_, method, changed) => {
  const settings = { ...options({ numIterations: 2, maxSteps: 4 }), ...changed }
  const whole = await train(await method<Row>({ ...settings, outputDir: temporaryFolder(), ...inputs }))
  const part = await train(await method<Row>({ ...settings, ...inputs }), 1)
  expect(part.hash).not.toBe(whole.hash)
  const rest = await train(await method<Row>({ ...settings, resumeFromCheckpoint: true, ...inputs }))
  expect(rest.hash).toBe(whole.hash)
})

test.each<[string, Partial<GrpoOptions>]>([
  ['replay: it gives single answers', { replay: 'rollouts.jsonl' }], ['rolloutServer: it gives single answers', { rolloutServer: 'http://localhost:1/v1' }],
  ['rewardWeights: expected 1, one for each reward function (the environment last), got 2', { rewardWeights: [1, 2] }],
])('%s', async (message, changed) => {
  await expect(grpo<Row>({ ...options(changed), ...inputs })).rejects.toThrow(message)
})

test('a conversation that begins too long for the context is refused', async () => {
  const environment: EnvironmentFactory<Row> = () => ({ reset: () => [{ role: 'user', content: 'some bread '.repeat(20) }], step: () => ({ done: true }) })
  const run = await grpo<Row>({ ...options(), rows, environment })
  await expect(train(run)).rejects.toThrow('lower maxCompletionLength to at most')
})
