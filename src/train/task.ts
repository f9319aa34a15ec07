import type { Module } from '../nn/index.ts'
import type { Tensor } from '../tensor/index.ts'

/** The micro-batches of one optimizer step. */
export interface TaskStep<B> {
  microBatches: readonly B[]
  /** What the losses of all micro-batches are divided by: usually the trained tokens of the whole step. */
  numItems: number
  /** Input tokens of all micro-batches. */
  tokens: number
  /** Numbers that making the batches gave, such as the rewards of what was generated for them; means over steps are logged. */
  metrics?: Readonly<Record<string, number>>
  /** What the model wrote for these batches, logged with the step's numbers. */
  samples?: readonly TextSample[]
  /** What the user should know of them. */
  warnings?: readonly string[]
}

/** Text the model wrote, with what reward functions gave it. */
export interface TextSample { prompt: string; text: string; rewards?: Readonly<Record<string, number | null>> }

/** A metric as a sum over `count` items, so that means over several batches are exact. */
export interface Sum { sum: Tensor; count: number }

export interface LossResult {
  /** [], already divided by numItems. */
  loss: Tensor
  /** Further metrics by name; not differentiable. */
  sums?: Record<string, Sum>
}

/**
 * What is trained, as a value: where batches come from, what the loss is and how to save. The one training loop does the rest. A method
 * (pretraining, SFT, DPO, …) makes one of these.
 */
export interface TrainingTask<B> {
  /** `pretrain`, `sft`, … */
  readonly name: string
  /** The parameters with requiresGrad are trained. */
  readonly model: Module
  readonly stepsPerEpoch: number
  /** Names the data and its preparation; a run does not resume with another. */
  readonly fingerprint: string
  /** Further options that decide the numbers, such as which parameters are frozen; a run does not resume with others. */
  readonly decisiveOptions?: Readonly<Record<string, unknown>>
  /** The batches of a step: a function of the step's number alone, so that a resumed run sees what the uninterrupted one would. */
  batches(step: number): TaskStep<B> | Promise<TaskStep<B>>
  /** Enqueues the loss of one batch. Called inside a scope(). */
  loss(batch: B, numItems: number): LossResult
  /** Called once an optimizer step is enqueued, with the number of steps done. */
  afterStep?(step: number): void
  /** Held-out batches with their number of items; undefined where there are none. */
  evaluation?(): Iterable<{ batch: B; numItems: number }>
  /** Held-out metrics of a task that evaluates in its own way, such as by the rewards of what it generates; instead of evaluation(). Rejects with the signal's reason where that aborts. */
  measure?(signal?: AbortSignal): Promise<Record<string, number>>
  /** Writes the model and whatever belongs to it into a folder. */
  save(folder: string): Promise<void>
  /** Reads the model's parameters back from such a folder. */
  load(folder: string): Promise<void>
  /** Text the model writes, for the log. */
  sample?(): Promise<{ prompt: string; text: string }[]>
  /** Tensors of a forward pass in order, by name, to find the first that is not finite. */
  trace?(batch: B): Iterable<readonly [string, Tensor]>
  /** Bytes that save() writes, about. */
  readonly saveBytes?: number
  /** Shown in the log. */
  readonly description?: string
}
