import { z } from 'zod'
import { deviceOption, lazily, type OptionsOf } from '../../options.ts'
import { dataShape, sftSchema } from '../options.ts'

const layerPairs = lazily(() => z.array(z.tuple([z.int().min(0), z.int().min(0)])))
const share = lazily(() => z.number().min(0).max(1))
const temperature = lazily(() => z.number().positive())

/** Options of distillation: those of SFT, and TRL's GKDConfig, DistillationConfig and MiniLLMConfig in camelCase. */
export const distillSchema = lazily(() => z.strictObject({
  ...sftSchema.shape,
  model: z.string().min(1).optional().describe('Folder of the student; leave it out to start from the teacher with initFromTeacher'),
  teacher: z.string().min(1).optional().describe('Folder of the teacher'),
  teacherDtype: z.enum(['float32', 'bfloat16', 'auto']).default('auto').describe("Of the teacher's weights in memory; auto keeps what is stored"),
  recorded: z.string().min(1).optional().describe('Folder that `anneal teach` wrote, instead of a live teacher'),
  initFromTeacher: z.array(z.int().min(0)).min(1).optional().describe("The teacher's layers that the student starts with, from 0, instead of model: [0, 2, 4]"),
  objective: z.enum(['divergence', 'minillm', 'uld']).default('divergence').describe('Divergence of whole distributions (soft labels, GKD), MiniLLM, or universal logit distillation, for a teacher with another tokenizer'),
  beta: share.default(0).describe('0 is the forward KL(T ‖ S), 1 the reverse KL(S ‖ T), between them the generalised Jensen–Shannon divergence (TRL: 0.5 in GKD, 1 in DistillationTrainer)'),
  temperature: temperature.default(1).describe('Both distributions are softmax(logits / temperature)'),
  scaleByTemperature: z.boolean().default(true).describe('Multiply the divergence by temperature², as Hinton et al. do, so that its gradient keeps its size (TRL: no)'),
  alpha: share.default(0).describe('Share of the cross-entropy of the labels; the divergence has the rest'),
  tail: z.enum(['bucket', 'renormalise']).default('bucket').describe('What recorded distributions say of the other tokens: their mass as one, or nothing'),
  lmbda: share.default(0).describe("Probability for a micro-batch to hold the student's own completions (GKD; TRL: 0.5)"),
  seqKd: z.boolean().default(false).describe("Completions written by the teacher where they are not the student's"),
  maxNewTokens: z.int().min(1).default(128).describe('Longest completion that is sampled'),
  samplingTemperature: temperature.default(0.9).describe('Of sampled completions; the loss has its own temperature'),
  topP: share.default(1).describe('Of sampled completions'),
  topK: z.int().min(0).default(0).describe('Of sampled completions; 0 for off'),
  gamma: share.default(0).describe("MiniLLM: discount of later tokens' rewards; 0 takes each token's own"),
  lengthNormalization: z.boolean().default(true).describe('MiniLLM: divide the rewards to come by their number'),
  rklAdvantage: z.boolean().default(true).describe('MiniLLM: policy gradient with log p of the teacher over the student as reward'),
  singleStepDecomposition: z.boolean().default(true).describe('MiniLLM: add the reverse KL of each token over the whole vocabulary'),
  useExtendedUld: z.boolean().default(true).describe('ULD: match tokens that end at the same place of the text, merging those between; else the n-th with the n-th'),
  uldTokenMergeStrategy: z.enum(['bayesian', 'observed']).default('bayesian').describe("ULD: the distribution of a merged group is its last token's, times the probabilities of those before (bayesian), or the one after its first token, times what later places give their own tokens (observed; TRL's default)"),
  uldSkipEos: z.boolean().default(true).describe('ULD: leave out the token that ends an answer'),
  uldUseHybridLoss: z.boolean().default(false).describe('ULD: compare tokens that both vocabularies have one by one, with the divergence of beta, and only the others by their order'),
  uldHybridMatchedWeight: z.number().min(0).optional().describe("ULD: of the tokens that both have; by default their share of the teacher's vocabulary"),
  uldHybridUnmatchedWeight: z.number().min(0).optional().describe('ULD: of the other tokens; by default the rest'),
  hiddenLayers: layerPairs.default([]).describe('Pairs of student and teacher layers whose hidden states are compared, 0 being the embeddings: [[2, 4], [4, 8]]'),
  hiddenWeight: z.number().min(0).default(1).describe('Weight of the hidden states in the loss'),
  hiddenLoss: z.enum(['mse', 'cosine']).default('mse').describe('How hidden states are compared, after a learned projection'),
  attentionLayers: layerPairs.default([]).describe('Pairs of student and teacher layers whose attention maps are compared, from 0'),
  attentionWeight: z.number().min(0).default(1).describe('Weight of the attention maps in the loss'),
}))

/** Options of recording a teacher. */
export const teachSchema = lazily(() => z.strictObject({
  teacher: z.string().min(1).describe('Folder of the teacher'),
  tokenizer: z.string().optional().describe("Folder of the student's tokenizer; the teacher's by default. A recording names it, so that a student with another is refused"),
  dtype: z.enum(['float32', 'bfloat16', 'auto']).default('auto').describe("Of the teacher's weights in memory; auto keeps what is stored"),
  device: deviceOption(),
  ...dataShape,
  maxLength: sftSchema.shape.maxLength, packing: sftSchema.shape.packing, completionOnlyLoss: sftSchema.shape.completionOnlyLoss, assistantOnlyLoss: sftSchema.shape.assistantOnlyLoss,
  seed: sftSchema.shape.seed,
  output: z.string().min(1).describe('Folder for the recording, or the .jsonl file for sequences'),
  write: z.enum(['logprobs', 'sequences']).default('logprobs').describe("The teacher's distributions of the data's tokens, or completions it writes for the data's prompts"),
  topK: z.int().min(1).default(64).describe('Most probable tokens that are recorded of each distribution'),
  temperature: temperature.default(1).describe('Distributions are softmax(logits / temperature); completions are sampled with it'),
  precision: z.enum(['float16', 'float32']).default('float16').describe('Of recorded log-probabilities'),
  tokensPerBatch: z.int().min(1).default(4096).describe('Tokens of a forward pass, unless one row has more'),
  tokensPerShard: z.int().min(1).default(65536).describe('Trained tokens of a shard, unless one row has more'),
  bf16: z.boolean().default(false).describe('Multiply in bfloat16 where the machine has it'),
  numReturnSequences: z.int().min(1).default(1).describe('Completions for each prompt'),
  maxNewTokens: z.int().min(1).default(512).describe('Longest completion'),
  topP: share.default(1).describe('Of sampled completions'),
}))

/** The options of distillation, as they are given. */
export type DistillOptions = OptionsOf<typeof distillSchema>
/** The options of distillation with every default filled in. */
export type DistillArguments = z.output<typeof distillSchema>
/** The options of recording a teacher, as they are given. */
export type TeachOptions = OptionsOf<typeof teachSchema>
/** The options of recording a teacher with every default filled in. */
export type TeachArguments = z.output<typeof teachSchema>
