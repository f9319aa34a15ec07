import { z } from 'zod'
import { modelDtypes, quantizeOption } from '../models/index.ts'
import { deviceOption, lazily, type OptionsOf } from '../options.ts'
import { ggufTypes } from './gguf/tensors.ts'

/** Every option of exportModel() and `anneal export`. */
export const exportSchema = lazily(() => z.strictObject({
  model: z.string().min(1).describe('Folder of the model'),
  tokenizer: z.string().optional().describe("Folder of the tokenizer; the model's by default"),
  output: z.string().min(1).describe('The file to write, or the folder for huggingface'),
  format: z.enum(['gguf', 'huggingface']).default('gguf').describe('A GGUF file for llama.cpp, Ollama and LM Studio, or a folder for transformers and vLLM'),
  type: z.enum(ggufTypes).default('bf16').describe('Of the matrices; q8_0 and q4_0 in GGUF only'),
  name: z.string().min(1).optional().describe("The model's name in the file; that of the file by default"),
  preTokenizer: z.string().min(1).optional().describe("llama.cpp's name for how the tokenizer cuts text into words, where it cannot be told from the pattern"),
  dtype: z.enum(['float32', 'bfloat16', 'auto']).default('float32').describe('Of the weights in memory, and of the comparison; auto keeps what is stored and needs less memory'),
  device: deviceOption(),
  verify: z.boolean().default(true).describe('Read the result again and compare it with the source on held-out tokens'),
  evalFile: z.string().min(1).optional().describe('Text to compare on; a short one is built in'),
  evalTokens: z.int().min(1).max(65_536).default(256).describe('Most tokens to compare on'),
  minAgreement: z.number().min(0).max(1).optional().describe('Share of tokens with the same most likely next token below which the export is an error: 0.99 for f32, 0.98 for f16, 0.95 for bf16, 0 for q8_0 and q4_0 by default'),
}))

/** What `exportModel` takes. */
export type ExportOptions = OptionsOf<typeof exportSchema>

/** Options of mergeFolder() and `anneal merge`. */
export const mergeSchema = lazily(() => z.strictObject({
  adapter: z.string().min(1).describe('Folder of the adapter: adapter_config.json and adapter_model.safetensors'),
  output: z.string().min(1).describe('Folder for the merged model'),
  model: z.string().optional().describe('Folder of the base model; by default the one that adapter_config.json names'),
  tokenizer: z.string().optional().describe("Folder of the tokenizer; the adapter's, else the base model's by default"),
  quantize: quantizeOption.optional().describe('Merge into the base as QLoRA trained over it, rounded to this format'),
  quantized: z.enum(['dequantize', 'requantize']).optional().describe('Of a quantised base: widen its weights, or round the sum to their format again'),
  dtype: z.enum([...modelDtypes, 'auto']).default('auto').describe('Of the weights; auto keeps what is stored'),
  device: deviceOption(),
  evalFile: z.string().optional().describe('Text to measure the perplexity on, of the base, with the adapter beside it, and merged'),
  maxLength: z.int().min(2).optional().describe("Tokens a window sees; the model's context by default, at most 2048"),
}))
