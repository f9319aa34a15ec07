// Proves that a run that was stopped, killed or damaged goes on to the bits of the uninterrupted one, or is refused by name.
import { spawn } from 'node:child_process'
import { appendFileSync, existsSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { afterEach, describe, expect, test } from 'vitest'
import { ConfigError, FileAccessError, FileFormatError, LockedError } from '../../src/errors.ts'
import { listCheckpoints } from '../../src/files/index.ts'
import { readEvents, type TrainerEvent, type TrainingOptions } from '../../src/train/index.ts'
import { temporaryFolder } from '../files/helpers.ts'
import { metricsOf, rows, runToEnd, tinyModel, tinyTrainer, trainerHash, type RunOptions, type TinyOptions } from './support.ts'

const live: { dispose(): void }[] = []
afterEach(() => { for (const one of live.splice(0)) one.dispose() })

/** 22 rows in steps of 2 × 4: three steps an epoch, the last of them short; logged in threes, so that a stop falls between. */
const options = {
  rows: rows(22), evalRows: rows(5, 2), gradientAccumulationSteps: 2, numTrainEpochs: 4, loggingSteps: 3, lrSchedulerType: 'cosine', warmupSteps: 2, weightDecay: 0.1, reportTo: ['jsonl'],
} satisfies Omit<RunOptions, 'model' | 'outputDir'>

/** Trains until `stopAt` steps are done, or to the end. The model is of another seed when resuming: its weights must come from the checkpoint. */
async function run(outputDir: string, extra: Partial<RunOptions> & { tiny?: TinyOptions, stopAt?: number } = {}): Promise<{ hash: string, events: TrainerEvent[], logged: ReturnType<typeof metricsOf>, reason: string }> {
  const { tiny = { dropout: 0.1 }, stopAt, ...rest } = extra
  const model = tinyModel({ ...tiny, seed: rest.resumeFromCheckpoint ? 99 : 1 })
  const trainer = tinyTrainer({ ...options, model, outputDir, ...rest })
  live.push(model, trainer)
  const controller = new AbortController()
  trainer.on((event) => { if (event.type === 'step' && event.step === stopAt) controller.abort() })
  const events = await runToEnd(trainer, { signal: controller.signal })
  const path = join(outputDir, 'metrics.jsonl')
  return { hash: await trainerHash(trainer), events, logged: existsSync(path) ? metricsOf(readEvents(path)) : metricsOf(events), reason: (events.at(-1) as { reason: string }).reason }
}

describe('stopped by a signal', () => {
  test.each<[string, TinyOptions]>([
    ['GPT-2 with dropout', { dropout: 0.1 }], ['Llama', {}], ['bfloat16 weights with float32 masters', { dtype: 'bfloat16' }],
  ])('resumes to the same weights, optimizer and log at every step: %s', async (_, tiny) => {
    const whole = await run(temporaryFolder(), { tiny })
    expect(whole.reason).toBe('finished')
    expect(whole.logged.map(([step]) => step)).toEqual([1, 3, 6, 9, 12])
    for (const stopAt of [1, 4, 5, 8, 10]) {
      const folder = temporaryFolder()
      const first = await run(folder, { tiny, stopAt })
      expect(first.reason).toBe('aborted')
      const rest = await run(folder, { tiny, resumeFromCheckpoint: true })
      expect(rest.events.find(({ type }) => type === 'start')).toMatchObject({ step: (first.events.at(-1) as { step: number }).step })
      expect({ hash: rest.hash, logged: rest.logged }, `stopped at ${stopAt}`).toEqual({ hash: whole.hash, logged: whole.logged })
    }
  })

  test('several times, with evaluations, a schedule that follows them, and gradient checkpointing', async () => {
    const extra = { evalStrategy: 'steps', evalSteps: 2, lrSchedulerType: 'reduce_lr_on_plateau', lrSchedulerKwargs: { patience: 0, threshold: 0.2, factor: 0.5 }, warmupSteps: 0, gradientCheckpointing: true } as const
    const whole = await run(temporaryFolder(), extra)
    expect(new Set(whole.logged.map(([, { learningRate }]) => learningRate)).size).toBeGreaterThan(1)
    const folder = temporaryFolder()
    await run(folder, { ...extra, stopAt: 2 })
    await run(folder, { ...extra, stopAt: 5, resumeFromCheckpoint: true })
    await run(folder, { ...extra, stopAt: 9, resumeFromCheckpoint: true })
    const rest = await run(folder, { ...extra, resumeFromCheckpoint: true })
    expect({ hash: rest.hash, logged: rest.logged }).toEqual({ hash: whole.hash, logged: whole.logged })
  })

  /** Evaluations without their time. */
  const evaluationsOf = (events: readonly TrainerEvent[]): unknown[] => events.flatMap((event) => event.type === 'evaluate' ? [[event.step, event.metrics, event.best]] : [])

  test.each([[0], [1]])('in batch %d of an evaluation: no part of it counts, and what resumes evaluates first', async (batch) => {
    const extra = {
      evalRows: rows(9, 2), evalStrategy: 'steps', evalSteps: 2, saveStrategy: 'steps', saveSteps: 4, lrSchedulerType: 'reduce_lr_on_plateau', lrSchedulerKwargs: { patience: 0, threshold: 0.2, factor: 0.5 }, warmupSteps: 0, earlyStoppingPatience: 4, tiny: {},
    } as const
    const whole = await run(temporaryFolder(), extra)
    for (const stopAt of [4, 12]) {
      const folder = temporaryFolder()
      const model = tinyModel({ seed: 1 })
      const { tiny: _, ...rest } = extra
      const trainer = tinyTrainer({ ...options, ...rest, model, outputDir: folder })
      live.push(model, trainer)
      const controller = new AbortController()
      const evaluation = trainer.task.evaluation!.bind(trainer.task)
      let given = 0
      Object.assign(trainer.task, {
        *evaluation() {
          for (const one of evaluation()) {
            if (trainer.step === stopAt && given++ === batch) controller.abort()
            yield one
          }
        },
      })
      // The batch that was given when the signal came is the last that is computed.
      const events = await runToEnd(trainer, { signal: controller.signal })
      expect(given).toBe(batch + 1)
      expect(events.at(-1)).toMatchObject({ type: 'end', reason: 'aborted', step: stopAt })
      expect(evaluationsOf(events)).toEqual(evaluationsOf(whole.events).slice(0, stopAt / 2 - 1))
      const resumed = await run(folder, { ...extra, resumeFromCheckpoint: true })
      expect(resumed.events.map(({ type }) => type).slice(0, 2)).toEqual(['start', 'evaluate'])
      expect([...evaluationsOf(events), ...evaluationsOf(resumed.events)]).toEqual(evaluationsOf(whole.events))
      expect({ hash: resumed.hash, logged: resumed.logged }).toEqual({ hash: whole.hash, logged: whole.logged })
      // A checkpoint of that step that was due anyway now knows of its evaluation.
      if (stopAt === 4) expect((await run(folder, { ...extra, resumeFromCheckpoint: join(folder, 'checkpoint-4') })).events[1]).toMatchObject({ type: 'step', step: 5 })
    }
  })

  test('in an evaluation that is stopped again, and one that nobody wants any more', async () => {
    const extra = { evalStrategy: 'steps', evalSteps: 2, tiny: {} } as const
    const whole = await run(temporaryFolder(), extra)
    const folder = temporaryFolder()
    const stopped = async (resumeFromCheckpoint: boolean): Promise<readonly TrainerEvent[]> => {
      const model = tinyModel({ seed: resumeFromCheckpoint ? 99 : 1 })
      const trainer = tinyTrainer({ ...options, evalStrategy: 'steps', evalSteps: 2, model, outputDir: folder, resumeFromCheckpoint })
      live.push(model, trainer)
      const evaluate = trainer.evaluate.bind(trainer)
      const controller = new AbortController()
      trainer.evaluate = async (given) => { controller.abort(); return evaluate(given) }
      return runToEnd(trainer, { signal: controller.signal })
    }
    await stopped(false)
    expect((await stopped(true)).map(({ type }) => type)).toEqual(['start', 'end'])
    expect((await run(folder, { tiny: {}, resumeFromCheckpoint: true })).hash).toBe(whole.hash)
  })

  test('from a named checkpoint, older than the newest', async () => {
    const folder = temporaryFolder()
    const whole = await run(folder, { saveStrategy: 'steps', saveSteps: 5 })
    const rest = await run(folder, { saveStrategy: 'steps', saveSteps: 5, resumeFromCheckpoint: join(folder, 'checkpoint-5') })
    expect(rest.hash).toBe(whole.hash)
    expect(rest.logged).toEqual(whole.logged)
  })

  test('the mean loss at the end is that of all steps', async () => {
    const folder = temporaryFolder()
    const whole = await run(temporaryFolder())
    await run(folder, { stopAt: 7 })
    const rest = await run(folder, { resumeFromCheckpoint: true })
    expect(rest.events.at(-1)).toMatchObject({ metrics: (whole.events.at(-1) as { metrics: object }).metrics, tokensSeen: (whole.events.at(-1) as { tokensSeen: number }).tokensSeen })
  })

  test('before the first step, and when nothing was saved yet', async () => {
    const folder = temporaryFolder()
    const model = tinyModel()
    const trainer = tinyTrainer({ ...options, model, outputDir: folder })
    live.push(model, trainer)
    expect((await runToEnd(trainer, { signal: AbortSignal.abort() })).at(-1)).toMatchObject({ reason: 'aborted', step: 0 })
    const empty = await run(temporaryFolder(), { resumeFromCheckpoint: true, maxSteps: 1 })
    expect(empty.events[0]).toMatchObject({ type: 'warning', message: expect.stringContaining('holds no checkpoint') as string })
    expect(empty.reason).toBe('finished')
  })
})

describe('a damaged checkpoint', () => {
  test('is passed over with a warning, and the one before it goes on to the same end', async () => {
    const folder = temporaryFolder()
    const extra = { saveStrategy: 'steps', saveSteps: 4 } as const
    const whole = await run(folder, extra)
    rmSync(join(folder, 'checkpoint-12', 'optimizer.safetensors'))
    appendFileSync(join(folder, 'checkpoint-8', 'model.safetensors'), 'x')
    const rest = await run(folder, { ...extra, resumeFromCheckpoint: true })
    const warnings = rest.events.flatMap((event) => (event.type === 'warning' ? [event.message] : []))
    expect(warnings).toEqual([expect.stringMatching(/checkpoint-12 is damaged and passed over: .*optimizer\.safetensors/), expect.stringMatching(/checkpoint-8 is damaged and passed over: .*model\.safetensors/)])
    expect(rest.events.find(({ type }) => type === 'start')).toMatchObject({ step: 4 })
    expect(rest.hash).toBe(whole.hash)
  })

  test('that was named is refused', async () => {
    const folder = temporaryFolder()
    await run(folder, { stopAt: 3 })
    const [checkpoint] = await listCheckpoints(folder)
    appendFileSync(join(checkpoint!.path, 'model.safetensors'), 'x')
    await expect(run(folder, { resumeFromCheckpoint: checkpoint!.path })).rejects.toThrow(FileFormatError)
  })
})

describe('another run', () => {
  test.each<[string, Partial<TrainingOptions>]>([
    ['learningRate', { learningRate: 2e-2 }], ['perDeviceTrainBatchSize', { perDeviceTrainBatchSize: 2 }], ['gradientAccumulationSteps', { gradientAccumulationSteps: 1 }],
    ['lrSchedulerType', { lrSchedulerType: 'linear' }], ['seed', { seed: 7 }], ['weightDecay', { weightDecay: 0 }], ['warmupSteps', { warmupSteps: 3 }],
    ['labelSmoothingFactor', { labelSmoothingFactor: 0.1 }], ['maxGradNorm', { maxGradNorm: 0.5 }], ['bf16', { bf16: true }], ['adamBeta2', { adamBeta2: 0.9 }],
    ['maxSteps', { maxSteps: 20 }], ['numTrainEpochs', { numTrainEpochs: 9 }],
  ])('is refused, naming %s', async (name, changed) => {
    const folder = temporaryFolder()
    await run(folder, { stopAt: 2 })
    const failure = run(folder, { resumeFromCheckpoint: true, ...changed })
    await expect(failure).rejects.toThrow(ConfigError)
    await expect(failure).rejects.toThrow(name)
  })

  test('is refused with other data, another method, or other frozen parameters', async () => {
    const folder = temporaryFolder()
    await run(folder, { stopAt: 2, task: { decisiveOptions: { freeze: [] } } })
    const again = (task: RunOptions['task']) => run(folder, { resumeFromCheckpoint: true, task: { decisiveOptions: { freeze: [] }, ...task } })
    await expect(again({ fingerprint: 'other rows' })).rejects.toThrow('the data changed since')
    await expect(again({ name: 'pretrain' })).rejects.toThrow('is of a sft run, not pretrain')
    await expect(again({ decisiveOptions: { freeze: ['model.embed_tokens'] } })).rejects.toThrow('freeze: the checkpoint')
  })

  test('with an option that the checkpoint does not know yet may go on; with one that was left out and now is given, not', async () => {
    const folder = temporaryFolder()
    await run(folder, { stopAt: 2, task: { decisiveOptions: { freeze: [], adapter: undefined } } })
    const again = (decisiveOptions: Record<string, unknown>) => run(folder, { resumeFromCheckpoint: true, task: { decisiveOptions } })
    await expect(again({ freeze: [], adapter: 'lora' })).rejects.toThrow('adapter: the checkpoint')
    await again({ freeze: [], adapter: undefined, syncRefModel: false })
  })

  test('with options that decide nothing may go on', async () => {
    const folder = temporaryFolder()
    const whole = await run(temporaryFolder())
    await run(folder, { stopAt: 2 })
    const rest = await run(folder, { resumeFromCheckpoint: true, loggingSteps: 1, saveStrategy: 'steps', saveSteps: 3, saveTotalLimit: 1, evalStrategy: 'epoch' })
    expect(rest.hash).toBe(whole.hash)
    expect(await listCheckpoints(folder)).toHaveLength(1)
  })
})

const worker = fileURLToPath(new URL('worker.js', import.meta.url))

/** A process that trains in `folder` with the compiled package; its output ends with the hash when it was not killed. */
function spawnRun(folder: string): { child: ReturnType<typeof spawn>, ended: Promise<{ code: number | null, signal: string | null, output: string }>, started: Promise<void> } {
  const child = spawn(process.execPath, [worker, folder], { stdio: ['ignore', 'pipe', 'pipe'] })
  let output = ''
  let begun!: () => void
  const started = new Promise<void>((resolve) => { begun = resolve })
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (piece: Buffer) => { output += piece.toString(); if (output.includes('started')) begun() })
  return { child, started, ended: new Promise((resolve) => { child.on('close', (code, signal) => { begun(); resolve({ code, signal, output }) }) }) }
}

describe('killed', () => {
  const kills = Number(process.env['ANNEAL_KILLS'] ?? 20)

  test(`${kills} times at random moments, half of them while saving, it always goes on to the same bits`, async () => {
    const whole = temporaryFolder()
    const { output: expected, code } = await spawnRun(whole).ended
    expect(code, expected).toBe(0)
    const logged = metricsOf(readEvents(join(whole, 'metrics.jsonl')))
    let random = 12345
    const uniform = (): number => { random = (Math.imul(random, 1664525) + 1013904223) >>> 0; return random / 2 ** 32 }
    let [killed, duringSave, runs] = [0, 0, 0]
    while (killed < kills) {
      const folder = temporaryFolder()
      for (let killedHere = 0; ; killedHere++) {
        const { child, ended, started } = spawnRun(folder)
        if (killed < kills && killedHere < 4) {
          await started
          const saving = (): boolean => readdirSync(folder).some((name) => name.includes('.tmp-'))
          if (killed % 2 === 1) {
            while (child.exitCode === null && !saving()) await sleep(0)
            if (saving()) duringSave++
          } else {
            await sleep(uniform() * 200)
          }
          child.kill('SIGKILL')
        }
        const { code, signal, output } = await ended
        if (signal === 'SIGKILL') { killed++; continue }
        expect(code, output).toBe(0)
        runs++
        expect(output.split('\n').at(-2)).toBe(expected.split('\n').at(-2))
        expect(metricsOf(readEvents(join(folder, 'metrics.jsonl')))).toEqual(logged)
        expect(readdirSync(folder).filter((name) => name.includes('.tmp-') || name.includes('.old-'))).toEqual([])
        break
      }
    }
    process.stdout.write(`${killed} kills, ${duringSave} of them inside a save, in ${runs} runs\n`)
    expect(duringSave).toBeGreaterThan(kills / 4)
  }, 600_000)
})

describe('a folder in use', () => {
  test('is refused to a second run, of this process or another, and free again afterwards', async () => {
    const folder = temporaryFolder()
    const trainer = (task: RunOptions['task'] = {}) => {
      const made = tinyTrainer({ ...options, model: tinyModel(), outputDir: folder, task })
      live.push(made.task.model, made)
      return made
    }
    const refused: unknown[] = []
    const events: TrainerEvent[] = []
    const plain = trainer()
    await runToEnd(trainer({
      batches: async (step) => {
        if (step === 1) {
          const second = trainer()
          second.on((event) => events.push(event))
          refused.push(await second.train().catch((error: unknown) => error), (await spawnRun(folder).ended).output)
        }
        return plain.task.batches(step)
      },
    }))
    expect(refused).toEqual([expect.any(LockedError), expect.stringMatching(new RegExp(`^LockedError: .*is in use by process ${process.pid} `))])
    // Whoever follows the refused run's events is told that it ended.
    expect(events).toMatchObject([{ type: 'end', reason: 'failed', message: expect.stringContaining('is in use by') as string }])
    await runToEnd(trainer())
  })

  test('that cannot be made is a typed error', async () => {
    const file = join(temporaryFolder(), 'file')
    writeFileSync(file, '')
    await expect(run(join(file, 'out'))).rejects.toThrow(FileAccessError)
  })
})
