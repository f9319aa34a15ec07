import { z } from 'zod'
import { lazily, omit, type OptionsOf } from '../../../options.ts'
import { trainingShape } from '../../../train/options.ts'
import { modelShape } from '../../options.ts'
import { promptShape, rewardShape } from '../sharedOptions.ts'

const share = lazily(() => z.number().min(0).max(1))

/** How PPO samples and learns; TRL's PPOConfig in camelCase, with its defaults, and what verl has beside them. */
export const ppoShape = lazily(() => ({
  responseLength: z.int().min(1).default(53).describe('Most tokens of an answer, or of a whole conversation with an environment'),
  temperature: z.number().positive().default(0.7).describe('Logits are divided by this, in sampling and in training'),
  topK: z.int().min(0).default(0).describe('Sample from the most likely tokens only; 0 for all'),
  topP: share.default(1).describe('Sample from the fewest tokens whose probabilities reach this sum'),
  missingEosPenalty: z.number().positive().optional().describe('Taken off the score of an answer that does not end by itself'),
  numPpoEpochs: z.int().min(1).default(4).describe('Passes over each batch of answers'),
  numMiniBatches: z.int().min(1).default(1).describe('Optimizer steps of a pass; a batch has perDeviceTrainBatchSize × gradientAccumulationSteps × numMiniBatches answers'),
  klCoef: z.number().min(0).default(0.05).describe('Weight of the KL penalty in the reward; 0 needs no reference model'),
  klEstimator: z.enum(['k1', 'k3']).default('k1').describe('k1: the log-ratio, unbiased; k3: never negative, with less variance'),
  klController: z.enum(['fixed', 'adaptive']).default('fixed').describe('Keep klCoef, or let it follow klTarget (Ziegler et al. 2019)'),
  klTarget: z.number().positive().default(6).describe('KL of an answer that the adaptive coefficient steers to, in nats'),
  klHorizon: z.int().min(1).default(10_000).describe('Answers in which the adaptive coefficient changes'),
  cliprange: z.number().positive().default(0.2).describe('How far the ratio of probabilities may move before its gradient stops'),
  dualClip: z.number().gt(1).optional().describe('Most that a negative advantage is multiplied by (Ye et al. 2020; verl: 3); none by default, as in TRL'),
  vfCoef: z.number().min(0).default(0.1).describe('Weight of the value loss'),
  cliprangeValue: z.number().positive().default(0.2).describe('How far a value may move before its gradient stops'),
  gamma: share.default(1).describe('Discount of a token'),
  lam: share.default(0.95).describe('Lambda of generalised advantage estimation (verl: 1)'),
  whitenRewards: z.boolean().default(false).describe('Divide rewards by their deviation'),
  whitenAdvantages: z.boolean().default(true).describe('Give advantages mean 0 and variance 1'),
  ...omit(rewardShape, 'reward', 'rewardModel'),
  maxTurns: z.int().min(1).default(8).describe('Most answers in a conversation with an environment'),
  environmentTimeout: z.number().positive().default(60_000).describe('Milliseconds that an environment may take for a turn'),
} as const))

/** Options of PPO. */
export const ppoSchema = lazily(() => z.strictObject({
  model: z.string().min(1).describe('Folder of the model: config.json, safetensors, tokenizer.json'),
  ...modelShape,
  ...promptShape, reward: rewardShape.reward, rewardModel: rewardShape.rewardModel,
  refModel: z.string().optional().describe('Folder of the reference policy; model by default'),
  valueModel: z.string().optional().describe('"shared" for a head on the policy, or a folder to start the value model from; by default rewardModel, else model'),
  ...trainingShape, ...ppoShape,
  learningRate: trainingShape.learningRate.default(3e-6).describe('Peak learning rate'),
}))

/** The options of PPO, as they are given. */
export type PpoOptions = OptionsOf<typeof ppoSchema>
/** The options of PPO with every default filled in. */
export type PpoArguments = z.output<typeof ppoSchema>
/** The part of the options that says how PPO samples and learns. */
export type PpoSettings = z.output<z.ZodObject<typeof ppoShape>>
