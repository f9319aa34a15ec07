import { z } from 'zod'
import { lazily, omit, type OptionsOf } from '../../options.ts'
import { trainingShape } from '../../train/options.ts'
import { dataShape, modelShape, uncachedShape } from '../options.ts'
import { referenceSyncShape } from '../reference.ts'
import { cpoLossTypes, dpoLossTypes, fDivergenceTypes, ktoLossTypes, tpoLossTypes } from './losses/index.ts'

const modelPath = lazily(() => ({ model: z.string().min(1).describe('Folder of the model: config.json, safetensors, tokenizer.json') }))
/** What reward models have, too. */
const pairShape = lazily(() => ({
  ...omit(dataShape, 'mixStrategy', 'cacheDir', 'workers', 'datasets', 'format'),
  ...uncachedShape,
  files: dataShape.files.describe('Training data: files, folders or globs of .jsonl .json .csv .tsv .parquet'),
  columns: dataShape.columns.describe('Where a known column has another name: chosen=better'),
  datasets: z.array(z.strictObject({ files: z.union([z.string(), z.array(z.string())]), columns: z.record(z.string(), z.string()).optional() })).optional().describe('Several sources one after another, instead of files'),
  ...omit(trainingShape, 'labelSmoothingFactor'),
  maxLength: z.int().min(2).nullable().default(1024).describe('Longest prompt with its completion in tokens; null for no limit'),
  disableDropout: z.boolean().default(true).describe("Leave the model's dropout out; an adapter's own stays"),
}))
const beta = lazily(() => z.number().positive().default(0.1))

/** What all methods on preference data share. */
export const preferenceShape = lazily(() => ({
  ...modelPath, ...modelShape, ...pairShape,
  learningRate: trainingShape.learningRate.default(1e-6).describe('Peak learning rate'),
} as const))

const referenceShape = lazily(() => ({
  refModel: z.string().min(1).optional().describe('Folder of the reference model; by default the model as it was before training, or with an adapter the model without it'),
  precomputeRefLogProbs: z.boolean().default(false).describe("Compute the reference's log-probabilities once before the first step, so that no second model stays in memory"),
  precomputeRefBatchSize: z.int().min(1).optional().describe('Rows of a batch while they are computed; perDeviceTrainBatchSize by default'),
  ...referenceSyncShape,
} as const))

/** Options of DPO: TRL's DPOConfig in camelCase. */
export const dpoSchema = lazily(() => z.strictObject({
  ...preferenceShape, ...referenceShape,
  lossType: z.union([z.enum(dpoLossTypes), z.array(z.enum(dpoLossTypes)).min(1)]).default('sigmoid').describe('The loss, or several to add up'),
  lossWeights: z.array(z.number()).optional().describe('The weight of each of several losses; 1 by default'),
  beta: beta.describe('How much the policy is held to the reference; for ipo its τ'),
  labelSmoothing: z.number().min(0).lt(0.5).default(0).describe('Share of wrong preferences that is assumed; unlike in TRL also for sigmoid and sigmoid_norm'),
  fDivergenceType: z.enum(fDivergenceTypes).default('reverse_kl').describe('The divergence that holds the policy to the reference'),
  fAlphaDivergenceCoef: z.number().default(0.5).describe('α of alpha_divergence'),
  ldAlpha: z.number().min(0).max(1).optional().describe('LD-DPO: weight of the tokens past the shorter completion of a pair'),
  useWeighting: z.boolean().default(false).describe('WPO: weight pairs by how likely the policy is to write them'),
  discopopTau: z.number().positive().default(0.05).describe('Temperature of discopop'),
}))

/** Options of KTO, unpaired APO and BCO: TRL's KTOConfig in camelCase. */
export const ktoSchema = lazily(() => z.strictObject({
  ...preferenceShape, ...referenceShape,
  lossType: z.enum(ktoLossTypes).default('kto').describe('The loss'),
  beta: beta.describe('How much the policy is held to the reference'),
  desirableWeight: z.number().min(0).default(1).describe('Weight of desirable rows'),
  undesirableWeight: z.number().min(0).default(1).describe('Weight of undesirable rows'),
}))

/** Options of ORPO: TRL's ORPOConfig in camelCase. */
export const orpoSchema = lazily(() => z.strictObject({
  ...preferenceShape,
  beta: beta.describe('Weight of the odds ratio; λ in the paper'),
  nllScope: z.enum(['prompt_completion', 'completion']).default('prompt_completion')
    .describe("What the language-model loss is over: prompts and chosen completions, by token (TRL), or the mean of chosen completions' means (LLaMA-Factory)"),
}))

/** Options of CPO, SimPO and AlphaPO: TRL's CPOConfig in camelCase. */
export const cpoSchema = lazily(() => z.strictObject({
  ...preferenceShape,
  lossType: z.enum(cpoLossTypes).default('sigmoid').describe('The loss'),
  beta: beta.describe("Scale of the log-probabilities' difference; SimPO's paper has 2 to 2.5"),
  labelSmoothing: z.number().min(0).lt(0.5).default(0).describe('Share of wrong preferences that is assumed, for sigmoid and simpo'),
  cpoAlpha: z.number().min(0).optional().describe('Weight of the language-model loss of chosen completions; 1 by default, but 0 for simpo, which has none (TRL: 1)'),
  simpoGamma: z.number().default(0.5).describe("SimPO's target margin"),
  alpha: z.number().default(0).describe("AlphaPO's α; 0 for the log-probability itself"),
}))

/** Options of TPO: TRL's TPOConfig in camelCase. */
export const tpoSchema = lazily(() => z.strictObject({
  ...preferenceShape,
  learningRate: trainingShape.learningRate.default(5e-7).describe('Peak learning rate'),
  lossType: z.enum(tpoLossTypes).default('sigmoid').describe('The loss of pairs'),
  beta: z.number().positive().default(0.01).describe("Scale of the log-probabilities' difference; for ipo its τ"),
  labelSmoothing: z.number().min(0).lt(0.5).default(0).describe('Share of wrong preferences that is assumed, for sigmoid and tpo-l'),
  tpoAlpha: z.number().min(0).default(1).describe('Weight of the language-model loss of gold completions; at 0 they are not computed'),
  tpoLGamma: z.number().default(0.5).describe('Target margin of tpo-l'),
}))

/** Options of RRHF. */
export const rrhfSchema = lazily(() => z.strictObject({
  ...preferenceShape,
  perDeviceTrainBatchSize: trainingShape.perDeviceTrainBatchSize.default(1).describe('Prompts of a micro-batch, each with all its responses'),
  learningRate: trainingShape.learningRate.default(2e-5).describe('Peak learning rate'),
  rankWeight: z.number().min(0).default(1).describe("Weight of the ranking loss; 1 in the paper, 100 in the authors' script"),
  ftReduction: z.enum(['sum', 'mean', 'mean_padded']).default('sum')
    .describe("How the best response's negative log-probabilities are put together: their sum (paper), their mean, or their sum over the longest response with its prompt (script)"),
  lengthPenalty: z.number().min(0).default(1).describe('A response scores its log-probability over its length to this power'),
}))

/** Options of reward models: TRL's RewardConfig, and PRMConfig for stepwise ones, in camelCase. */
export const rewardSchema = lazily(() => z.strictObject({
  ...modelPath, ...omit(modelShape, 'samplePrompts'), ...pairShape,
  learningRate: trainingShape.learningRate.unwrap().optional().describe('Peak learning rate; 1e-4 by default, or 1e-5 for stepwise'),
  centerRewardsCoefficient: z.number().min(0).optional().describe('Weight of the squared sum of both rewards, which keeps their mean near 0; 0.01 in the paper'),
  stepwise: z.boolean().default(false).describe('Train a process reward model: rows with prompt, completions (steps) and labels'),
  stepSeparator: z.string().min(1).default('\n').describe('What ends a step; its last token is judged'),
  trainOnLastStepOnly: z.boolean().default(false).describe('Judge only the last step of each row'),
}))

/** The options of DPO, as they are given. */
export type DpoOptions = OptionsOf<typeof dpoSchema>
export type DpoArguments = z.output<typeof dpoSchema>
/** The options of KTO, as they are given. */
export type KtoOptions = OptionsOf<typeof ktoSchema>
export type KtoArguments = z.output<typeof ktoSchema>
/** The options of ORPO, as they are given. */
export type OrpoOptions = OptionsOf<typeof orpoSchema>
export type OrpoArguments = z.output<typeof orpoSchema>
/** The options of CPO, as they are given. */
export type CpoOptions = OptionsOf<typeof cpoSchema>
export type CpoArguments = z.output<typeof cpoSchema>
/** The options of TPO, as they are given. */
export type TpoOptions = OptionsOf<typeof tpoSchema>
export type TpoArguments = z.output<typeof tpoSchema>
/** The options of RRHF, as they are given. */
export type RrhfOptions = OptionsOf<typeof rrhfSchema>
export type RrhfArguments = z.output<typeof rrhfSchema>
/** The options of training a reward model, as they are given. */
export type RewardOptions = OptionsOf<typeof rewardSchema>
export type RewardArguments = z.output<typeof rewardSchema>

/** What the methods that train a language model have in common. */
export type PreferenceArguments = z.output<z.ZodObject<typeof preferenceShape>>
