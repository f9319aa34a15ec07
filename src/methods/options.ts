import { z } from 'zod'
import { adapterSchema } from '../adapters/index.ts'
import { quantizeOption } from '../models/index.ts'
import { deviceOption, lazily, type OptionsOf } from '../options.ts'
import { trainingShape } from '../train/options.ts'

const strings = lazily(() => z.union([z.string(), z.array(z.string())]))

/** Where a method's data comes from, and how it is read. */
export const dataShape = lazily(() => ({
  files: strings.optional().describe('Training data: files, folders or globs of .txt .md .jsonl .json .csv .tsv .parquet'),
  datasets: z.array(z.strictObject({
    files: strings, weight: z.number().positive().optional(), format: z.string().optional(), columns: z.record(z.string(), z.string()).optional(),
  })).optional().describe('Several sources with weights, instead of files'),
  mixStrategy: z.enum(['concat', 'interleave_under', 'interleave_over']).optional().describe('How several sources are mixed'),
  format: z.string().optional().describe('Shape of the rows, where it is not to be recognised: text, promptCompletion, messages, alpaca, sharegpt'),
  columns: z.record(z.string(), z.string()).optional().describe('Where a known column has another name: text=content'),
  evalSplit: z.number().positive().optional().describe('Held out for evaluation: a share below 1, or a number of rows'),
  evalFiles: strings.optional().describe('Data for evaluation, instead of a split'),
  truncationMode: z.enum(['keep_start', 'keep_end']).default('keep_start').describe('Which end of a row longer than maxLength stays'),
  cacheDir: z.union([z.string(), z.literal(false)]).optional().describe('Where tokenized data is kept; false for memory'),
  workers: z.int().min(0).optional().describe('Threads that tokenize; by default one per core for more than 4 MB'),
  onBadRow: z.enum(['error', 'skip']).default('error').describe('What to do with a malformed row'),
} as const))

/** Of methods whose data is tokenized into memory, so that the options of several methods can be kept in one place. */
export const uncachedShape = lazily(() => ({
  cacheDir: z.literal(false, { error: 'expected false: preferences and prompts are few, and are tokenized into memory at each start, so there is no folder to name; only sft, pretrain, distill and teach have one' }).optional()
    .describe('Only false, as sft has it: preferences and prompts are tokenized into memory at each start'),
} as const))

/** How a method loads its model and which of its parameters it trains. */
export const modelShape = lazily(() => ({
  tokenizer: z.string().optional().describe("Folder of the tokenizer; the model's by default"),
  dtype: z.enum(['float32', 'bfloat16']).default('float32').describe('Of the weights in memory; bfloat16 weights are trained with float32 masters'),
  device: deviceOption(),
  quantize: quantizeOption.optional().describe("Round the model's linear layers to nf4, fp4, int8 or int4 as they are read, and train an adapter over them (QLoRA)"),
  adapter: z.preprocess((value) => (typeof value === 'string' ? { type: value } : value), adapterSchema).optional()
    .describe('Train an adapter and leave the model as it is: lora, ia3, prefix, …, or an object such as { type: "lora", r: 16, targetModules: "all-linear" }'),
  adapterPath: z.string().optional().describe('Folder of a saved adapter to go on training, instead of a new one'),
  freeze: z.array(z.string()).default([]).describe('Name patterns of parameters to leave as they are, such as model.embed_tokens or "model.layers.0.*"'),
  trainable: z.array(z.string()).optional().describe('Name patterns of the only parameters to train, before freeze'),
  samplePrompts: z.array(z.string()).default([]).describe('Prompts the model continues after each evaluation'),
} as const))

/** What modelShape gives, with defaults filled in. */
export type ModelArguments = z.output<z.ZodObject<typeof modelShape>>

/** Options of SFT: TRL's SFTConfig in camelCase. */
export const sftSchema = lazily(() => z.strictObject({
  model: z.string().min(1).describe('Folder of the model: config.json, safetensors, tokenizer.json'),
  ...modelShape, ...dataShape, ...trainingShape,
  maxLength: z.int().min(2).nullable().default(1024).describe('Longest row in tokens'),
  packing: z.union([z.boolean(), z.enum(['bfd', 'bfd_split', 'wrapped'])]).default(false).describe('Put several rows into one of maxLength, each seeing only itself'),
  completionOnlyLoss: z.boolean().optional().describe('Train on completions only; true for rows with a prompt and a completion'),
  assistantOnlyLoss: z.boolean().default(false).describe("Train on the assistant's words only"),
  learningRate: trainingShape.learningRate.default(2e-5).describe('Peak learning rate'),
}))

/** Options of pretraining, from scratch or continued. */
export const pretrainSchema = lazily(() => z.strictObject({
  model: z.string().min(1).optional().describe('Folder of a model to continue from; leave it out to start from scratch'),
  modelConfig: z.record(z.string(), z.unknown()).optional().describe('A new model: modelType, hiddenSize, numHiddenLayers, …; the vocabulary is the tokenizer\'s'),
  ...modelShape, ...dataShape, ...trainingShape,
  mlm: z.boolean().default(false).describe('Predict masked tokens with an encoder such as BERT, instead of next tokens with a decoder'),
  mlmProbability: z.number().positive().max(1).default(0.15).describe('With mlm: share of the tokens to predict'),
  maskReplaceProb: z.number().min(0).max(1).default(0.8).describe('With mlm: share of those that become the mask token'),
  randomReplaceProb: z.number().min(0).max(1).default(0.1).describe('With mlm: share of those that become another token; the rest stay as they are'),
  wholeWordMask: z.boolean().default(false).describe('With mlm: predict all tokens of a word or none'),
  sampleBy: z.enum(['document', 'paragraph', 'line']).default('document').describe('What one row of a text file is'),
  maxLength: z.int().min(2).default(1024).describe('Tokens of a row'),
  packing: z.union([z.boolean(), z.enum(['bfd', 'bfd_split', 'wrapped'])]).default('bfd_split').describe('How documents fill rows of maxLength; bfd_split loses nothing and mixes nothing'),
  numTrainEpochs: trainingShape.numTrainEpochs.default(1).describe('Passes over the data'),
  learningRate: trainingShape.learningRate.default(3e-4).describe('Peak learning rate'),
}))

/** The options of SFT, as they are given. */
export type SftOptions = OptionsOf<typeof sftSchema>
/** The options of SFT with every default filled in. */
export type SftArguments = z.output<typeof sftSchema>
/** The options of pretraining, as they are given. */
export type PretrainOptions = OptionsOf<typeof pretrainSchema>
/** The options of pretraining with every default filled in. */
export type PretrainArguments = z.output<typeof pretrainSchema>

/** The training loop's part of a method's options. */
export function trainingPart<A extends object>(args: A): Pick<A, keyof typeof trainingShape & keyof A> {
  return Object.fromEntries(Object.entries(args).filter(([name]) => Object.hasOwn(trainingShape, name))) as Pick<A, keyof typeof trainingShape & keyof A>
}
