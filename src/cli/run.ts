import { AnnealError } from '../errors.ts'
import { memoryEstimate, type PretrainedModel } from '../models/index.ts'
import type { PolicyRun, PreparedPreferenceRun, PreparedRun } from '../methods/index.ts'
import type { DType } from '../tensor/index.ts'
import { ProgressLogger } from '../train/loggers/index.ts'
import { interruptCode, interruptSignal } from './interrupt.ts'
import { bold, bytesText, dim, print, yellow } from './terminal.ts'

/** What the run will do. */
export function describeRun(run: PreparedRun<PretrainedModel>): void {
  const { data: { stats, warnings }, model, trainer } = run
  describeModel(model)
  print(`data: ${stats.rows} rows, ${stats.tokens} tokens, ${(100 * stats.trainedShare).toFixed(1)} % trained; ${stats.trainRows} rows to train on, ${stats.evalRows} held out${stats.cached ? dim(' (cached)') : ''}`)
  describeSteps(trainer, warnings)
}

/** The same of a run on preference data. */
export function describePreferenceRun({ data: { train, eval: held, stats, warnings }, model, trainer }: PreparedPreferenceRun<unknown, unknown, PretrainedModel>): void {
  describeModel(model)
  print(`data: ${stats.rows} rows, ${stats.tokens} tokens; ${train.length} examples to train on, ${held?.length ?? 0} held out`)
  describeSteps(trainer, warnings)
}

/** The same of a run on prompts. */
export function describePolicyRun({ data, model, trainer }: Pick<PolicyRun, 'data' | 'model'> & { trainer: Steps }): void {
  describeModel(model)
  print(`data: ${data.train.length} prompts to train on, ${data.eval.length} held out`)
  describeSteps(trainer, [], 'answers')
}

function describeModel(model: PretrainedModel): void {
  print(bold(`${model.config.architecture}, ${(model.numParameters() / 1e6).toFixed(1)}M parameters, ${(model.numParameters({ onlyTrainable: true }) / 1e6).toFixed(1)}M trained`))
}

type Steps = Pick<PreparedPreferenceRun['trainer'], 'args' | 'totalSteps'>

function describeSteps({ args, totalSteps }: Steps, warnings: readonly string[], items = 'rows'): void {
  for (const warning of warnings) print(yellow(`warning: ${warning}`))
  print(`${totalSteps} steps of ${args.perDeviceTrainBatchSize} × ${args.gradientAccumulationSteps} ${items}, ${args.bf16 ? 'bfloat16 products' : 'float32'}; output in ${args.outputDir}`)
}

/** Bytes of weights, gradients, optimizer and activations, before anything large is allocated. */
export function describeMemory(run: { model: PretrainedModel; rows: number; maxLength: number; gradientCheckpointing: boolean; dtype: DType }): void {
  const { quantizationConfig: quantize } = run.model
  const estimate = memoryEstimate(run.model.config, {
    ...(quantize ? { quantize } : {}),
    dtype: run.dtype, tokens: run.rows * run.maxLength, sequenceLength: run.maxLength, device: run.model.device.name, trainable: run.model.numParameters({ onlyTrainable: true }), gradientCheckpointing: run.gradientCheckpointing,
  })
  print(`memory: ${bytesText(estimate.total)} = weights ${bytesText(estimate.weights)} + gradients ${bytesText(estimate.gradients)} + optimizer ${bytesText(estimate.optimizer)} + activations ${bytesText(estimate.activations)}`)
}

/** What runTraining needs of a prepared run. */
export interface TrainableRun extends Pick<PreparedRun, 'train' | 'dispose'> { trainer: Pick<PreparedRun['trainer'], 'on' | 'args' | 'totalSteps'> }

/** Trains with a progress line; a first signal finishes the step, saves and exits with the signal's code. */
export async function runTraining(run: TrainableRun): Promise<void> {
  const progress = new ProgressLogger()
  const stop = run.trainer.on((event) => { progress.handle(event) })
  try {
    const result = await run.train({ signal: interruptSignal })
    progress.close()
    if (result.reason === 'aborted') print(result.lastCheckpoint === undefined ? 'stopped before the first step; nothing was trained' : `stopped at step ${result.step}; go on with --resume-from-checkpoint`)
    else print(`done: ${run.trainer.args.outputDir}`)
    process.exitCode = interruptCode()
  } finally {
    stop()
    run.dispose()
  }
}

/** Prints an error for people: its message alone where anneal threw it on purpose, the stack where not. Returns the exit code. */
export function reportError(error: unknown): number {
  if (error instanceof AnnealError) process.stderr.write(`error: ${error.message}\n`)
  else process.stderr.write(`${error instanceof Error ? error.stack ?? error.message : String(error)}\nThis is a defect of anneal; please report it.\n`)
  return 1
}
