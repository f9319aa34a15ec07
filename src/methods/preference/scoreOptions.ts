import { z } from 'zod'
import { deviceOption, lazily, type OptionsOf } from '../../options.ts'

/** Options of scoring texts with a reward model. */
export const scoreSchema = lazily(() => z.strictObject({
  model: z.string().min(1).describe('Folder of the reward model, or with adapterPath of the model it was trained from'),
  adapterPath: z.string().optional().describe('Folder of an adapter that reward training saved'),
  tokenizer: z.string().optional().describe("Folder of the tokenizer; the model's by default"),
  dtype: z.enum(['float32', 'bfloat16', 'auto']).default('auto').describe('Of the weights in memory; auto keeps what is stored'),
  device: deviceOption(),
  files: z.union([z.string(), z.array(z.string())]).describe('What to score: files, folders or globs of texts, conversations, prompts with completions, or preference pairs'),
  columns: z.record(z.string(), z.string()).optional().describe('Where a known column has another name: completion=answer'),
  maxLength: z.int().min(1).optional().describe("Longest text in tokens; the model's context by default. A longer one has no score"),
  maxTokensPerBatch: z.int().min(1).default(4096).describe('Most tokens in one forward pass; a longer text runs alone'),
}))
/** What `score` takes. */
export type ScoreOptions = OptionsOf<typeof scoreSchema>
