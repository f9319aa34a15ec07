// Proves which model a reference is, that one which follows the policy is the mixture asked for, and that a run with it resumes to the byte.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, describe, expect, test } from 'vitest'
import { addAdapter } from '../../src/adapters/index.ts'
import { ConfigError } from '../../src/errors.ts'
import { dpo, kto, type DpoOptions } from '../../src/methods/preference/index.ts'
import { Reference } from '../../src/methods/reference.ts'
import { grpo } from '../../src/methods/reinforcement/policy/grpo.ts'
import type { GrpoOptions } from '../../src/methods/reinforcement/policy/options.ts'
import { AutoModelForCausalLM } from '../../src/models/index.ts'
import { rewardEach } from '../../src/rewards/index.ts'
import { temporaryFolder } from '../files/helpers.ts'
import { base, logOf, preferences, setting, unpaired } from './preference/support.ts'
import { makeModel } from './support.ts'

const live: { dispose(): void }[] = []
afterEach(() => { for (const one of live.splice(0)) one.dispose() })
const keep = <T extends { dispose(): void, model: { dispose(): void } }>(run: T): T => { live.push(run, run.model); return run }

async function folderAndPolicy() {
  const folder = temporaryFolder()
  await makeModel(folder)
  const policy = await AutoModelForCausalLM.fromPretrained(folder)
  live.push(policy)
  const place = { model: folder, dtype: 'float32', device: 'cpu' } as const
  return { policy, place, of: async (more: object = {}) => { const reference = await Reference.of(policy, { ...place, ...more }); live.push(reference); return reference } }
}

test('it is the model without its new adapter, a copy of the model, or the folder that is named', async () => {
  const { policy, place, of } = await folderAndPolicy()
  for (const reference of [await of(), await of({ model: 'nowhere', refModel: place.model })]) {
    reference.run((one) => {
      expect(one).not.toBe(policy)
      expect(one.numParameters({ onlyTrainable: true })).toBe(0)
    })
  }
  await addAdapter(policy, { type: 'lora', r: 2, targetModules: ['q_proj'] })
  const own = await of()
  own.run((one) => { expect(one).toBe(policy) })
})

test('moved, it is (1 - alpha) of what it was and alpha of the policy', async () => {
  const { policy, of } = await folderAndPolicy()
  const reference = await of({ syncRefModel: true })
  const weight = [...policy.namedParameters()][1]!
  const before = await weight[1].tensor.toArray()
  weight[1].tensor.copy_(before.map((value) => value + 1))
  reference.mix(0.25)
  const moved = await reference.run((one) => new Map(one.namedParameters()).get(weight[0])!.tensor.toArray())
  moved.forEach((value, i) => { expect(value).toBeCloseTo(before[i]! + 0.25, 6) })
})

describe('a reference that follows the policy', () => {
  const sync = { syncRefModel: true, refModelMixupAlpha: 1, refModelSyncSteps: 1 }

  test('wholly and after each step keeps the DPO loss at log 2; after every other it does so every other step', async () => {
    const where = await setting(preferences)
    const losses = async (options: Partial<DpoOptions>) => (await logOf(keep(await dpo({ ...base, ...where, outputDir: temporaryFolder(), maxSteps: 4, ...options })))).map(({ loss }) => loss!)
    for (const loss of await losses(sync)) expect(loss).toBeCloseTo(Math.LN2, 6)
    const other = await losses({ ...sync, refModelSyncSteps: 2 })
    expect(other[2]).toBeCloseTo(Math.LN2, 6)
    for (const i of [1, 3]) expect(Math.abs(other[i]! - Math.LN2)).toBeGreaterThan(1e-3)
  })

  test('KTO begins each step with a margin of 0', async () => {
    const where = await setting(unpaired)
    for (const log of await logOf(keep(await kto({ ...base, ...where, ...sync, maxSteps: 3 })))) expect(log['rewards/chosen'] ?? log['rewards/rejected']).toBeCloseTo(0, 6)
  })

  test('a stopped run goes on with the same bytes, and the final folder holds the policy alone', async () => {
    const where = await setting(preferences)
    const options = { ...base, ...where, ...sync, refModelMixupAlpha: 0.6, refModelSyncSteps: 2, maxSteps: 6 }
    await keep(await dpo({ ...options, outputDir: join(where.outputDir, '..', 'whole') })).train()
    const first = keep(await dpo(options))
    const controller = new AbortController()
    first.trainer.on((event) => { if (event.type === 'step' && event.step === 3) controller.abort() })
    expect(await first.train({ signal: controller.signal })).toMatchObject({ reason: 'aborted' })
    await keep(await dpo({ ...options, resumeFromCheckpoint: true })).train()
    expect(readFileSync(join(where.outputDir, 'model.safetensors')).equals(readFileSync(join(where.outputDir, '..', 'whole', 'model.safetensors')))).toBe(true)
    expect(() => readFileSync(join(where.outputDir, 'reference', 'model.safetensors'))).toThrow()
  })

  test('GRPO has no KL to it where it follows wholly', async () => {
    const { place } = await folderAndPolicy()
    const run = async (options: Partial<GrpoOptions>) => logOf(keep(await grpo({
      ...place, outputDir: temporaryFolder(), reportTo: [], saveStrategy: 'no', loggingSteps: 1, numGenerations: 4, perDeviceTrainBatchSize: 8, maxCompletionLength: 6, learningRate: 1e-2, beta: 0.1, maxSteps: 3, ...options,
      rows: [{ prompt: 'the cat' }, { prompt: 'a dog' }], rewards: [rewardEach('length', ({ completion }) => completion.length)],
    })))
    for (const log of await run(sync)) expect(log['kl']).toBeCloseTo(0, 9)
    expect((await run({})).at(-1)!['kl']).toBeGreaterThan(1e-6)
    await expect(run({ ...sync, beta: 0 })).rejects.toThrow('syncRefModel: with beta 0 there is no reference to move')
  })

  test.each<[string, Partial<DpoOptions>]>([
    ['with an adapter the reference is the model without it', { adapter: { type: 'lora', r: 2, targetModules: ['q_proj'] } }],
    ['numbers computed before training are those of a reference that stays', { precomputeRefLogProbs: true }],
    ['is of another shape than the policy: model.layers', { refModel: 'other' }],
  ])('is refused where %s', async (message, options) => {
    const where = await setting(preferences)
    if (options.refModel !== undefined) {
      const { policy } = await folderAndPolicy()
      const other = AutoModelForCausalLM.fromConfig({ ...policy.config.raw, num_hidden_layers: 1 })
      options.refModel = join(where.outputDir, '..', 'other')
      await other.savePretrained(options.refModel)
      other.dispose()
    }
    const failure = dpo({ ...base, ...where, ...sync, ...options })
    await expect(failure).rejects.toThrow(ConfigError)
    await expect(failure).rejects.toThrow(message)
  })
})
