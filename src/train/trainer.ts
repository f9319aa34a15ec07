import { join } from 'node:path'
import { existsSync } from 'node:fs'
import { during } from '../activity.ts'
import { awaitedLater } from '../awaitedLater.ts'
import { ConfigError, LockedError, NonFiniteError } from '../errors.ts'
import { latestCheckpoint, lockDirectory, saveCheckpoint, verifyCheckpoint } from '../files/index.ts'
import type { DirectoryLock } from '../files/index.ts'
import { autocast } from '../tensor/autocast.ts'
import { AdamW } from '../optim/adamw.ts'
import { givenOptions, parseOptions } from '../options.ts'
import { backward, manualSeed, noGrad, scope } from '../tensor/index.ts'
import { EventQueue } from './eventQueue.ts'
import type { EndEvent, TrainerEvent, TrainerLogger } from './events.ts'
import { fileLoggers } from './fileLoggers.ts'
import { createLearningRate } from './learningRate.ts'
import type { LearningRate } from './learningRate.ts'
import { firstNonFinite, firstNonFiniteParameter } from './nonFinite.ts'
import { trainingSchema } from './options.ts'
import type { TrainingArguments, TrainingOptions } from './options.ts'
import { checkResumable, readState, writeState } from './state.ts'
import type { TrainerState } from './state.ts'
import { Meter } from './meter.ts'
import type { StepNumbers } from './meter.ts'
import type { TaskStep, TrainingTask } from './task.ts'

/** What a call of `train()` takes beside the options of the run. */
export interface TrainOptions {
  /** Stops after the running step or batch of an evaluation, saves and resolves with reason 'aborted'. An evaluation that was stopped is made anew when the run resumes. */
  signal?: AbortSignal
}

/** What a call of `evaluate()` takes. */
export interface EvaluateOptions {
  /** Stops after the running batch; the promise is rejected with the signal's reason. */
  signal?: AbortSignal | undefined
}

/** How a training ended. */
export interface TrainResult {
  reason: EndEvent['reason']
  step: number
  /** Mean of the logged training loss over this run. */
  trainLoss: number
  /** The last evaluation. */
  evaluation?: Record<string, number>
  bestCheckpoint?: string
  lastCheckpoint?: string
}

/** Streams of random numbers a micro-batch may use, so that each has its own. */
const streamsPerBatch = 4096

/** The options that decide a run's numbers. */
const decisiveNames = [
  'learningRate', 'optim', 'weightDecay', 'adamBeta1', 'adamBeta2', 'adamEpsilon', 'maxGradNorm', 'lrSchedulerType', 'lrSchedulerKwargs', 'warmupSteps', 'warmupRatio',
  'perDeviceTrainBatchSize', 'gradientAccumulationSteps', 'bf16', 'labelSmoothingFactor', 'seed',
] as const satisfies readonly (keyof TrainingArguments)[]

/**
 * The one training loop: batches → loss → backward → clip → AdamW → schedule → log → evaluate → checkpoint. What is trained and on what is the
 * task's. `for await (const event of trainer.events())` follows it.
 */
export class Trainer<B> {
  readonly task: TrainingTask<B>
  readonly args: TrainingArguments
  readonly optimizer: AdamW
  readonly totalSteps: number
  /** Optimizer steps done. */
  step = 0

  readonly #events = new EventQueue()
  readonly #learningRate: LearningRate
  readonly #meter: Meter
  #best: TrainerState['best'] = null
  #withoutImprovement = 0
  /** Of the step that is done; also what the last checkpoint says of its own. */
  #evaluationDue = false
  #savedEvaluationDue = false
  #nonFinite = 0
  #evaluation: Record<string, number> | undefined
  #lastCheckpoint: string | undefined
  #logger: TrainerLogger | undefined
  #running = false

  constructor(task: TrainingTask<B>, options: TrainingOptions) {
    this.task = task
    this.args = parseOptions(trainingSchema, options, 'training options')
    const { args } = this
    this.totalSteps = args.maxSteps > 0 ? args.maxSteps : Math.ceil(task.stepsPerEpoch * args.numTrainEpochs)
    this.#learningRate = createLearningRate(args, this.totalSteps)
    const needsEvaluation = args.evalStrategy !== 'no'
    if (needsEvaluation && !task.evaluation && !task.measure) throw new ConfigError(`evalStrategy: "${args.evalStrategy}" needs evaluation data; give evalSplit, evalFiles or an evalDataset`)
    if ((args.loadBestModelAtEnd || args.earlyStoppingPatience !== undefined) && !needsEvaluation) {
      throw new ConfigError(`${args.loadBestModelAtEnd ? 'loadBestModelAtEnd' : 'earlyStoppingPatience'} needs evaluations; set evalStrategy to "steps" or "epoch"`)
    }
    if (args.loadBestModelAtEnd && args.saveStrategy === 'no') throw new ConfigError('loadBestModelAtEnd needs checkpoints; set saveStrategy')
    this.optimizer = new AdamW(task.model.namedParameters(), { beta1: args.adamBeta1, beta2: args.adamBeta2, eps: args.adamEpsilon, weightDecay: args.weightDecay, stateBits: args.optim === 'adamw_8bit' ? 8 : 32 })
    this.#meter = new Meter(this.optimizer.device)
    this.args = { ...args, bf16: args.bf16 ?? this.optimizer.device.name !== 'cpu' }
  }

  /** Every event from now on, ending with the run. */
  events(): AsyncGenerator<TrainerEvent, void> { return this.#events.read() }
  /** Calls `listener` with every event at once; returns a function that stops it. */
  on(listener: (event: TrainerEvent) => void): () => void { return this.#events.on(listener) }

  get #progress(): { time: number; step: number; totalSteps: number; epoch: number } {
    return { time: Date.now(), step: this.step, totalSteps: this.totalSteps, epoch: this.step / this.task.stepsPerEpoch }
  }

  /** Where the best evaluation's weights are, if they were saved. */
  get #checkpointOfBest(): string | undefined {
    const path = this.#best ? join(this.args.outputDir, `checkpoint-${this.#best.step}`) : undefined
    return path !== undefined && existsSync(path) ? path : undefined
  }

  /** Trains to the end, or until `signal` aborts. Rejects with a typed error where training cannot go on; checkpoints stay. */
  async train(options: TrainOptions = {}): Promise<TrainResult> {
    const { signal } = givenOptions('train', options, 'signal: controller.signal')
    // Before anything that the training under way would notice.
    if (this.#running) throw new LockedError('train: this run is being trained already; await that train() before the next')
    this.#running = true
    try {
      return await this.#train(signal)
    } finally {
      this.#running = false
    }
  }

  async #train(signal: AbortSignal | undefined): Promise<TrainResult> {
    const { args, task } = this
    let reason: EndEvent['reason'] = 'failed'
    let message: string | undefined
    let lock: DirectoryLock | undefined
    let logger: TrainerLogger | undefined
    this.#events.open()
    try {
      lock = await lockDirectory(args.outputDir)
      await during({ what: 'reading the checkpoint' }, () => this.#resume())
      logger = fileLoggers(args, this.step, (text) => { this.#warn(text) })
      this.#logger = logger
      this.#start()
      task.model.train()
      const kept = (): string => this.#lastCheckpoint === undefined ? 'no checkpoint was saved yet' : `${this.#lastCheckpoint} is the last checkpoint`
      reason = await during({ what: 'training', finish: 'finishing the step and saving', kept }, () => this.#loop(signal))
      if (reason !== 'aborted' && args.loadBestModelAtEnd && this.#best) await this.#loadBest()
      return this.#result(reason)
    } catch (error) {
      reason = 'failed'
      message = error instanceof Error ? error.message : String(error)
      throw error
    } finally {
      task.model.eval()
      try {
        this.#emit(this.#endEvent(reason, message))
      } finally {
        this.#logger = undefined
        logger?.close()
        this.#events.close()
        await lock?.release()
      }
    }
  }

  #emit(event: TrainerEvent): void {
    this.#logger?.handle(event)
    this.#events.emit(event)
  }

  #endEvent(reason: EndEvent['reason'], message: string | undefined): EndEvent {
    return {
      type: 'end', ...this.#progress, reason, ...(message === undefined ? {} : { message }), tokensSeen: this.#meter.tokensSeen, elapsedSeconds: this.#meter.elapsedSeconds,
      peakMemoryBytes: this.#meter.peakMemory(), metrics: this.#meter.summary(), ...(this.#checkpointOfBest ? { bestCheckpoint: this.#checkpointOfBest } : {}),
    }
  }

  #start(): void {
    const { args, task } = this
    this.#meter.start()
    this.#emit({
      type: 'start', time: Date.now(), method: task.name, step: this.step, totalSteps: this.totalSteps, epochs: this.totalSteps / task.stepsPerEpoch,
      parameters: task.model.numParameters(), trainableParameters: task.model.numParameters({ onlyTrainable: true }),
      ...(task.description ? { model: task.description } : {}), device: this.optimizer.device.name, outputDir: args.outputDir, options: { ...args },
    })
  }

  async #loop(signal: AbortSignal | undefined): Promise<EndEvent['reason']> {
    // A run that was resumed where it stopped early stops again.
    if (this.#isExhausted) return 'earlyStopping'
    const begin = this.step
    if (this.#evaluationDue) {
      const ended = await this.#evaluateAndSave(this.#due().save, signal)
      if (ended) return ended
    }
    // The numbers of one step are read while the next is being enqueued, so that the kernels never wait for JavaScript.
    let running: Promise<StepNumbers> | null = null
    let batch = this.step < this.totalSteps ? await this.task.batches(this.step) : null
    let runningBatch = batch
    const settle = async (): Promise<void> => {
      if (!running) return
      const numbers = await running
      running = null
      await this.#finished(numbers, runningBatch!)
    }
    while (this.step < this.totalSteps) {
      if (signal?.aborted) {
        await settle()
        // Before the first step there is nothing to keep that is not there already.
        if (this.step > begin) await this.#save()
        return 'aborted'
      }
      const next = awaitedLater(this.#enqueueStep(batch!))
      await settle()
      running = next
      runningBatch = batch
      this.step++
      this.task.afterStep?.(this.step)
      const due = this.#due()
      if (due.any || this.step === this.totalSteps) await settle()
      if (due.log) this.#log(batch!)
      this.#evaluationDue = due.evaluate
      const ended = await this.#evaluateAndSave(due.save, signal)
      if (ended) return ended
      batch = this.step < this.totalSteps ? await this.task.batches(this.step) : null
    }
    if (this.args.saveStrategy !== 'no' && !this.#lastCheckpoint?.endsWith(`checkpoint-${this.step}`)) await this.#save()
    return 'finished'
  }

  /** What follows a step: its evaluation, if it is due, and its checkpoint; returns why training ends here, if it does. */
  async #evaluateAndSave(save: boolean, signal: AbortSignal | undefined): Promise<'aborted' | 'earlyStopping' | undefined> {
    if (!this.#evaluationDue) {
      if (save) await this.#save()
      return undefined
    }
    const stop = await this.#evaluateAndJudge(signal)
    if (stop ?? save) await this.#save()
    return stop
  }

  /** What is to be done after the step just enqueued. */
  #due(): { log: boolean; evaluate: boolean; save: boolean; any: boolean } {
    const { args, step, task } = this
    const last = step === this.totalSteps
    const at = (strategy: 'no' | 'steps' | 'epoch', every: number): boolean =>
      strategy !== 'no' && (last || (strategy === 'steps' ? step % every === 0 : step % task.stepsPerEpoch === 0))
    const log = step % args.loggingSteps === 0 || step === 1 || last
    const evaluate = at(args.evalStrategy, args.evalSteps ?? args.loggingSteps)
    const save = at(args.saveStrategy, args.saveSteps)
    return { log, evaluate, save, any: log || evaluate || save }
  }

  /** Enqueues one optimizer step; resolves with its numbers once they are computed. */
  #enqueueStep({ microBatches, numItems, tokens, metrics: given = {}, warnings = [] }: TaskStep<B>): Promise<StepNumbers> {
    const { args, task, step } = this
    for (const warning of warnings) this.#warn(warning)
    const learningRate = this.#learningRate.at(step)
    const losses: Promise<number>[] = []
    const sums: [string, Promise<number>, number][] = []
    microBatches.forEach((batch, i) => {
      manualSeed(args.seed, (step * args.gradientAccumulationSteps + i) * streamsPerBatch)
      autocast(args.bf16 ? 'bfloat16' : 'float32', () => {
        scope(() => {
          const result = task.loss(batch, numItems)
          losses.push(awaitedLater(result.loss.item()))
          for (const [name, { sum, count }] of Object.entries(result.sums ?? {})) sums.push([name, awaitedLater(sum.item()), count])
          backward(result.loss)
        })
      })
    })
    const norm = this.optimizer.step({ learningRate, maxGradNorm: args.maxGradNorm })
    return Promise.all([Promise.all(losses), Promise.all(sums.map(async ([name, sum, count]): Promise<StepNumbers['metrics'][number]> => [name, await sum, count])), norm])
      .then(([loss, metrics, gradNorm]) => ({
        loss: loss.reduce((a, b) => a + b, 0), metrics: [...metrics, ...Object.entries(given).map(([name, value]): StepNumbers['metrics'][number] => [name, value, 1])], gradNorm, learningRate, tokens,
      }))
  }

  async #finished(numbers: StepNumbers, step: TaskStep<B>): Promise<void> {
    this.#meter.add(numbers)
    this.#emit({ type: 'step', ...this.#progress })
    if (Number.isFinite(numbers.loss) && Number.isFinite(numbers.gradNorm)) {
      this.#nonFinite = 0
      return
    }
    this.#nonFinite++
    const what = Number.isFinite(numbers.loss) ? `the gradient norm is ${numbers.gradNorm}` : `the loss is ${numbers.loss}`
    if (this.#nonFinite < this.args.maxNonFiniteSteps) {
      this.#warn(`${what}; the step changed nothing (${this.#nonFinite} in a row)`)
      return
    }
    throw this.#nonFiniteError(what, await firstNonFinite(this.task, step))
  }

  #nonFiniteError(what: string, first: string | undefined): NonFiniteError {
    const checkpoint = this.#lastCheckpoint ? `The last checkpoint, ${this.#lastCheckpoint}, is good` : 'No checkpoint was saved yet'
    const named = first === undefined ? 'computed again, all tensors are finite' : `the first tensor that is not finite: ${first}`
    return new NonFiniteError(`${what} at step ${this.step}; ${named}. ${checkpoint}; lower learningRate, add warmup or look at the data`)
  }

  #log({ samples = [] }: TaskStep<B>): void {
    const { metrics, tokensPerSecond } = this.#meter.flush()
    this.#emit({
      type: 'log', ...this.#progress, metrics, tokensPerSecond, tokensSeen: this.#meter.tokensSeen, elapsedSeconds: this.#meter.elapsedSeconds,
      memoryBytes: this.optimizer.device.memory().live, peakMemoryBytes: this.#meter.peakMemory(),
    })
    for (const sample of samples) this.#emit({ type: 'sample', ...this.#progress, ...sample })
  }

  #warn(message: string): void { this.#emit({ type: 'warning', time: Date.now(), message, step: this.step }) }

  /** Means over the evaluation data: loss, perplexity and the task's own metrics. */
  async evaluate(options: EvaluateOptions = {}): Promise<Record<string, number>> {
    const { signal } = givenOptions('evaluate', options, 'signal: controller.signal')
    const { task, args } = this
    if (task.measure) return task.measure(signal)
    if (!task.evaluation) throw new ConfigError('evaluate: there is no evaluation data; give evalSplit, evalFiles or an evalDataset')
    const totals = new Map<string, { sum: number; count: number }>()
    const add = (name: string, sum: number, count: number): void => {
      const total = totals.get(name) ?? { sum: 0, count: 0 }
      totals.set(name, { sum: total.sum + sum, count: total.count + count })
    }
    const wasTraining = task.model.training
    task.model.eval()
    try {
      for (const { batch, numItems } of task.evaluation()) {
        signal?.throwIfAborted()
        const reads = noGrad(() => autocast(args.bf16 ? 'bfloat16' : 'float32', () => {
          const pending: Promise<void>[] = []
          scope(() => {
            const { loss, sums } = task.loss(batch, 1)
            pending.push(loss.item().then((value) => { add('loss', value, numItems) }))
            for (const [name, { sum, count }] of Object.entries(sums ?? {})) pending.push(sum.item().then((value) => { add(name, value, count) }))
          })
          return pending
        }))
        await Promise.all(reads)
      }
    } finally {
      task.model.train(wasTraining)
    }
    const metrics = Object.fromEntries([...totals].map(([name, { sum, count }]) => [name, sum / Math.max(count, 1)]))
    return { ...metrics, ...(metrics['loss'] === undefined ? {} : { perplexity: Math.exp(metrics['loss']) }) }
  }

  /** Evaluates and remembers the best; returns whether training should stop, as a signal asks or early. A part of an evaluation counts for nothing. */
  async #evaluateAndJudge(signal: AbortSignal | undefined): Promise<'aborted' | 'earlyStopping' | undefined> {
    const { args } = this
    const begin = performance.now()
    let metrics: Record<string, number>
    try {
      metrics = await during({ what: 'evaluating', finish: 'finishing the batch of the evaluation and saving' }, () => this.evaluate({ signal }))
    } catch (error) {
      if (signal?.aborted && error === signal.reason) return 'aborted'
      throw error
    }
    this.#evaluation = metrics
    this.#evaluationDue = false
    const metric = metrics[args.metricForBestModel]
    if (metric === undefined) throw new ConfigError(`metricForBestModel: there is no metric "${args.metricForBestModel}"; this run has ${Object.keys(metrics).join(', ')}`)
    const greater = args.greaterIsBetter ?? !/loss|perplexity/.test(args.metricForBestModel)
    const gain = !Number.isFinite(metric) ? -Infinity : this.#best === null ? Infinity : greater ? metric - this.#best.metric : this.#best.metric - metric
    const best = gain > args.earlyStoppingThreshold
    if (gain > 0) this.#best = { metric, step: this.step }
    this.#withoutImprovement = best ? 0 : this.#withoutImprovement + 1
    this.#learningRate.evaluated(metric)
    this.#emit({ type: 'evaluate', ...this.#progress, metrics, seconds: (performance.now() - begin) / 1000, best: gain > 0 })
    if (args.loadBestModelAtEnd && gain > 0) await this.#save()
    for (const sample of await this.task.sample?.() ?? []) this.#emit({ type: 'sample', ...this.#progress, ...sample })
    return this.#isExhausted ? 'earlyStopping' : undefined
  }

  get #isExhausted(): boolean {
    const { earlyStoppingPatience } = this.args
    return earlyStoppingPatience !== undefined && this.#withoutImprovement >= earlyStoppingPatience
  }

  get #decisive(): Record<string, unknown> {
    const all = { ...Object.fromEntries(decisiveNames.map((name) => [name, this.args[name]])), ...this.task.decisiveOptions }
    // Options that are left out stand there too, unlike those that are not known yet.
    return Object.fromEntries(Object.entries(all).map(([name, value]) => [name, value ?? null]))
  }

  async #save(): Promise<void> {
    const { args, task } = this
    if (this.#lastCheckpoint?.endsWith(`checkpoint-${this.step}`) && this.#savedEvaluationDue === this.#evaluationDue) return
    const broken = await firstNonFiniteParameter(task.model)
    if (broken !== undefined) throw this.#nonFiniteError('a weight is not finite', `parameter ${broken}`)
    const begin = performance.now()
    const state: TrainerState = {
      version: 1, method: task.name, step: this.step, totalSteps: this.totalSteps, meter: this.#meter.state(), best: this.#best, evaluationsWithoutImprovement: this.#withoutImprovement, evaluationDue: this.#evaluationDue,
      learningRate: this.#learningRate.state(), dataFingerprint: task.fingerprint, decisive: this.#decisive,
    }
    this.#lastCheckpoint = await saveCheckpoint(args.outputDir, this.step, async (folder) => {
      await task.save(folder)
      await this.optimizer.save(join(folder, 'optimizer.safetensors'))
      await writeState(folder, state)
    }, {
      saveTotalLimit: args.saveTotalLimit, bestCheckpoint: this.#checkpointOfBest,
      bytesNeeded: task.saveBytes === undefined ? undefined : 3 * task.saveBytes, onWarning: (message) => { this.#warn(message) },
    })
    this.#savedEvaluationDue = this.#evaluationDue
    this.#emit({ type: 'save', ...this.#progress, path: this.#lastCheckpoint, seconds: (performance.now() - begin) / 1000 })
  }

  async #resume(): Promise<void> {
    const { args, task } = this
    const from = args.resumeFromCheckpoint
    if (from === false) return
    let folder: string | undefined
    if (typeof from === 'string') {
      await verifyCheckpoint(from)
      folder = from
    } else {
      folder = (await latestCheckpoint(args.outputDir, ({ path }, reason) => { this.#warn(`${path} is damaged and passed over: ${reason.message}`) }))?.path
      if (!folder) this.#warn(`${args.outputDir} holds no checkpoint; the run starts at the beginning`)
    }
    if (!folder) return
    const state = await readState(folder)
    checkResumable(folder, state, { method: task.name, dataFingerprint: task.fingerprint, decisive: this.#decisive, totalSteps: this.totalSteps })
    await task.load(folder)
    await this.optimizer.load(join(folder, 'optimizer.safetensors'))
    this.step = state.step
    this.#best = state.best
    this.#withoutImprovement = state.evaluationsWithoutImprovement
    this.#learningRate.restore(state.learningRate)
    this.#meter.restore(state.meter)
    this.#lastCheckpoint = folder
    this.#savedEvaluationDue = state.evaluationDue
    this.#evaluationDue = state.evaluationDue && args.evalStrategy !== 'no'
  }

  async #loadBest(): Promise<void> {
    const folder = this.#checkpointOfBest!
    await verifyCheckpoint(folder)
    await this.task.load(folder)
  }

  #result(reason: EndEvent['reason']): TrainResult {
    return {
      reason, step: this.step, trainLoss: this.#meter.summary()['trainLoss'] ?? NaN,
      ...(this.#evaluation ? { evaluation: this.#evaluation } : {}),
      ...(this.#checkpointOfBest ? { bestCheckpoint: this.#checkpointOfBest } : {}),
      ...(this.#lastCheckpoint ? { lastCheckpoint: this.#lastCheckpoint } : {}),
    }
  }

  /** Releases the optimizer's state. The model is the caller's. */
  dispose(): void { this.optimizer.dispose() }
}
