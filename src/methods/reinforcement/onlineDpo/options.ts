import { z } from 'zod'
import { lazily, omit, type OptionsOf } from '../../../options.ts'
import { trainingShape } from '../../../train/options.ts'
import { modelShape } from '../../options.ts'
import { judgeShape } from './judge.ts'
import { evalPromptShape, promptShape, rewardShape, samplingShape, serverShape } from '../sharedOptions.ts'

/** Options of online DPO: TRL's OnlineDPOConfig in camelCase. */
export const onlineDpoSchema = lazily(() => z.strictObject({
  model: z.string().min(1).describe('Folder of the model: config.json, safetensors, tokenizer.json'),
  ...modelShape,
  refModel: z.string().min(1).optional().describe('Folder of the reference model; by default the model as it was before training, or with an adapter the model without it'),
  ...promptShape, ...evalPromptShape, ...rewardShape, ...judgeShape, ...omit(trainingShape, 'labelSmoothingFactor'),
  perDeviceTrainBatchSize: trainingShape.perDeviceTrainBatchSize.describe('Prompts of a micro-batch, each with two answers'),
  learningRate: trainingShape.learningRate.default(5e-7).describe('Peak learning rate'),
  metricForBestModel: trainingShape.metricForBestModel.default('reward').describe('The evaluation metric that decides which is best'),
  disableDropout: z.boolean().default(true).describe("Leave the model's dropout out; an adapter's own stays"),
  maxNewTokens: z.int().min(1).default(64).describe('Most tokens of an answer'),
  maxLength: z.int().min(2).default(512).describe("Longest prompt with its answer in the loss; a longer prompt loses its beginning there"),
  temperature: z.number().positive().default(0.9).describe('Logits are divided by this in sampling; not in the loss'),
  ...samplingShape,
  missingEosPenalty: z.number().positive().optional().describe('Taken off the score of an answer that does not end by itself'),
  beta: z.union([z.number().positive(), z.array(z.number().positive()).min(1)]).default(0.1)
    .describe('How much the policy is held to the reference, for ipo its τ; or one for each epoch, of which the last stays'),
  lossType: z.enum(['sigmoid', 'ipo']).default('sigmoid').describe('The loss of a pair: that of DPO, or IPO'),
  ...serverShape,
  numCompletionsToLog: z.int().min(0).default(2).describe('Whole answers with their rewards at each log entry'),
}))

/** The options of online DPO, as they are given. */
export type OnlineDpoOptions = OptionsOf<typeof onlineDpoSchema>
/** The options of online DPO with every default filled in. */
export type OnlineDpoArguments = z.output<typeof onlineDpoSchema>
