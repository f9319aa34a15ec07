import { z } from 'zod'
import { lazily, type OptionsOf } from '../options.ts'

const names = lazily(() => z.union([z.string(), z.array(z.string()).min(1)]))
const patterns = lazily(() => z.record(z.string(), z.number().positive()))

const targetShape = lazily(() => ({
  targetModules: names.optional().describe('Names of the layers to adapt ("q_proj" means every module that ends so), a regular expression for whole paths, or all-linear; by default what PEFT takes for the model'),
  excludeModules: names.optional().describe('Layers to leave out, in the same notation'),
  modulesToSave: z.array(z.string()).default([]).describe('Further modules that are trained and saved whole, such as lm_head'),
} as const))

/** LoRA (Hu et al. 2021), rsLoRA (Kalajdzievski 2023), DoRA (Liu et al. 2024), PiSSA (Meng et al. 2024) and LoRA+ (Hayou et al. 2024): PEFT's LoraConfig. */
const loraSchema = lazily(() => z.strictObject({
  type: z.literal('lora'),
  r: z.int().min(1).default(8).describe('Rank of the update'),
  loraAlpha: z.number().positive().default(8).describe('The update is scaled by loraAlpha / r'),
  loraDropout: z.number().min(0).max(1).default(0).describe("Dropout of the adapter's input"),
  ...targetShape,
  layersToTransform: z.union([z.int().min(0), z.array(z.int().min(0))]).optional().describe('Numbers of the layers to adapt; all by default'),
  layersPattern: names.optional().describe('Name of the list of layers that layersToTransform counts, where a path has several'),
  rankPattern: patterns.default({}).describe('Ranks of single modules: a name or regular expression, and the rank'),
  alphaPattern: patterns.default({}).describe('loraAlpha of single modules, likewise'),
  bias: z.enum(['none', 'all', 'lora_only']).default('none').describe('Which biases are trained too'),
  useRslora: z.boolean().default(false).describe('Scale by loraAlpha / √r (rsLoRA)'),
  useDora: z.boolean().default(false).describe('Train the length of each row of the weight apart from its direction (DoRA)'),
  initLoraWeights: z.union([z.boolean(), z.enum(['gaussian', 'pissa'])]).default(true).describe('true: A uniform and B zero; "gaussian": A normal and B zero; "pissa": the largest singular vectors, taken out of the weight; false: both random'),
  trainableTokenIndices: z.union([z.array(z.int().min(0)).min(1), z.record(z.string(), z.array(z.int().min(0)).min(1))]).optional().describe('Ids of tokens whose embeddings are trained too, such as new ones; or such lists by the name of the layer'),
  loraplusLrRatio: z.number().positive().optional().describe('How many times the learning rate B has (LoRA+)'),
}))

/** IA³ (Liu et al. 2022): PEFT's IA3Config. */
const ia3Schema = lazily(() => z.strictObject({
  type: z.literal('ia3'),
  ...targetShape,
  feedforwardModules: names.optional().describe('Those of the target modules whose input is scaled, not their output'),
  initIa3Weights: z.boolean().default(true).describe('Start from ones, which change nothing'),
}))

/** LN tuning (Zhao et al. 2023): the norms alone. PEFT's LNTuningConfig. */
const lnTuningSchema = lazily(() => z.strictObject({
  type: z.literal('lntuning'),
  targetModules: names.optional().describe('Names of the norms to train, or a regular expression for whole paths; by default what PEFT takes for the model'),
  excludeModules: names.optional().describe('Norms to leave out, in the same notation'),
  modulesToSave: targetShape.modulesToSave,
}))

/** Bottleneck adapters after the sub-layers: of Houlsby et al. (2019), or after the feed-forward part only, of Pfeiffer et al. (2020). */
const bottleneckSchema = lazily(() => z.strictObject({
  type: z.literal('bottleneck'),
  architecture: z.enum(['houlsby', 'pfeiffer']).default('houlsby').describe('After attention and feed-forward (houlsby), or after feed-forward only (pfeiffer)'),
  reductionFactor: z.number().positive().default(16).describe('Hidden size over the width of the bottleneck'),
  nonLinearity: z.enum(['relu', 'gelu', 'gelu_tanh', 'silu', 'none']).default('relu').describe('Between down and up projection'),
  scaling: z.number().default(1).describe('Factor of what is added'),
}))

/** Only the biases are trained (Ben Zaken et al. 2022). */
const bitfitSchema = lazily(() => z.strictObject({ type: z.literal('bitfit') }))

/** Only some layers are trained, as LLaMA-Factory's freeze tuning. */
const freezeSchema = lazily(() => z.strictObject({
  type: z.literal('freeze'),
  freezeTrainableLayers: z.int().default(2).describe('How many of the last layers are trained; of the first where negative'),
  freezeTrainableModules: z.array(z.string()).default([]).describe('Which modules of those layers, such as mlp; all by default'),
  freezeExtraModules: z.array(z.string()).default([]).describe('Further modules to train outside the layers, such as embed_tokens or norm'),
}))

const virtualTokensShape = lazily(() => ({
  numVirtualTokens: z.int().min(1).default(20).describe('How many trained tokens stand before every sequence'),
} as const))

/** Prefix tuning (Li and Liang 2021): keys and values of every layer. PEFT's PrefixTuningConfig. */
const prefixSchema = lazily(() => z.strictObject({
  type: z.literal('prefix'),
  ...virtualTokensShape,
  prefixProjection: z.boolean().default(false).describe('Train an embedding and two layers that make the prefix from it; what they make is saved'),
  encoderHiddenSize: z.int().min(1).optional().describe("Width between those layers; by default that of the keys of one token, as PEFT's"),
  initWeights: z.literal('zero').optional().describe('Start from zeros; by default from a normal distribution'),
}))

/** Prompt tuning (Lester et al. 2021): embeddings. PEFT's PromptTuningConfig. */
const promptSchema = lazily(() => z.strictObject({
  type: z.literal('prompt'),
  ...virtualTokensShape,
  promptTuningInit: z.enum(['RANDOM', 'TEXT', 'SAMPLE_VOCAB']).default('RANDOM').describe("Start from a normal distribution, from the tokens of a text, or from those of tokens drawn from the vocabulary"),
  promptTuningInitText: z.string().min(1).optional().describe('The text for TEXT; repeated or cut to the number of virtual tokens'),
  tokenizerNameOrPath: z.string().optional().describe("Written for PEFT, which wants it with TEXT; by default the base model's place"),
}))

/** P-tuning (Liu et al. 2021): embeddings that three layers make from trained ones. PEFT's PromptEncoderConfig. */
const pTuningSchema = lazily(() => z.strictObject({
  type: z.literal('ptuning'),
  ...virtualTokensShape,
  encoderReparameterizationType: z.enum(['MLP', 'LSTM']).default('MLP').describe('What makes the embeddings. LSTM is only loaded, not trained'),
  encoderHiddenSize: z.int().min(1).optional().describe("Width between the layers; by default the model's"),
  encoderNumLayers: z.int().min(1).default(2).describe('Layers of an LSTM'),
  encoderDropout: z.number().min(0).max(1).default(0).describe('Dropout between the layers of an LSTM'),
}))

/** Every kind of adapter by its `type`. */
export const adapterSchema = lazily(() => z.discriminatedUnion('type', [
  loraSchema, ia3Schema, lnTuningSchema, prefixSchema, promptSchema, pTuningSchema, bottleneckSchema, bitfitSchema, freezeSchema,
]))

export type LoraOptions = z.output<typeof loraSchema>
export type Ia3Options = z.output<typeof ia3Schema>
export type LnTuningOptions = z.output<typeof lnTuningSchema>
export type BottleneckOptions = z.output<typeof bottleneckSchema>
export type BitfitOptions = z.output<typeof bitfitSchema>
export type FreezeOptions = z.output<typeof freezeSchema>
export type PrefixOptions = z.output<typeof prefixSchema>
export type PromptOptions = z.output<typeof promptSchema>
export type PTuningOptions = z.output<typeof pTuningSchema>
/** What a user gives. */
export type AdapterInput = OptionsOf<typeof adapterSchema>
/** With defaults filled in. */
export type AdapterOptions = z.output<typeof adapterSchema>
