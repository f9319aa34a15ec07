// Proves what a trainer tells and when: events, evaluation, the best model, early stopping, schedules, log files; and that what is frozen stays.
import { readFileSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, describe, expect, test } from 'vitest'
import { ConfigError } from '../../src/errors.ts'
import { listCheckpoints } from '../../src/files/index.ts'
import { AutoModelForCausalLM, type CausalLanguageModel } from '../../src/models/index.ts'
import { createSchedule, lrSchedulerTypes, type LrSchedulerOptions } from '../../src/optim/index.ts'
import { noGrad, scope } from '../../src/tensor/index.ts'
import { readEvents, type TrainerEvent, type TrainingOptions } from '../../src/train/index.ts'
import { temporaryFolder } from '../files/helpers.ts'
import { lossesOf, metricsOf, relative, rows, runToEnd, tinyModel, tinyTrainer, weightsHash, weightsOf, type RunOptions, type TinyOptions } from './support.ts'
import { readRecords } from './tensorboard-reader.ts'

const live: { dispose(): void }[] = []
afterEach(() => { for (const one of live.splice(0)) one.dispose() })

function trainerOf(options: Partial<RunOptions> & { tiny?: TinyOptions } = {}) {
  const { tiny, ...rest } = options
  const model = rest.model ?? tinyModel(tiny)
  const trainer = tinyTrainer({ outputDir: temporaryFolder(), ...rest, model })
  live.push(model, trainer)
  return trainer
}

const typesOf = (events: readonly TrainerEvent[]): string[] => events.map((event) => ('step' in event && event.type !== 'start' ? `${event.type} ${event.step}` : event.type))

describe('events', () => {
  test('come in order: start, each step, then what is due after it, end', async () => {
    const trainer = trainerOf({ evalRows: rows(3, 2), maxSteps: 4, loggingSteps: 2, evalStrategy: 'steps', evalSteps: 2, saveStrategy: 'steps', saveSteps: 4, task: { sample: () => Promise.resolve([{ prompt: 'a', text: 'b' }]) } })
    expect(typesOf(await runToEnd(trainer))).toEqual([
      'start', 'step 1', 'log 1', 'step 2', 'log 2', 'evaluate 2', 'sample 2', 'step 3', 'step 4', 'log 4', 'evaluate 4', 'sample 4', 'save 4', 'end 4',
    ])
  })

  test('tell the run: its size, its options, epochs, tokens', async () => {
    const trainRows = rows(10)
    const events = await runToEnd(trainerOf({ rows: trainRows, numTrainEpochs: 2, loggingSteps: 100 }))
    expect(events[0]).toMatchObject({ type: 'start', method: 'sft', step: 0, totalSteps: 6, epochs: 2, device: 'cpu', options: { learningRate: 0.01, adamBeta1: 0.9, numTrainEpochs: 2 } })
    expect(events.filter(({ type }) => type === 'step').map((event) => (event as { epoch: number }).epoch)).toEqual([1, 2, 3, 4, 5, 6].map((step) => step / 3))
    const tokens = 2 * trainRows.reduce((sum, { inputIds }) => sum + inputIds.length, 0)
    expect(events.at(-1)).toMatchObject({ type: 'end', reason: 'finished', tokensSeen: tokens })
    expect(JSON.parse(JSON.stringify(events))).toEqual(events)
  })

  test('reach any number of readers, each from when it began, and end with the run', async () => {
    const trainer = trainerOf({ maxSteps: 3 })
    const read = async (events: AsyncIterable<TrainerEvent>, most = Infinity): Promise<TrainerEvent[]> => {
      const seen: TrainerEvent[] = []
      for await (const event of events) {
        seen.push(event)
        if (seen.length === most) break
      }
      return seen
    }
    const readers = [read(trainer.events()), read(trainer.events()), read(trainer.events(), 2)]
    const heard = runToEnd(trainer)
    const [one, two, short] = await Promise.all(readers)
    expect(one).toEqual(await heard)
    expect(two).toEqual(one)
    expect(short).toEqual(one!.slice(0, 2))
    expect(await read(trainer.events())).toEqual([])
  })

  test('a listener that throws stops the run with its error, and leaves the folder free and the log whole', async () => {
    const outputDir = temporaryFolder()
    const trainer = trainerOf({ outputDir, maxSteps: 3, reportTo: ['jsonl'] })
    trainer.on((event) => { if (event.type === 'step') throw new RangeError('mine') })
    await expect(trainer.train()).rejects.toThrow('mine')
    expect(readEvents(join(outputDir, 'metrics.jsonl')).map(({ type }) => type)).toEqual(['start', 'end'])
    await expect(trainerOf({ outputDir, maxSteps: 1 }).train()).resolves.toMatchObject({ reason: 'finished' })
  })

  test('a run stopped by a signal goes on when trained again', async () => {
    const whole = trainerOf({ maxSteps: 8, tiny: { dropout: 0.1 } })
    await whole.train()
    const trainer = trainerOf({ maxSteps: 8, tiny: { dropout: 0.1 } })
    const controller = new AbortController()
    const stop = trainer.on((event) => { if (event.type === 'step' && event.step === 3) controller.abort() })
    expect(await trainer.train({ signal: controller.signal })).toMatchObject({ reason: 'aborted', lastCheckpoint: join(trainer.args.outputDir, `checkpoint-${trainer.step}`) })
    expect(trainer.step).toBeLessThan(6)
    stop()
    expect((await runToEnd(trainer)).at(-1)).toMatchObject({ type: 'end', reason: 'finished', step: 8 })
    expect(await weightsHash(trainer.task.model)).toBe(await weightsHash(whole.task.model))
  })

  test('what the task throws ends the run and is passed on', async () => {
    const trainer = trainerOf({ task: { batches: (step) => { if (step === 2) throw new RangeError('no more rows'); return trainerOf().task.batches(step) } } })
    const events: TrainerEvent[] = []
    trainer.on((event) => events.push(event))
    await expect(trainer.train()).rejects.toThrow(RangeError)
    expect(events.at(-1)).toMatchObject({ type: 'end', reason: 'failed', message: 'no more rows' })
  })
})

describe('evaluation', () => {
  test('gives the mean over all trained tokens, their accuracy and the perplexity, without dropout', async () => {
    const trainer = trainerOf({ evalRows: rows(11, 3), tiny: { dropout: 0.2 }, labelSmoothingFactor: 0.1 })
    const { model } = trainer.task as unknown as { model: CausalLanguageModel }
    let [nll, right, count] = [0, 0, 0]
    for (const { inputIds, labels } of rows(11, 3)) {
      const forward = noGrad(() => scope(() => model.forward({ inputIds: [[...inputIds]], labels: [[...labels]] })))
      nll += (await forward.nll!.toArray()).reduce((a, b) => a + b, 0)
      right += (await forward.correct!.toArray()).reduce((a, b) => a + b, 0)
      count += labels.filter((label, i) => i > 0 && label !== -100).length
    }
    const metrics = await trainer.evaluate()
    expect(metrics['loss']! / (nll / count)).toBeCloseTo(1, 5)
    expect(metrics['meanTokenAccuracy']).toBeCloseTo(right / count, 6)
    expect(metrics['perplexity']).toBeCloseTo(Math.exp(metrics['loss']!), 4)
    model.train()
    expect(await trainer.evaluate()).toEqual(metrics)
    expect(model.training).toBe(true)
  })

  test('does not change the training', async () => {
    const hash = async (extra: Partial<TrainingOptions>) => {
      const trainer = trainerOf({ evalRows: rows(5, 2), tiny: { dropout: 0.1 }, ...extra })
      await trainer.train()
      return weightsHash(trainer.task.model)
    }
    expect(await hash({ evalStrategy: 'steps', evalSteps: 1 })).toBe(await hash({}))
  })

  /** Trains with made-up evaluation losses. */
  function scripted(losses: number[], options: Partial<RunOptions>) {
    const trainer = trainerOf({ evalRows: rows(2, 2), evalStrategy: 'steps', evalSteps: 1, maxSteps: losses.length, saveStrategy: 'steps', saveSteps: 1, ...options })
    let i = 0
    const evaluate = trainer.evaluate.bind(trainer)
    trainer.evaluate = async () => ({ ...await evaluate(), loss: losses[i++]! })
    return trainer
  }

  test('early stopping waits earlyStoppingPatience evaluations, and counts gains below the threshold as none', async () => {
    const stopped = async (losses: number[], options: Partial<TrainingOptions>) => (await scripted(losses, options).train()).step
    expect(await stopped([5, 4, 4.5, 4.1, 3, 3.5, 3.2, 9], { earlyStoppingPatience: 2 })).toBe(4)
    expect(await stopped([5, 4, 4.5, 3.9, 3, 3.5, 3.2, 9], { earlyStoppingPatience: 2 })).toBe(7)
    expect(await stopped([5, 4.9, 4.8, 4], { earlyStoppingPatience: 2, earlyStoppingThreshold: 0.5 })).toBe(3)
    expect(await stopped([5, 4, 3], { earlyStoppingPatience: 2 })).toBe(3)
  })

  test('a run that stopped early stops again when resumed', async () => {
    const trainer = scripted([5, 6, 7, 8], { earlyStoppingPatience: 2 })
    expect(await trainer.train()).toMatchObject({ reason: 'earlyStopping', step: 3 })
    const again = scripted([1, 1, 1, 1], { earlyStoppingPatience: 2, outputDir: trainer.args.outputDir, resumeFromCheckpoint: true })
    expect(await again.train()).toMatchObject({ reason: 'earlyStopping', step: 3 })
    expect(await weightsHash(again.task.model)).toBe(await weightsHash(trainer.task.model))
  })

  test('an evaluation that is not a number is never the best', async () => {
    const trainer = scripted([NaN, 5, Infinity, 6], { loadBestModelAtEnd: true })
    expect(await trainer.train()).toMatchObject({ bestCheckpoint: join(trainer.args.outputDir, 'checkpoint-2') })
    const never = scripted([NaN, NaN], {})
    expect(await never.train()).not.toHaveProperty('bestCheckpoint')
    expect(await scripted([NaN], { outputDir: never.args.outputDir, maxSteps: 2, resumeFromCheckpoint: true }).train()).toMatchObject({ step: 2 })
  })

  test('the best model is loaded at the end, and its checkpoint outlives saveTotalLimit', async () => {
    const trainer = scripted([5, 3, 4, 6, 7, 8], { loadBestModelAtEnd: true, saveTotalLimit: 2 })
    const weights: string[] = []
    const save = trainer.task.save.bind(trainer.task)
    Object.assign(trainer.task, { save: async (folder: string) => { weights.push(await weightsHash(trainer.task.model)); await save(folder) } })
    const result = await trainer.train()
    expect(result).toMatchObject({ reason: 'finished', bestCheckpoint: join(trainer.args.outputDir, 'checkpoint-2'), lastCheckpoint: join(trainer.args.outputDir, 'checkpoint-6') })
    expect((await listCheckpoints(trainer.args.outputDir)).map(({ step }) => step)).toEqual([2, 6])
    expect(await weightsHash(trainer.task.model)).toBe(weights[1])
    expect(new Set(weights).size).toBe(6)
  })

  test('another metric may decide, upwards', async () => {
    const trainer = scripted([5, 5, 5], { metricForBestModel: 'meanTokenAccuracy', loadBestModelAtEnd: true })
    const accuracies = [0.1, 0.7, 0.3]
    const evaluate = trainer.evaluate.bind(trainer)
    trainer.evaluate = async () => ({ ...await evaluate(), meanTokenAccuracy: accuracies.shift()! })
    expect(await trainer.train()).toMatchObject({ bestCheckpoint: join(trainer.args.outputDir, 'checkpoint-2') })
    await expect(scripted([1], { metricForBestModel: 'bleu' }).train()).rejects.toThrow('metricForBestModel: there is no metric "bleu"; this run has loss, meanTokenAccuracy, perplexity')
  })

  test('"epoch" evaluates and saves at the end of each', async () => {
    const trainer = trainerOf({ evalRows: rows(3, 2), numTrainEpochs: 3, evalStrategy: 'epoch', saveStrategy: 'epoch' })
    const events = await runToEnd(trainer)
    expect(typesOf(events).filter((type) => /evaluate|save/.test(type))).toEqual(['evaluate 5', 'save 5', 'evaluate 10', 'save 10', 'evaluate 15', 'save 15'])
  })
})

describe('the learning rate', () => {
  const kwargs: Partial<Record<string, Record<string, unknown>>> = {
    cosine_with_restarts: { numCycles: 2 }, cosine_with_min_lr: { minLrRate: 0.1 }, cosine_warmup_with_min_lr: { minLr: 1e-4 }, warmup_stable_decay: { numDecaySteps: 3 }, polynomial: { power: 2, lrEnd: 1e-5 },
  }

  test.each(lrSchedulerTypes.filter((type) => type !== 'greedy' && type !== 'reduce_lr_on_plateau'))('is the schedule\'s at each step: %s', async (lrSchedulerType) => {
    const schedule = { lrSchedulerType, lrSchedulerKwargs: kwargs[lrSchedulerType], warmupSteps: 2 } as LrSchedulerOptions
    const trainer = trainerOf({ maxSteps: 10, learningRate: 3e-3, ...schedule as Partial<TrainingOptions> })
    const logged = metricsOf(await runToEnd(trainer)).map(([, { learningRate }]) => learningRate)
    const multiplier = createSchedule(schedule as Parameters<typeof createSchedule>[0], { totalSteps: 10, learningRate: 3e-3 })
    expect(logged).toEqual(Array.from({ length: 10 }, (_, step) => 3e-3 * multiplier(step)))
  })

  test.each(['greedy', 'reduce_lr_on_plateau'] as const)('follows the evaluations: %s', async (lrSchedulerType) => {
    const trainer = trainerOf({ rows: rows(6), evalRows: rows(3, 9), maxSteps: 12, evalStrategy: 'steps', evalSteps: 1, lrSchedulerType, lrSchedulerKwargs: { patience: 0, threshold: 0.5, factor: 0.5 } })
    const rates = metricsOf(await runToEnd(trainer)).map(([, { learningRate }]) => learningRate!)
    expect(rates[0]).toBe(1e-2)
    expect(Math.min(...rates)).toBeLessThan(5e-3)
    expect(() => trainerOf({ lrSchedulerType })).toThrow('follows an evaluation metric; set evalStrategy')
  })
})

describe('log files', () => {
  test('metrics.jsonl, TensorBoard files and report.html are there, and agree', async () => {
    const outputDir = temporaryFolder()
    const events = await runToEnd(trainerOf({ outputDir, evalRows: rows(3, 2), maxSteps: 6, loggingSteps: 2, evalStrategy: 'steps', reportTo: ['jsonl', 'tensorboard', 'html'] }))
    expect(readEvents(join(outputDir, 'metrics.jsonl'))).toEqual(events.filter(({ type }) => type !== 'step'))
    const [file] = readdirSync(join(outputDir, 'runs'))
    expect(readRecords(readFileSync(join(outputDir, 'runs', file!))).length).toBeGreaterThan(5)
    expect(readFileSync(join(outputDir, 'report.html'), 'utf8')).toContain('<b>6 of 6</b>')
  })

  test('reportTo chooses them', async () => {
    const outputDir = temporaryFolder()
    await runToEnd(trainerOf({ outputDir, maxSteps: 1, reportTo: ['html'] }))
    expect(readdirSync(outputDir)).toEqual(['report.html'])
  })
})

describe('what is trained', () => {
  test('weight decay shrinks matrices and spares vectors', async () => {
    const trainer = trainerOf({ tiny: { family: 'gpt2' }, learningRate: 1, weightDecay: 0.1, maxSteps: 1, rows: rows(4).map(({ inputIds }) => ({ inputIds, labels: inputIds.map(() => -100) })), lrSchedulerType: 'constant' })
    const before = await weightsOf(trainer.task.model)
    await trainer.train()
    // Without a trained token every gradient is 0, and only the decay is left: p ← p (1 - lr · decay).
    for (const [name, values] of await weightsOf(trainer.task.model)) {
      const vector = trainer.task.model.getParameter(name).shape.length === 1
      expect(relative(values, before.get(name)!.map((value) => (vector ? value : value * 0.9))), name).toBeLessThan(1e-6)
    }
  })

  test('frozen parameters keep their bytes, and have no optimizer state', async () => {
    const model = tinyModel()
    model.requiresGrad_(false, 'model.layers.0.*')
    model.requiresGrad_(false, 'model.embed_tokens')
    const before = await weightsOf(model)
    const trainer = trainerOf({ model, weightDecay: 0.5, maxSteps: 5 })
    await trainer.train()
    for (const [name, values] of await weightsOf(model)) {
      const frozen = /^model\.(layers\.0|embed_tokens)\./.test(name)
      expect(relative(values, before.get(name)!) === 0, name).toBe(frozen)
      expect(trainer.optimizer.state(name) === undefined, name).toBe(frozen)
    }
  })

  test('bfloat16 weights learn by steps too small for them, thanks to float32 masters', async () => {
    const [half, full] = [trainerOf({ tiny: { dtype: 'bfloat16' }, maxSteps: 60, learningRate: 5e-3 }), trainerOf({ maxSteps: 60, learningRate: 5e-3 })]
    const [lossesOfHalf, lossesOfFull] = [lossesOf(await runToEnd(half)), lossesOf(await runToEnd(full))]
    expect(half.optimizer.masters().size).toBe([...half.task.model.namedParameters()].length)
    expect(lossesOfHalf.at(-1)).toBeLessThan(lossesOfHalf[0]! - 1)
    expect(Math.abs(lossesOfHalf.at(-1)! - lossesOfFull.at(-1)!)).toBeLessThan(0.1)
    for (const [name, master] of half.optimizer.masters()) {
      expect(relative(await half.task.model.getParameter(name).tensor.toArray(), await master.toArray()), name).toBeLessThan(2 ** -8)
    }
    // Steps of 1e-5 are below half of the last place of most bfloat16 weights; without masters they would be lost.
    const slow = trainerOf({ tiny: { dtype: 'bfloat16' }, maxSteps: 20, learningRate: 2e-5, lrSchedulerType: 'constant' })
    const before = await weightsOf(slow.task.model)
    await slow.train()
    const master = await slow.optimizer.masters().get('lm_head.weight')!.toArray()
    expect(relative(master, before.get('lm_head.weight')!)).toBeGreaterThan(1e-3)
  })

  test('label smoothing mixes the loss with that of the uniform distribution', async () => {
    const batch = { rows: rows(4), perDeviceTrainBatchSize: 4, maxSteps: 1 }
    const [plain] = lossesOf(await runToEnd(trainerOf(batch)))
    const [smooth] = lossesOf(await runToEnd(trainerOf({ ...batch, labelSmoothingFactor: 0.1 })))
    const [most] = lossesOf(await runToEnd(trainerOf({ ...batch, labelSmoothingFactor: 1 })))
    expect(smooth).toBeCloseTo(0.9 * plain! + 0.1 * most!, 5)
  })
})

describe('options', () => {
  test.each<[string, Partial<TrainingOptions> & Record<string, unknown>]>([
    ['learningRat: unknown option; did you mean "learningRate"?', { learningRat: 1 }],
    ['perDeviceTrainBatchSize', { perDeviceTrainBatchSize: 0 }],
    ['evalStrategy: "steps" needs evaluation data', { evalStrategy: 'steps' }],
    ['loadBestModelAtEnd needs evaluations', { loadBestModelAtEnd: true }],
    ['earlyStoppingPatience needs evaluations', { earlyStoppingPatience: 2 }],
    ['lrSchedulerKwargs: Unrecognized key: "numCycle" (cosine); did you mean "numCycles"?', { lrSchedulerType: 'cosine', lrSchedulerKwargs: { numCycle: 2 } }],
    ['adamBeta1', { adamBeta1: 1.5 }],
  ])('%s', (message, options) => {
    const failure = (): unknown => trainerOf(options)
    expect(failure).toThrow(ConfigError)
    expect(failure).toThrow(message)
  })
})

test('a model is trained that was loaded from a folder, and its new weights load again', async () => {
  const trainer = trainerOf({ maxSteps: 3, saveStrategy: 'steps', saveSteps: 3 })
  const { lastCheckpoint } = await trainer.train()
  const loaded = await AutoModelForCausalLM.fromPretrained(lastCheckpoint!)
  live.push(loaded)
  expect(await weightsHash(loaded)).toBe(await weightsHash(trainer.task.model))
})
