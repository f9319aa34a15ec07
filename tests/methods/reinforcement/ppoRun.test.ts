// Proves ppo() from prompts to a saved policy and value model: the reward rises, a run resumes bit for bit in the middle of a rollout, values are learnt on
// layers of their own or on the policy's, conversations with an environment are learnt from, and wrong options are named.
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, describe, expect, test } from 'vitest'
import { ConfigError, DataError } from '../../../src/errors.ts'
import { ppo, type PpoInput, type PpoRun } from '../../../src/methods/reinforcement/ppo/ppo.ts'
import { AutoModelForCausalLM } from '../../../src/models/index.ts'
import { Classifier } from '../../../src/models/sequenceClassification.ts'
import { rewardEach } from '../../../src/rewards/index.ts'
import type { TrainerEvent } from '../../../src/train/index.ts'
import { temporaryFolder } from '../../files/helpers.ts'
import { metricsOf } from '../../train/support.ts'
import { makeModel } from '../support.ts'

const live: { dispose(): void }[] = []
afterEach(() => { for (const one of live.splice(0)) one.dispose() })
const keep = (run: PpoRun): PpoRun => { live.push(run, run.model); return run }

const rows = ['the cat', 'a dog', 'my friend', 'the old king', 'one bird', 'the moon', 'a river', 'some bread'].map((prompt) => ({ prompt }))

/** The share of the letter e in the answer. */
const letters = rewardEach<{ prompt: string }>('letters', ({ completion }) => (completion.match(/e/g)?.length ?? 0) / Math.max(completion.length, 1))

const base = {
  rows, rewards: [letters], responseLength: 12, temperature: 1, perDeviceTrainBatchSize: 8, learningRate: 3e-3, lrSchedulerType: 'constant', reportTo: [], saveStrategy: 'no', loggingSteps: 1, klCoef: 0.01,
} satisfies Partial<PpoInput<{ prompt: string }>>

async function prepared(options: Partial<PpoInput<{ prompt: string }>> = {}, folder = temporaryFolder()): Promise<PpoRun> {
  if (!existsSync(join(folder, 'model'))) await makeModel(join(folder, 'model'))
  return keep(await ppo({ ...base, model: join(folder, 'model'), outputDir: join(folder, 'out'), ...options }))
}

async function trained(run: PpoRun): Promise<{ metrics: Record<string, number>[]; events: TrainerEvent[] }> {
  const events: TrainerEvent[] = []
  run.trainer.on((event) => { events.push(event) })
  await run.train()
  return { metrics: metricsOf(events).map(([, one]) => one), events }
}

describe('learning', () => {
  test.each([['layers of its own', {}], ['the policy\'s layers', { valueModel: 'shared' }]] as const)('the reward rises with values on %s', async (_, options) => {
    const folder = temporaryFolder()
    const run = await prepared({ rows: Array.from({ length: 32 }, (_, i) => rows[i % 8]!), maxSteps: 60, numPpoEpochs: 2, perDeviceTrainBatchSize: 32, learningRate: 5e-3, ...options }, folder)
    const { metrics, events } = await trained(run)
    const reward = (from: number, to: number): number => metrics.slice(from, to).reduce((sum, one) => sum + one['reward']!, 0) / (to - from)
    expect(reward(0, 8)).toBeLessThan(0.2)
    expect(reward(metrics.length - 8, metrics.length)).toBeGreaterThan(reward(0, 8) + 0.3)
    for (const one of metrics) for (const [name, value] of Object.entries(one)) expect(Number.isFinite(value), name).toBe(true)
    // The first pass over a rollout is on-policy; the sampler and the trainer agree.
    expect(metrics[0]!['ratio']).toBeCloseTo(1, 4)
    expect(metrics[0]!['samplerGap']).toBeLessThan(1e-4)
    expect(metrics[0]!['kl']).toBeCloseTo(0, 4)
    expect(events.some((event) => event.type === 'sample')).toBe(true)
    const saved = await AutoModelForCausalLM.fromPretrained(run.trainer.args.outputDir)
    live.push(saved)
    expect(existsSync(join(run.trainer.args.outputDir, 'ppo_state.json'))).toBe(false)
    if ('valueModel' in options) expect(existsSync(join(run.trainer.args.outputDir, 'value_head.safetensors'))).toBe(true)
    else live.push(await Classifier.fromPretrained(join(run.trainer.args.outputDir, 'value_model')))
  }, 60_000)

  test('a reward model judges, and is where the value model starts', async () => {
    const folder = temporaryFolder()
    await makeModel(join(folder, 'model'))
    const judge = await Classifier.fromPretrained(join(folder, 'model'), { seed: 5 })
    await judge.savePretrained(join(folder, 'reward'))
    judge.dispose()
    const run = await prepared({ rewards: [letters], rewardModel: join(folder, 'reward'), rewardWeights: [0, 1], maxSteps: 2, missingEosPenalty: 1, klController: 'adaptive', klTarget: 0.1, klHorizon: 100 }, folder)
    const { metrics } = await trained(run)
    expect(metrics[0]!['reward/rewardModel']! - metrics[0]!['truncatedShare']!).toBeCloseTo(metrics[0]!['reward']!, 5)
    const [before, after] = await Promise.all([join(folder, 'reward'), join(run.trainer.args.outputDir, 'value_model')].map(async (path) => Classifier.fromPretrained(path)))
    live.push(before!, after!)
    const [a, b] = [await before!.head.weight.tensor.toArray(), await after!.head.weight.tensor.toArray()]
    // Two steps of AdamW move a weight by twice the learning rate at most.
    expect(Math.max(...a.map((x, i) => Math.abs(x - b[i]!)))).toBeLessThan(2.1 * base.learningRate)
    expect(a).not.toEqual(b)
  })

  test('conversations with an environment: its rewards are learnt from, its words are not', async () => {
    let asked = 0
    const run = await prepared({
      rewards: [], responseLength: 40, maxSteps: 2, maxTurns: 2,
      environment: () => ({
        reset: ({ prompt }) => [{ role: 'user', content: prompt }],
        step: (text, { turn }) => { asked++; return turn === 0 ? { observation: 'a dog', reward: 0.25, done: false } : { reward: text.length, done: true } },
      }),
    })
    const { metrics } = await trained(run)
    expect(asked).toBeGreaterThanOrEqual(8)
    expect(metrics[0]!['reward/environment']).toBeGreaterThan(0)
  })
})

describe('resume', () => {
  test.each([['in the middle of a rollout', 6], ['between rollouts', 8]] as const)('stopped %s, it ends with the same bytes', async (_, stop) => {
    const options = { maxSteps: 12, numPpoEpochs: 2, numMiniBatches: 2, perDeviceTrainBatchSize: 2, klController: 'adaptive', klTarget: 0.05, klHorizon: 50, saveStrategy: 'steps', saveSteps: 100 } as const
    const folder = temporaryFolder()
    const whole = await prepared({ ...options, outputDir: join(folder, 'whole') }, folder)
    await whole.train()
    const first = await prepared({ ...options }, folder)
    const controller = new AbortController()
    first.trainer.on((event) => { if (event.type === 'step' && event.step === stop) controller.abort() })
    expect(await first.train({ signal: controller.signal })).toMatchObject({ reason: 'aborted' })
    const rest = await prepared({ ...options, resumeFromCheckpoint: true }, folder)
    expect(await rest.train()).toMatchObject({ reason: 'finished', step: 12 })
    for (const file of ['model.safetensors', 'value_model/model.safetensors']) {
      expect(readFileSync(join(folder, 'out', file)).equals(readFileSync(join(folder, 'whole', file))), file).toBe(true)
    }
  })

  test('other settings are refused', async () => {
    const folder = temporaryFolder()
    await (await prepared({ maxSteps: 1, saveStrategy: 'steps' }, folder)).train()
    await expect((await prepared({ maxSteps: 1, klCoef: 0.5, resumeFromCheckpoint: true }, folder)).train()).rejects.toThrow('klCoef: the checkpoint')
  })
})

describe('bad input', () => {
  test.each<[string, Partial<PpoInput<{ prompt: string }>>]>([
    ['nothing judges the answers', { rewards: [] }], ['rewardWeights: expected 1', { rewardWeights: [1, 2] }], ['responseLenght: unknown option; did you mean "responseLength"', { responseLenght: 5 } as never],
    ['dualClip', { dualClip: 0.5 }], ['files: give the prompts', { rows: undefined as never }],
  ])('says "%s"', async (message, options) => {
    await expect(prepared(options)).rejects.toThrow(message)
    await expect(prepared(options)).rejects.toThrow(ConfigError)
  })

  test('a reward model with several labels', async () => {
    const folder = temporaryFolder()
    await makeModel(join(folder, 'model'))
    const judge = await Classifier.fromPretrained(join(folder, 'model'), { numLabels: 3 })
    await judge.savePretrained(join(folder, 'reward'))
    judge.dispose()
    await expect(prepared({ rewardModel: join(folder, 'reward') }, folder)).rejects.toThrow('has 3 labels')
  })

  test('a reward that fails for some answers leaves them out with a warning; one that fails for all stops the run', async () => {
    let calls = 0
    const some = rewardEach<{ prompt: string }>('some', () => { if (calls++ % 2 === 0) throw new Error('no network'); return 1 })
    const run = await prepared({ rewards: [some], maxSteps: 1, rows: Array.from({ length: 8 }, (_, i) => rows[i % 4]!) })
    const { metrics, events } = await trained(run)
    expect(metrics[0]!['withoutReward']).toBe(4)
    expect(events.flatMap((event) => (event.type === 'warning' ? [event.message] : [])).join()).toContain('reward function some: no network')
    const none = await prepared({ rewards: [rewardEach('none', () => null)], maxSteps: 1 })
    await expect(none.train()).rejects.toThrow(DataError)
  })
})
