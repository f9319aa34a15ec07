/** What happened when, in every event. */
interface EventTime {
  /** Milliseconds since 1970. */
  time: number
}

/** Where the run stands, in every event after the start. */
interface EventProgress extends EventTime {
  /** Optimizer steps done. */
  step: number
  totalSteps: number
  /** Passes over the data, with fraction. */
  epoch: number
}

/** The run begins, or goes on from a checkpoint. */
export interface StartEvent extends EventTime {
  type: 'start'
  /** `pretrain`, `sft`, … */
  method: string
  /** Steps already done; above 0 when resumed. */
  step: number
  totalSteps: number
  epochs?: number
  /** Parameters of the model, and those that are trained. */
  parameters: number
  trainableParameters: number
  /** Model family or folder. */
  model?: string
  device?: string
  outputDir?: string
  /** The resolved options, plain JSON. */
  options: Record<string, unknown>
}

/** One optimizer step is done: for progress displays only, never logged. */
export interface StepEvent extends EventProgress {
  type: 'step'
}

/** Metrics of the steps since the last log event. */
export interface LogEvent extends EventProgress {
  type: 'log'
  /** `loss`, `learningRate`, `gradNorm`, and whatever the method adds. Not-finite values are kept as they are. */
  metrics: Record<string, number>
  /** Input tokens since the run began, earlier runs of a resumed one included. */
  tokensSeen: number
  /** Since the last log event. */
  tokensPerSecond: number
  /** Wall time of training, earlier runs of a resumed one included. */
  elapsedSeconds: number
  /** Memory in use now, and the most so far. */
  memoryBytes: number
  peakMemoryBytes?: number
}

/** Metrics on held-out data, without the `eval` prefix: `loss`, `perplexity`, … */
export interface EvaluateEvent extends EventProgress {
  type: 'evaluate'
  /** Name of the data set when there are several. */
  dataset?: string
  metrics: Record<string, number>
  seconds?: number
  /** True when this is the best so far of the metric that decides. */
  best?: boolean
}

/** A checkpoint is safely on disk. */
export interface SaveEvent extends EventProgress {
  type: 'save'
  path: string
  bytes?: number
  seconds?: number
}

/** Text the model wrote during training. */
export interface SampleEvent extends EventProgress {
  type: 'sample'
  prompt: string
  text: string
  /** What each reward function gave it. */
  rewards?: Readonly<Record<string, number | null>>
}

/** Something the user should know; training goes on. */
export interface WarningEvent extends EventTime {
  type: 'warning'
  message: string
  step?: number
}

/** The run is over. */
export interface EndEvent extends EventProgress {
  type: 'end'
  reason: 'finished' | 'earlyStopping' | 'aborted' | 'failed'
  /** The error's message when it failed. */
  message?: string
  tokensSeen: number
  elapsedSeconds: number
  peakMemoryBytes?: number
  /** Final metrics, such as the mean training loss. */
  metrics?: Record<string, number>
  bestCheckpoint?: string
}

/** Everything a trainer tells; progress line, logs, TensorBoard and report are made from these alone. */
export type TrainerEvent = StartEvent | StepEvent | LogEvent | EvaluateEvent | SaveEvent | SampleEvent | WarningEvent | EndEvent

/** Takes the events of one run in order. `handle` returns at once; `close` after the last event. */
export interface TrainerLogger {
  handle(event: TrainerEvent): void
  close(): void
}

/** Gives every event to each logger. A logger that throws is told once and left out; it must not stop training. */
export function combineLoggers(loggers: readonly TrainerLogger[], onFailure: (message: string) => void): TrainerLogger {
  const working = new Set(loggers)
  const guarded = (call: (logger: TrainerLogger) => void) => {
    for (const logger of working) {
      try {
        call(logger)
      } catch (error) {
        working.delete(logger)
        onFailure(`${logger.constructor.name} stopped: ${error instanceof Error ? error.message : String(error)}`)
      }
    }
  }
  return {
    handle(event) { guarded((logger) => { logger.handle(event) }) },
    close() { guarded((logger) => { logger.close() }) },
  }
}
