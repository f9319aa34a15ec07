import { z } from 'zod'
import { lazily, type OptionsOf } from '../../../options.ts'
import { trainingShape } from '../../../train/options.ts'
import { modelShape } from '../../options.ts'
import { referenceSyncShape } from '../../reference.ts'
import { policyLossTypes } from './weights.ts'
import { samplerCorrectionShape } from './samplerCorrection.ts'
import { evalPromptShape, promptShape, rewardShape, samplingShape, serverShape } from '../sharedOptions.ts'

const positive = lazily(() => z.int().min(1))
const pair = (what: string) => z.tuple([z.number(), z.number()]).describe(what)

/** What GRPO and RLOO have in common: model, prompts, sampling, rewards. */
const policyShape = lazily(() => ({
  model: z.string().min(1).describe('Folder of the model: config.json, safetensors, tokenizer.json'),
  ...modelShape,
  refModel: z.string().optional().describe('Folder of the reference for beta above 0; by default the model as it is at the start, without its new adapter where it has one'),
  ...referenceSyncShape,
  ...promptShape, ...evalPromptShape, ...rewardShape,
  rewardWeights: rewardShape.rewardWeights.describe('One for each reward function, then for a reward model and an environment; 1 by default'),
  ...trainingShape,
  learningRate: trainingShape.learningRate.default(1e-6).describe('Peak learning rate'),
  metricForBestModel: trainingShape.metricForBestModel.default('reward').describe('The evaluation metric that decides which is best'),
  maxCompletionLength: positive.default(512).describe('Most tokens of an answer, or of a whole conversation with an environment'),
  temperature: z.number().positive().default(1).describe('Logits are divided by this, in sampling and in the loss'),
  ...samplingShape,
  generationBatchSize: positive.optional().describe('Answers of one generation, a multiple of perDeviceTrainBatchSize; perDeviceTrainBatchSize × stepsPerGeneration by default'),
  stepsPerGeneration: positive.optional().describe('Micro-batches that one generation is cut into; gradientAccumulationSteps by default'),
  numIterations: positive.default(1).describe('Times that each generation is trained on'),
  maskTruncatedCompletions: z.boolean().default(false).describe('Leave answers that reached maxCompletionLength out of the loss'),
  dynamicSamplingRounds: z.int().min(0).default(0).describe("Rounds in which prompts whose answers all have the same reward are replaced by others (DAPO's dynamic sampling); 0 keeps them"),
  maxTurns: positive.default(8).describe('Most answers in a conversation with an environment'),
  environmentTimeout: z.number().positive().default(60_000).describe('Milliseconds that an environment may take for a turn'),
  rolloutLog: z.string().optional().describe('File to which every rollout is written with its rewards, as JSON lines'),
  replay: z.string().optional().describe('Such a file, from which rollouts are taken instead of sampling'),
  ...serverShape,
  shuffleDataset: z.boolean().default(true).describe('Another order of the prompts in each epoch, or their own'),
  disableDropout: z.boolean().default(false).describe("Leave the model's dropout out; an adapter's own stays"),
  numCompletionsToLog: z.int().min(0).default(2).describe('Whole answers with their rewards at each log entry'),
} as const))

/** Options of GRPO: TRL's GRPOConfig in camelCase. */
export const grpoSchema = lazily(() => z.strictObject({
  ...policyShape,
  numGenerations: z.int().min(2).default(8).describe('Answers to each prompt: the group that they are compared in'),
  beta: z.number().min(0).default(0).describe('Weight of the KL to the reference; 0 needs no reference'),
  epsilon: z.number().min(0).default(0.2).describe('Ratios are clipped below 1 - epsilon'),
  epsilonHigh: z.number().min(0).optional().describe('and above 1 + epsilonHigh; epsilon by default. With lossType cispo the most that a ratio weighs, 5 for example'),
  delta: z.number().positive().optional().describe('Bounds the ratio in the unclipped term too (two-sided clipping)'),
  importanceSamplingLevel: z.enum(['token', 'sequence']).default('token').describe('What the ratio is taken over; sequence is GSPO'),
  lossType: z.enum(policyLossTypes).exclude(['rloo']).default('dapo').describe('Objective and aggregation: grpo, dr_grpo, dapo, bnpo, cispo, sapo, luspo or vespo'),
  scaleRewards: z.enum(['group', 'batch', 'none']).default('group').describe("What a reward's distance from its group's mean is divided by; none with lossType dr_grpo is Dr. GRPO"),
  multiObjectiveAggregation: z.enum(['sum_then_normalize', 'normalize_then_sum']).default('sum_then_normalize').describe('normalize_then_sum normalises each reward function by itself (GDPO)'),
  useBiasCorrectionKl: z.boolean().default(true).describe('Weigh the KL by the ratio, which makes it unbiased for answers of an older policy'),
  topEntropyQuantile: z.number().gt(0).max(1).default(1).describe('Train on this share of tokens only, those of highest entropy; costs a forward pass below 1'),
  entropyCoef: z.number().default(0).describe('Weight of the entropy bonus'),
  useAdaptiveEntropy: z.boolean().default(false).describe('Let the weight of the entropy bonus follow entropyTarget, starting from entropyCoef'),
  entropyCoefMin: z.number().default(0).describe('Least weight that follows'),
  entropyCoefMax: z.number().default(1).describe('Largest weight that follows'),
  entropyCoefDelta: z.number().positive().default(0.005).describe('How far the weight moves after a step'),
  entropyTarget: z.number().default(0.2).describe('Entropy in nats per token that the weight holds up; above it there is no bonus'),
  offPolicyMaskThreshold: z.number().nullable().default(null).describe('Drop answers with a negative advantage whose mean log-ratio of sampler to policy is above this; costs a forward pass'),
  sapoTemperaturePos: z.number().positive().default(1).describe('SAPO: temperature where the advantage is positive'),
  sapoTemperatureNeg: z.number().positive().default(1.05).describe('SAPO: temperature elsewhere'),
  vespoKPos: z.number().positive().default(2).describe('VESPO: k where the advantage is not negative'),
  vespoLambdaPos: z.number().positive().default(3).describe('VESPO: λ where the advantage is not negative'),
  vespoKNeg: z.number().positive().default(3).describe('VESPO: k where the advantage is negative'),
  vespoLambdaNeg: z.number().positive().default(2).describe('VESPO: λ where the advantage is negative'),
  ...samplerCorrectionShape,
}))

/** Options of RLOO: TRL's RLOOConfig in camelCase. */
export const rlooSchema = lazily(() => z.strictObject({
  ...policyShape,
  numGenerations: z.int().min(2).default(2).describe('Answers to each prompt: each is compared with the mean of the others'),
  beta: z.number().min(0).default(0.05).describe('The KL of an answer to the reference is taken off its reward times this; 0 needs no reference'),
  epsilon: z.number().min(0).default(0.2).describe('Ratios of whole answers are clipped below 1 - epsilon'),
  epsilonHigh: z.number().min(0).optional().describe('and above 1 + epsilonHigh; epsilon by default'),
  normalizeAdvantages: z.boolean().default(false).describe('Give the advantages of a generation mean 0 and deviation 1'),
  rewardClipRange: pair('Least and largest reward').optional(),
}))

/** The options of GRPO, as they are given. */
export type GrpoOptions = OptionsOf<typeof grpoSchema>
/** The options of GRPO with every default filled in. */
export type GrpoArguments = z.output<typeof grpoSchema>
/** The options of RLOO, as they are given. */
export type RlooOptions = OptionsOf<typeof rlooSchema>
/** The options of RLOO with every default filled in. */
export type RlooArguments = z.output<typeof rlooSchema>
export type PolicyArguments = z.output<z.ZodObject<typeof policyShape>> & { numGenerations: number; beta: number }
