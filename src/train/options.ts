import { z } from 'zod'
import { lrSchedulerTypes } from '../optim/schedules.ts'
import type { LrSchedulerType } from '../optim/schedules.ts'
import { lazily, type OptionsOf } from '../options.ts'

const whole = lazily(() => z.int().min(0))
const positive = lazily(() => z.int().min(1))
const share = lazily(() => z.number().min(0).max(1))
const when = lazily(() => z.enum(['no', 'steps', 'epoch']))

/**
 * How to train: transformers' TrainingArguments in camelCase, with its defaults unless the description says otherwise. The same schema checks the
 * API's options, the CLI's flags and YAML files.
 */
export const trainingShape = lazily(() => ({
  outputDir: z.string().min(1).describe('Where checkpoints, logs, the report and the final model go'),
  learningRate: z.number().min(0).default(5e-5).describe('Peak learning rate'),
  optim: z.enum(['adamw', 'adamw_8bit']).default('adamw').describe('The optimizer; adamw_8bit keeps its running means in 8 bits'),
  weightDecay: z.number().min(0).default(0).describe('AdamW weight decay of matrices; biases and norms have none'),
  adamBeta1: z.number().min(0).lt(1).default(0.9).describe('AdamW beta1'),
  adamBeta2: z.number().min(0).lt(1).default(0.999).describe('AdamW beta2'),
  adamEpsilon: z.number().positive().default(1e-8).describe('AdamW epsilon'),
  maxGradNorm: z.number().min(0).default(1).describe('Gradients are scaled down to this norm; 0 for no limit'),
  numTrainEpochs: z.number().positive().default(3).describe('Passes over the data'),
  maxSteps: z.int().min(-1).default(-1).describe('Optimizer steps, instead of numTrainEpochs; -1 for none'),
  lrSchedulerType: z.enum(lrSchedulerTypes as [LrSchedulerType, ...LrSchedulerType[]]).default('linear').describe('How the learning rate changes'),
  lrSchedulerKwargs: z.record(z.string(), z.unknown()).optional().describe('Options of the schedule, such as numCycles'),
  warmupSteps: z.number().min(0).default(0).describe('Steps of warmup; below 1 a share of all steps'),
  warmupRatio: share.default(0).describe('Share of all steps that warm up, where warmupSteps is 0'),
  perDeviceTrainBatchSize: positive.default(8).describe('Rows of a micro-batch'),
  perDeviceEvalBatchSize: positive.default(8).describe('Rows of an evaluation batch'),
  gradientAccumulationSteps: positive.default(1).describe('Micro-batches of an optimizer step; their losses are divided by the tokens, or the pairs, of all'),
  gradientCheckpointing: z.boolean().default(false).describe('Recompute layers in backward to save memory (TRL: true)'),
  bf16: z.boolean().optional().describe('Multiply in bfloat16 with float32 sums and float32 weights, where the machine has it; true on a GPU and false on the CPU by default'),
  labelSmoothingFactor: share.default(0).describe('Label smoothing'),
  seed: whole.default(42).describe('Of initial weights, order of the data and dropout'),
  loggingSteps: positive.default(10).describe('Steps between log entries'),
  evalStrategy: when.default('no').describe('When to evaluate; "steps" or "epoch" need evaluation data'),
  evalSteps: positive.optional().describe('Steps between evaluations; loggingSteps by default'),
  saveStrategy: when.default('steps').describe('When to save a checkpoint'),
  saveSteps: positive.default(500).describe('Steps between checkpoints'),
  saveTotalLimit: positive.optional().describe('Most checkpoints to keep, the best and the newest always among them'),
  loadBestModelAtEnd: z.boolean().default(false).describe('End with the best checkpoint instead of the last'),
  metricForBestModel: z.string().default('loss').describe('The evaluation metric that decides which is best'),
  greaterIsBetter: z.boolean().optional().describe('Whether more of it is better; false for loss and perplexity, else true'),
  earlyStoppingPatience: positive.optional().describe('Stop after this many evaluations without improvement'),
  earlyStoppingThreshold: z.number().min(0).default(0).describe('Less than this is no improvement'),
  maxNonFiniteSteps: positive.default(1).describe('Consecutive steps whose loss or gradient may be NaN or infinite (they change nothing) before training stops'),
  resumeFromCheckpoint: z.union([z.boolean(), z.string()]).default(false).describe('true for the newest whole checkpoint of outputDir, or a checkpoint folder'),
  reportTo: z.array(z.enum(['jsonl', 'tensorboard', 'html'])).default(['jsonl', 'tensorboard', 'html']).describe('Files to write beside the checkpoints'),
} as const))

/** The options that every training shares, as a zod schema; names are those of transformers' TrainingArguments in camelCase. */
export const trainingSchema = lazily(() => z.strictObject(trainingShape))

/** What a user gives. */
export type TrainingOptions = OptionsOf<typeof trainingSchema>
/** With defaults filled in. */
export type TrainingArguments = z.output<typeof trainingSchema>
