// Proves that a NaN or an infinity stops training before it spreads, that the error names where it began, and that what was saved stays good.
import { join } from 'node:path'
import { afterEach, describe, expect, test } from 'vitest'
import type { Batch } from '../../src/data/index.ts'
import { NonFiniteError } from '../../src/errors.ts'
import { latestCheckpoint } from '../../src/files/index.ts'
import { AutoModelForCausalLM } from '../../src/models/index.ts'
import { mul } from '../../src/ops/index.ts'
import type { Trainer, TrainerEvent } from '../../src/train/index.ts'
import { readEvents } from '../../src/train/index.ts'
import { temporaryFolder } from '../files/helpers.ts'
import { lossesOf, rows, runToEnd, tinyModel, tinyTrainer, trainerHash, weightsHash, type RunOptions, type TinyOptions } from './support.ts'

const live: { dispose(): void }[] = []
afterEach(() => { for (const one of live.splice(0)) one.dispose() })

function trainerOf(options: Partial<RunOptions> & { tiny?: TinyOptions } = {}) {
  const { tiny, ...rest } = options
  const trainer = tinyTrainer({ outputDir: temporaryFolder(), model: tinyModel(tiny), ...rest })
  live.push(trainer.task.model, trainer)
  return trainer
}

/** Puts a value into the first place of a parameter. */
const poison = (trainer: Trainer<Batch>, name: string, value: number): void => {
  const { tensor } = trainer.task.model.getParameter(name)
  const place = tensor.viewAs([1])
  tensor.device.kernels.fill(place.handle, value)
  place.dispose()
}

/** Rejects with a NonFiniteError; returns its message and the events. */
async function fail(trainer: Trainer<Batch>): Promise<{ message: string, events: TrainerEvent[] }> {
  const events: TrainerEvent[] = []
  trainer.on((event) => events.push(event))
  const error: unknown = await trainer.train().catch((thrown: unknown) => thrown)
  expect(error).toBeInstanceOf(NonFiniteError)
  return { message: (error as Error).message, events }
}

describe('the first tensor that is not finite is named', () => {
  test.each(['model.embed_tokens.weight', 'model.layers.1.self_attn.v_proj.weight', 'model.norm.weight', 'lm_head.weight'])('a parameter: %s', async (name) => {
    const trainer = trainerOf()
    poison(trainer, name, NaN)
    expect((await fail(trainer)).message).toContain(`first tensor that is not finite: parameter ${name}. No checkpoint was saved yet`)
  })

  test.each<[number, string]>([[0, 'the output of layer 0'], [1, 'the output of the last layer and norm']])('what a layer computes, where its weights are finite: %s', async (layer, what) => {
    const trainer = trainerOf()
    poison(trainer, `model.layers.${layer}.mlp.up_proj.weight`, 3e38)
    poison(trainer, `model.layers.${layer}.mlp.down_proj.weight`, 3e38)
    poison(trainer, `model.layers.${layer}.post_attention_layernorm.weight`, 1e20)
    expect((await fail(trainer)).message).toContain(`first tensor that is not finite: ${what}.`)
  })

  test('a loss, in any micro-batch of the step', async () => {
    const trainer = trainerOf({ gradientAccumulationSteps: 2 })
    const batches = trainer.task.batches.bind(trainer.task)
    const loss = trainer.task.loss.bind(trainer.task)
    let second: Batch | undefined
    Object.assign(trainer.task, {
      batches: async (step: number) => {
        const made = await batches(step)
        second = made.microBatches[1]
        return made
      },
      loss: (batch: Batch, numItems: number) => ({ loss: mul(loss(batch, numItems).loss, batch === second ? NaN : 1) }),
    })
    expect((await fail(trainer)).message).toMatch(/^the loss is NaN at step 1; the first tensor that is not finite: the loss\./)
  })

  test('a gradient, where weights, activations and loss are finite', async () => {
    const trainer = trainerOf()
    const loss = trainer.task.loss.bind(trainer.task)
    Object.assign(trainer.task, { loss: (batch: Batch, numItems: number) => ({ loss: mul(loss(batch, numItems).loss, 1e35) }) })
    poison(trainer, 'lm_head.weight', 1e6)
    poison(trainer, 'model.norm.weight', 1e-6)
    expect((await fail(trainer)).message).toMatch(/^the gradient norm is (Infinity|NaN) at step 1; the first tensor that is not finite: the gradient of model\.norm\.weight\./)
  })
})

test('the step changes nothing: weights and optimizer are those before it', async () => {
  const reference = trainerOf({ maxSteps: 3, lrSchedulerType: 'constant' })
  await reference.train()
  const expected = await trainerHash(reference)
  const trainer = trainerOf({ maxSteps: 10, lrSchedulerType: 'constant' })
  const batches = trainer.task.batches.bind(trainer.task)
  const loss = trainer.task.loss.bind(trainer.task)
  let bad = false
  Object.assign(trainer.task, {
    batches: (step: number) => { bad = step >= 3; return batches(step) },
    loss: (batch: Batch, numItems: number) => (bad ? { loss: mul(loss(batch, numItems).loss, NaN) } : loss(batch, numItems)),
  })
  const { message, events } = await fail(trainer)
  expect(message).toContain('the loss is NaN at step 4')
  // The count of updates goes on; all numbers are those of step 3.
  expect((await trainerHash(trainer)).split(' ')[0]).toBe(expected.split(' ')[0])
  expect(events.at(-1)).toMatchObject({ type: 'end', reason: 'failed', message })
})

test('maxNonFiniteSteps lets single steps pass with a warning, which are logged as they are', async () => {
  const trainer = trainerOf({ maxSteps: 6, maxNonFiniteSteps: 2, lrSchedulerType: 'constant', saveStrategy: 'steps', saveSteps: 2, reportTo: ['jsonl'] })
  const batches = trainer.task.batches.bind(trainer.task)
  const loss = trainer.task.loss.bind(trainer.task)
  let bad = false
  Object.assign(trainer.task, {
    batches: (step: number) => { bad = step === 1 || step === 3; return batches(step) },
    loss: (batch: Batch, numItems: number) => (bad ? { loss: mul(loss(batch, numItems).loss, NaN) } : loss(batch, numItems)),
  })
  const events = await runToEnd(trainer)
  expect(lossesOf(events).map((value) => Number.isNaN(value))).toEqual([false, true, false, true, false, false])
  expect(events.filter(({ type }) => type === 'warning')).toHaveLength(2)
  expect(events.at(-1)).toMatchObject({ reason: 'finished' })
  const model = await AutoModelForCausalLM.fromPretrained(join(trainer.args.outputDir, 'checkpoint-2'))
  live.push(model)
  expect(lossesOf(readEvents(join(trainer.args.outputDir, 'metrics.jsonl')))).toEqual(lossesOf(events))
})

test('a checkpoint made while a step is not finite resumes, its log included', async () => {
  const outputDir = temporaryFolder()
  const shared = { outputDir, maxSteps: 6, maxNonFiniteSteps: 3, loggingSteps: 4, reportTo: [] }
  const trainer = trainerOf(shared)
  const loss = trainer.task.loss.bind(trainer.task)
  const controller = new AbortController()
  Object.assign(trainer.task, { loss: (batch: Batch, numItems: number) => ({ loss: mul(loss(batch, numItems).loss, trainer.step === 1 ? Infinity : 1) }) })
  trainer.on((event) => { if (event.type === 'step' && event.step === 2) controller.abort() })
  await trainer.train({ signal: controller.signal })
  const again = trainerOf({ ...shared, resumeFromCheckpoint: true })
  expect(lossesOf(await runToEnd(again))).toEqual([Infinity, expect.any(Number) as number])
})

describe('a learning rate of', () => {
  test.each([1e30, 1e300])('%d ends in an error, and every checkpoint that is there holds finite weights', async (learningRate) => {
    const trainer = trainerOf({ maxSteps: 20, learningRate, saveStrategy: 'steps', saveSteps: 1, lrSchedulerType: 'constant', warmupSteps: 0 })
    const { message } = await fail(trainer)
    expect(message).toMatch(/not finite.*(No checkpoint was saved yet|checkpoint-\d+, is good).*lower learningRate/)
    const newest = await latestCheckpoint(trainer.args.outputDir)
    if (learningRate === 1e300) expect(newest).toBeUndefined()
    if (!newest) return
    const model = await AutoModelForCausalLM.fromPretrained(newest.path)
    live.push(model)
    for (const [name, { tensor }] of model.namedParameters()) expect((await tensor.toArray()).every(Number.isFinite), name).toBe(true)
  })
})

test('the last good checkpoint is kept and named, and training resumes from it', async () => {
  const outputDir = temporaryFolder()
  const shared = { outputDir, maxSteps: 8, saveStrategy: 'steps', saveSteps: 2, saveTotalLimit: 1 } as const
  const trainer = trainerOf(shared)
  trainer.on((event) => { if (event.type === 'save' && event.step === 4) poison(trainer, 'model.norm.weight', NaN) })
  const { message } = await fail(trainer)
  expect(message).toContain(`The last checkpoint, ${join(outputDir, 'checkpoint-4')}, is good`)
  const again = trainerOf({ ...shared, resumeFromCheckpoint: true, tiny: { seed: 5 } })
  const whole = trainerOf({ maxSteps: 8 })
  await again.train()
  await whole.train()
  expect(await weightsHash(again.task.model)).toBe(await weightsHash(whole.task.model))
})

test('rows without a trained token have loss 0, and move nothing', async () => {
  const untrained = rows(4).map(({ inputIds }) => ({ inputIds, labels: inputIds.map(() => -100) }))
  const trainer = trainerOf({ rows: untrained, evalRows: untrained, maxSteps: 2 })
  const before = await weightsHash(trainer.task.model)
  const events = await runToEnd(trainer)
  expect(lossesOf(events)).toEqual([0, 0])
  expect(await weightsHash(trainer.task.model)).toBe(before)
  expect(await trainer.evaluate()).toEqual({ loss: 0, meanTokenAccuracy: 0, perplexity: 1 })
})
