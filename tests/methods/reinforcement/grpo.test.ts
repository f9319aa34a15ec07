// Proves grpo() and rloo() from files to a trained model: rewards rise, runs repeat and resume to the bit, rollouts included, and bad input is refused.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, describe, expect, test } from 'vitest'
import { ConfigError, DataError } from '../../../src/errors.ts'
import { grpo } from '../../../src/methods/reinforcement/policy/grpo.ts'
import type { GrpoOptions, RlooOptions } from '../../../src/methods/reinforcement/policy/options.ts'
import type { PolicyInput, PolicyRun } from '../../../src/methods/reinforcement/policy/prepare.ts'
import { rloo } from '../../../src/methods/reinforcement/policy/rloo.ts'
import { AutoModelForCausalLM } from '../../../src/models/index.ts'
import { rewardEach } from '../../../src/rewards/index.ts'
import type { TrainerEvent } from '../../../src/train/events.ts'
import { temporaryFolder } from '../../files/helpers.ts'
import { weightsHash } from '../../train/support.ts'
import { followed, sharedModel, writeRows } from '../support.ts'

const [anyNumber, anyText] = [expect.any(Number) as number, expect.any(String) as string]

interface Row { prompt: string; wanted: string }
const rows: Row[] = ['the cat', 'a dog', 'my friend', 'one bird', 'the old king', 'the moon'].map((prompt) => ({ prompt, wanted: 'e' }))
/** The share of the answer's letters that are wanted. */
const share = rewardEach<Row>('share', ({ completion, row }) => completion.length === 0 ? 0 : Array.from(completion).filter((one) => one === row.wanted).length / completion.length)
const short = rewardEach<Row>('short', ({ completionIds }) => -completionIds.length / 8)

const model = sharedModel()
const live: { dispose(): void }[] = []
const release = (): void => { for (const one of live.splice(0)) one.dispose() }
afterEach(release)

const options = (changed: Partial<GrpoOptions> = {}): GrpoOptions => ({
  model, outputDir: temporaryFolder(), reportTo: [], saveStrategy: 'no', numGenerations: 4, perDeviceTrainBatchSize: 8, maxCompletionLength: 8, learningRate: 3e-3, maxSteps: 4, loggingSteps: 1, ...changed,
})
type Log = Record<string, number>

async function train(run: PolicyRun<Row>, stopAt?: number): Promise<{ hash: string, logs: Log[], events: TrainerEvent[] }> {
  live.push(run, run.model)
  return followed(run, stopAt)
}
const given: PolicyInput<Row> = { rows, rewards: [share, short] }
const run = async (changed: Partial<GrpoOptions> = {}, inputs: PolicyInput<Row> = given, stopAt?: number) => train(await grpo<Row>({ ...options(changed), ...inputs }), stopAt)

/** Of the weights before training. */
async function startHash(): Promise<string> {
  const own = await AutoModelForCausalLM.fromPretrained(model)
  live.push(own)
  return weightsHash(own)
}

test('the reward rises', async () => {
  const { logs } = await run({ maxSteps: 25, numGenerations: 8, perDeviceTrainBatchSize: 16, learningRate: 1e-2 }, { rows, rewards: [share] })
  const mean = (part: Log[]): number => part.reduce((sum, one) => sum + one['reward']!, 0) / part.length
  expect(mean(logs.slice(-5))).toBeGreaterThan(3 * mean(logs.slice(0, 3)))
})

test('every step logs what practitioners look at, and whole answers with their rewards', async () => {
  const { logs, events } = await run({ beta: 0.1 })
  for (const log of logs) {
    for (const name of [
      'reward', 'rewardStd', 'rewards/share/mean', 'rewards/share/std', 'rewards/short/mean', 'rewards/share/failed', 'fracRewardZeroStd', 'kl', 'entropy', 'clipRatio/lowMean', 'clipRatio/highMean', 'ratio/max',
      'completions/meanLength', 'completions/minLength', 'completions/maxLength', 'completions/clippedRatio', 'gradNorm', 'rolloutTokensPerSecond', 'samplingLogprobDifference/max',
    ]) expect(log[name], name).toEqual(expect.any(Number))
    expect(log['reward']).toBeCloseTo(log['rewards/share/mean']! + log['rewards/short/mean']!, 9)
    // What was recorded while sampling is what the update computes, to the bit.
    expect(log['samplingLogprobDifference/max']).toBe(0)
    expect(log['ratio/mean']).toBe(1)
    expect(log['kl']).toBeGreaterThanOrEqual(0)
  }
  expect(logs[0]!['kl']).toBe(0)
  expect(logs.at(-1)!['kl']).toBeGreaterThan(0)
  expect(logs.at(-1)!['updateTokensPerSecond']).toBeGreaterThan(0)
  const samples = events.filter((event) => event.type === 'sample')
  expect(samples).toHaveLength(2 * logs.length)
  expect(samples[0]).toMatchObject({ prompt: anyText, text: anyText, rewards: { share: anyNumber, short: anyNumber } })
})

describe('a run repeats and resumes to the bit', () => {
  test.each<[string, Partial<GrpoOptions>]>([
    ['one update a generation', {}],
    ['updates of several steps and iterations, stopped between them', { perDeviceTrainBatchSize: 4, stepsPerGeneration: 2, numIterations: 2, maxSteps: 8 }],
    ['generations across optimizer steps', { perDeviceTrainBatchSize: 4, gradientAccumulationSteps: 2, stepsPerGeneration: 3, maxSteps: 6 }],
    ['a reference, temperature and dynamic sampling', { beta: 0.05, temperature: 0.8, perDeviceTrainBatchSize: 4, stepsPerGeneration: 2, dynamicSamplingRounds: 1 }],
  ])('%s', async (_, changed) => {
    const whole = await run(changed)
    expect((await run(changed)).hash).toBe(whole.hash)
    for (const stopAt of [1, 3]) {
      const outputDir = temporaryFolder()
      const part = await run({ ...changed, outputDir }, given, stopAt)
      expect(part.hash).not.toBe(whole.hash)
      const rest = await run({ ...changed, outputDir, resumeFromCheckpoint: true })
      expect(rest.hash).toBe(whole.hash)
      expect(rest.logs.at(-1)!['reward']).toBe(whole.logs.at(-1)!['reward'])
    }
  })

  test('the number of answers at a time decides nothing', async () => {
    expect((await run({ maxBatchSize: 3 })).hash).toBe((await run()).hash)
  })
})

test('a rollout log replayed trains the same model', async () => {
  const rolloutLog = join(temporaryFolder(), 'logs', 'rollouts.jsonl')
  const first = await run({ rolloutLog })
  const lines = readFileSync(rolloutLog, 'utf8').trim().split('\n').map((line) => JSON.parse(line) as { step: number, rewards: Record<string, number>, advantage: number })
  expect(lines).toHaveLength(4 * 8)
  expect(lines[0]).toMatchObject({ step: 0, rewards: { share: anyNumber, short: anyNumber }, advantage: anyNumber })
  expect((await run({ replay: rolloutLog })).hash).toBe(first.hash)
  await expect(run({ replay: rolloutLog, seed: 7 })).rejects.toThrow(/replay: .* of the 4 rollouts that step 0 needs/)
  await expect(run({ replay: join(model, 'config.json') })).rejects.toThrow(/config\.json:1: expected a line/)
})

test.each(['grpo', 'dr_grpo', 'dapo', 'bnpo', 'cispo', 'sapo', 'luspo', 'vespo'] as const)('%s trains off-policy, with masks, both levels and an entropy bonus', async (lossType) => {
  for (const importanceSamplingLevel of ['token', 'sequence'] as const) {
    const { logs, hash } = await run({
      lossType, importanceSamplingLevel, numIterations: 2, entropyCoef: 0.01, topEntropyQuantile: 0.5, offPolicyMaskThreshold: 0.5, beta: 0.01, epsilonHigh: 0.3, delta: 2, maxSteps: 2,
    })
    expect(logs.every((log) => Number.isFinite(log['loss']) && Number.isFinite(log['gradNorm']))).toBe(true)
    expect(hash).not.toBe(await startHash())
  }
})

test('answers that were cut off can be left out of the loss', async () => {
  const { logs, hash } = await run({ maskTruncatedCompletions: true })
  expect(logs.every((log) => log['completions/clippedRatio'] === 1 && log['gradNorm'] === 0)).toBe(true)
  expect(hash).toBe(await startHash())
})

describe('RLOO', () => {
  const rlooRun = async (changed: Partial<RlooOptions> = {}) => {
    const { lossType: _, ...common } = options()
    return train(await rloo<Row>({ ...common, ...changed, ...given }))
  }

  test('the reward rises', async () => {
    const { logs } = await rlooRun({ maxSteps: 25, numGenerations: 8, perDeviceTrainBatchSize: 16, learningRate: 1e-2 })
    expect(logs.at(-1)!['reward']! + logs.at(-2)!['reward']!).toBeGreaterThan(logs[0]!['reward']! + logs[1]!['reward']!)
    expect(logs[0]!['kl']).toBe(0)
    expect(logs.at(-1)!['kl']).not.toBe(0)
  })

  test('with normalised advantages, clipped rewards and several iterations', async () => {
    const { logs } = await rlooRun({ normalizeAdvantages: true, rewardClipRange: [-0.5, 0.5], numIterations: 2, perDeviceTrainBatchSize: 4, stepsPerGeneration: 2 })
    expect(logs.every((log) => Number.isFinite(log['loss']))).toBe(true)
  })
})

describe('dynamic sampling', () => {
  /** Two prompts can be told apart, the others never. */
  const telling = rewardEach<Row>('telling', ({ completionIds, row }) => row.prompt.length === 5 ? completionIds[0]! % 7 : 1)

  test('replaces prompts whose answers all have the same reward, and fills up with them where there are no others', async () => {
    const kept = await run({ maxSteps: 1 }, { rows, rewards: [telling] })
    const replaced = await run({ maxSteps: 1, dynamicSamplingRounds: 5 }, { rows, rewards: [telling] })
    expect(replaced.logs[0]!['fracRewardZeroStd']).toBeLessThanOrEqual(kept.logs[0]!['fracRewardZeroStd']!)
    expect(replaced.logs[0]!['dynamicSampling/droppedGroups']).toBeGreaterThan(0)
    const never = await run({ maxSteps: 1, dynamicSamplingRounds: 2 }, { rows, rewards: [rewardEach('same', () => 1)] })
    expect(never.logs[0]).toMatchObject({ 'dynamicSampling/rounds': 2, fracRewardZeroStd: 1, gradNorm: 0 })
    expect(never.events).toContainEqual(expect.objectContaining({ type: 'warning', message: expect.stringContaining('the rewards of every group are all alike') as string }))
  })
})

test('a reward that fails counts as none, is counted, and does not end the run', async () => {
  const failing = rewardEach<Row>('failing', ({ row }) => { if (row.prompt === 'a dog') throw new Error('no judge'); return 1 })
  const { logs } = await run({ maxSteps: 3, saveStrategy: 'no' }, { rows, rewards: [share, failing] })
  expect(logs.some((log) => log['rewards/failing/failed'] === 4)).toBe(true)
  const { events } = await run({ maxSteps: 1 }, { rows, rewards: [rewardEach('broken', () => Promise.reject(new Error('no judge')))] })
  expect(events).toContainEqual(expect.objectContaining({ type: 'warning', message: 'reward function broken failed for every answer, which count as having no reward from it: no judge' }))
})

test('evaluation gives the mean reward of held-out prompts, always with the same draws', async () => {
  const { events } = await run({ evalStrategy: 'steps', evalSteps: 2, learningRate: 0 }, { ...given, evalRows: rows.slice(0, 3) })
  const evaluations = events.flatMap((event) => event.type === 'evaluate' ? [event.metrics] : [])
  expect(evaluations).toHaveLength(2)
  expect(evaluations[0]).toEqual(evaluations[1])
  expect(evaluations[0]).toMatchObject({ reward: anyNumber, 'rewards/share/mean': anyNumber, 'completions/meanLength': anyNumber })
})

test('evaluation stops while it generates: what was cut off is no result', async () => {
  const [controller, reason] = [new AbortController(), new Error('enough')]
  const stopping = rewardEach<Row>('stopping', () => { controller.abort(reason); return 1 })
  const prepared = await grpo<Row>({ ...options({}), rows, evalRows: rows.slice(0, 3), rewards: [stopping] })
  live.push(prepared, prepared.model)
  await expect(prepared.trainer.evaluate({ signal: controller.signal })).rejects.toBe(reason)
  await expect(prepared.trainer.evaluate()).resolves.toMatchObject({ reward: 1 })
})

describe('bad input', () => {
  test.each<[string, Partial<GrpoOptions>, PolicyInput<Row>]>([
    ['which is no multiple of numGenerations 3', { numGenerations: 3 }, given],
    ['reward: nothing judges the answers; name a reward function', {}, { rows }],
    ['rewardWeights: expected 2, one for each reward function, got 1', { rewardWeights: [1] }, given],
    ['files: there are 2 prompts, but a generation takes 4', { perDeviceTrainBatchSize: 16 }, { ...given, rows: rows.slice(0, 2) }],
    ['files: give the prompts', {}, { rewards: [share] }],
    ['epsilonHigh: lossType cispo needs', { lossType: 'cispo' }, given],
    ['replay and rolloutServer', { replay: 'a', rolloutServer: 'b' }, given],
    ['there is no reward function "exactmatch"; did you mean "exactMatch"?', { reward: 'exactmatch' }, { rows }],
    ['reward function wrong: expected 4 numbers, one for each sample, got 1', {}, { rows, rewards: [() => [1]] }],
    ['reward function nan: expected a finite number or null for sample 0, got NaN', {}, { rows, rewards: [rewardEach('nan', () => NaN)] }],
    ['got "1"', {}, { rows, rewards: [rewardEach('text', () => '1' as unknown as number)] }],
  ])('%s', async (message, changed, inputs) => {
    const named = inputs.rewards?.map((one) => one.name ? one : Object.defineProperty(one, 'name', { value: 'wrong' }))
    const failure = run(changed, { ...inputs, ...(named ? { rewards: named } : {}) })
    await expect(failure).rejects.toThrow(ConfigError)
    await expect(failure).rejects.toThrow(message)
  })

  test('a prompt longer than the context names its row; with maxPromptLength it is left out and counted', async () => {
    const files = writeRows(join(temporaryFolder(), 'long.jsonl'), [...rows, { prompt: 'the cat sees the moon. '.repeat(30), wanted: 'e' }])
    const failure = run({ files }, { rewards: [share] })
    await expect(failure).rejects.toThrow(DataError)
    await expect(failure).rejects.toThrow(/long\.jsonl:7: the prompt has \d+ tokens, but the model's context of 96 leaves 88/)
    const { events } = await run({ files, maxPromptLength: 20, maxSteps: 1 }, { rewards: [share] })
    expect(events).toContainEqual(expect.objectContaining({ type: 'warning', message: '1 rows are left out, as their prompts are longer than maxPromptLength 20' }))
  })

  test('an answer that is empty but for its end is trained on like any other', async () => {
    const { logs } = await run({ maxCompletionLength: 1, maxSteps: 2 })
    expect(logs.every((log) => Number.isFinite(log['loss']) && log['completions/maxLength'] === 1)).toBe(true)
  })
})
