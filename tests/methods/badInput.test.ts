// Goes through what alignment methods may be given by mistake, method by method: each says what is wrong, or follows a rule that it logs.
import { join } from 'node:path'
import { afterEach, describe, expect, test } from 'vitest'
import { AnnealError, ConfigError, DataError } from '../../src/errors.ts'
import { bestOfN, cpo, dpo, grpo, kto, onlineDpo, orpo, ppo, reward, rloo, rrhf } from '../../src/methods/index.ts'
import { Classifier } from '../../src/models/sequenceClassification.ts'
import { rewardEach, type RewardFunction } from '../../src/rewards/index.ts'
import { temporaryFolder } from '../files/helpers.ts'
import { weightsHash } from '../train/support.ts'
import { sharedModel, writeRows } from './support.ts'

interface Row { prompt: string }
type Rewards = readonly RewardFunction<Row>[]
interface Given { rows?: readonly Row[], rewards?: Rewards, rewardModel?: string, length?: number, options?: object }
interface Trainable { train: () => Promise<unknown>, dispose: () => void, model: Parameters<typeof weightsHash>[0] & { dispose: () => void }, trainer: { on: (listener: (event: { type: string, message?: string | undefined }) => void) => () => void } }

const model = sharedModel()
const live: { dispose(): void }[] = []
afterEach(() => { for (const one of live.splice(0)) one.dispose() })

const prompts: Row[] = ['the cat', 'a dog', 'my friend', 'one bird'].map((prompt) => ({ prompt }))
const letters = rewardEach<Row>('letters', ({ completion }) => completion.length)
const common = () => ({ model, outputDir: temporaryFolder(), reportTo: [] as never[], saveStrategy: 'no' as const, loggingSteps: 1, maxSteps: 1, perDeviceTrainBatchSize: 4 })

/** Prepares a run and trains it. */
async function trained(preparing: Promise<Trainable>): Promise<{ warnings: string[], hash: string }> {
  const run = await preparing
  live.push(run, run.model)
  const warnings: string[] = []
  run.trainer.on((event) => { if (event.type === 'warning') warnings.push(event.message!) })
  await run.train()
  return { warnings, hash: await weightsHash(run.model) }
}

/** The methods that learn from rewards, each with short answers. */
const samplers: Record<string, (given: Given) => Promise<unknown>> = {
  grpo: ({ rows = prompts, rewards = [], length = 4, options, ...rest }) => trained(grpo<Row>({ ...common(), numGenerations: 4, maxCompletionLength: length, ...rest, ...options, rows, rewards })),
  rloo: ({ rows = prompts, rewards = [], length = 4, options, ...rest }) => trained(rloo<Row>({ ...common(), numGenerations: 2, maxCompletionLength: length, ...rest, ...options, rows, rewards })),
  ppo: ({ rows = prompts, rewards = [], length = 4, options, ...rest }) => trained(ppo<Row>({ ...common(), responseLength: length, rows, rewards, ...rest, ...options })),
  onlineDpo: ({ rows = prompts, rewards = [], length = 4, options, ...rest }) => trained(onlineDpo<Row>({ ...common(), maxNewTokens: length, ...rest, ...options, rows, rewards })),
  bestOfN: ({ rows = prompts, rewards = [], length = 4, options, ...rest }) => bestOfN<Row>({ model, output: join(temporaryFolder(), 'best.jsonl'), numGenerations: 2, maxCompletionLength: length, rows, rewards, ...rest, ...options }),
}
const eachSampler = Object.entries(samplers)

async function refused(failure: Promise<unknown>, type: new (...args: never[]) => AnnealError, message: string | RegExp): Promise<void> {
  await expect(failure).rejects.toThrow(type)
  await expect(failure).rejects.toThrow(message)
}

describe.each(eachSampler)('%s', (_, run) => {
  test.each<[string, RewardFunction<Row>, string | RegExp]>([
    ['too few numbers', () => [], /reward function wrong: expected \d numbers?, one for each sample, got 0/],
    ['NaN', (samples) => samples.map(() => NaN), 'expected a finite number or null for sample 0, got NaN'],
    ['a text', (samples) => samples.map(() => '1') as never, 'expected a finite number or null for sample 0, got "1"'],
    ['no list', () => 1 as never, /expected a list of \d numbers?, one for each sample, got 1/],
  ])('a reward that gives %s ends the run and is named', async (_what, wrong, message) => {
    await refused(run({ rewards: [Object.defineProperty(wrong, 'name', { value: 'wrong' })] }), ConfigError, message)
  })

  test('nothing that judges', async () => { await refused(run({}), ConfigError, 'reward: nothing judges the answers') })

  test('a prompt that leaves no room in the context names its row', async () => {
    await refused(run({ rows: [...prompts, { prompt: 'the cat sees the moon. '.repeat(30) }], rewards: [letters] }), DataError, /row 5: the prompt has \d+ tokens, but the model's context of 96 leaves 92/)
  })

  test('a reward model with several labels', async () => {
    const several = join(temporaryFolder(), 'several')
    const classifier = await Classifier.fromPretrained(model, { numLabels: 3 })
    await classifier.savePretrained(several)
    classifier.dispose()
    await refused(run({ rewardModel: several }), ConfigError, /rewardModel: .* has 3 labels \(LABEL_0, LABEL_1, LABEL_2\), but a reward is one number/)
  })

  test('answers of one token, such as an end alone, are taken like others', async () => {
    await run({ rewards: [letters], length: 1 })
  })
})

test.each(Object.entries({ ...samplers, dpo, kto, orpo, cpo, rrhf, reward } as Record<string, (options: never) => Promise<unknown>>))('%s has no folder of tokenized data, and says so', async (name, method) => {
  const failing = (cacheDir: unknown) => (name in samplers ? samplers[name]!({ rewards: [letters], options: { cacheDir, none: 1 } }) : method({ ...common(), files: 'none.jsonl', cacheDir, none: 1 } as never))
  await refused(failing('./cache'), ConfigError, 'cacheDir: expected false: preferences and prompts are few, and are tokenized into memory at each start')
  await refused(failing(false), ConfigError, /^none: unknown option$/)
})

describe('groups', () => {
  test.each([['grpo', 3], ['rloo', 3]] as const)('of %s that do not divide the batch', async (name, numGenerations) => {
    await refused(samplers[name]!({ rewards: [letters], options: { numGenerations } }), ConfigError, `4 × 1 = 4 answers, which is no multiple of numGenerations ${numGenerations}`)
  })

  test.each(['grpo', 'rloo'])('of %s whose rewards are all alike change nothing, with a warning', async (name) => {
    const { warnings, hash } = await samplers[name]!({ rewards: [rewardEach<Row>('alike', () => 1)], options: { learningRate: 1e-2, beta: 0 } }) as Awaited<ReturnType<typeof trained>>
    expect(warnings).toEqual([expect.stringContaining('the rewards of every group are all alike, so this generation teaches nothing')])
    const { hash: untrained } = await samplers[name]!({ rewards: [letters], options: { learningRate: 0, beta: 0 } }) as Awaited<ReturnType<typeof trained>>
    expect(hash).toBe(untrained)
  })
})

describe('preference rows', () => {
  const pair = { prompt: 'the cat', chosen: ' sees the moon.', rejected: ' likes a river.' }
  const from = (rows: readonly object[]) => ({ ...common(), files: writeRows(join(temporaryFolder(), 'rows.jsonl'), rows), evalStrategy: 'no' as const, maxLength: 60 })
  const pairMethods = { dpo, orpo, cpo, reward }

  describe.each(Object.entries(pairMethods))('of %s', (_, method) => {
    test.each<[string, object, string]>([
      ['whose chosen equals rejected', { ...pair, rejected: pair.chosen }, 'rows.jsonl:2: chosen and rejected are equal'],
      ['with an empty chosen', { ...pair, chosen: '' }, 'rows.jsonl:2: chosen: expected a completion, got an empty one'],
      ['with an empty rejected', { ...pair, rejected: '' }, 'rows.jsonl:2: rejected: expected a completion, got an empty one'],
    ])('%s', async (_what, row, message) => { await refused(method(from([pair, row])), DataError, message) })
  })

  test.each(Object.entries({ dpo, orpo, cpo }))('of %s longer than the context', async (_, method) => {
    await refused(method({ ...from([{ ...pair, prompt: 'the cat '.repeat(60) }]), maxLength: null }), ConfigError, /maxLength: the data has a row of \d+ tokens, but the model has 96 positions/)
  })

  test('of kto and rrhf that are empty', async () => {
    await refused(kto(from([{ prompt: 'the cat', completion: '', label: true }])), DataError, 'completion: expected a completion, got an empty one')
    await refused(rrhf(from([{ prompt: 'the cat', responses: [' sees', ''], scores: [1, 0] }])), DataError, 'responses[1]: expected a completion, got an empty one')
  })

  test('of rrhf whose scores are all equal rank nothing', async () => {
    const run = await rrhf(from([{ prompt: 'the cat', responses: [' sees', ' likes'], scores: [1, 1] }]))
    live.push(run, run.model)
    const ranks: (number | undefined)[] = []
    run.trainer.on((event) => { if (event.type === 'log') ranks.push(event.metrics['rank_loss']) })
    await run.train()
    expect(ranks).toEqual([0])
  })
})
