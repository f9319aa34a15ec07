import { z } from 'zod'
import { quantizeSchema } from '../models/index.ts'
import { deviceOption, lazily } from '../options.ts'

/** How the layers of a loaded model are quantised: those of fromPretrained({ quantize }), and methods that need text to calibrate with. */
export const quantizeModelSchema = lazily(() => quantizeSchema.extend({
  method: z.enum(['rtn', 'gptq', 'awq']).default('rtn').describe('rtn rounds to nearest; gptq passes errors on to later weights; awq scales inputs first. The last two need calibration text'),
  dampPercent: z.number().positive().max(1).default(0.01).describe("gptq: what is added to the diagonal of the inputs' Gram matrix, as a share of its mean"),
}))

/** Every option of quantizeFolder() and `anneal quantize`. */
export const quantizeFolderSchema = lazily(() => z.strictObject({
  model: z.string().min(1).describe('Folder of the model'),
  output: z.string().min(1).describe('Folder to write'),
  ...quantizeModelSchema.shape,
  tokenizer: z.string().optional().describe("Folder of the tokenizer; the model's by default"),
  dtype: z.enum(['float32', 'bfloat16', 'auto']).default('auto').describe('Of the weights that are not quantised; auto keeps what is stored'),
  device: deviceOption(),
  calibrationFiles: z.union([z.string(), z.array(z.string())]).optional().describe('Text for gptq and awq: files, folders or globs'),
  calibrationSamples: z.int().min(1).default(128).describe('Most sequences to calibrate with'),
  calibrationLength: z.int().min(2).default(512).describe('Tokens of each'),
  evalFile: z.union([z.string(), z.array(z.string())]).optional().describe('Held-out text: its perplexity is measured before and after'),
  maxLength: z.int().min(2).optional().describe("Tokens that a window of the measurement sees; the model's context by default, at most 1024"),
  seed: z.int().min(0).default(42).describe('Which calibration sequences are taken'),
}))
