import { z } from 'zod'
import { deviceOption, lazily, type OptionsOf } from '../../../options.ts'
import { promptShape, rewardShape } from '../sharedOptions.ts'

/** Options of rejection sampling. */
export const bestOfNSchema = lazily(() => z.strictObject({
  model: z.string().min(1).describe('Folder of the model that answers'),
  tokenizer: z.string().optional().describe("Folder of the tokenizer; the model's by default"),
  dtype: z.enum(['float32', 'bfloat16']).default('float32').describe('Of the weights in memory'),
  device: deviceOption(),
  bf16: z.boolean().optional().describe('Multiply in bfloat16; true on a GPU and false on the CPU by default'),
  ...promptShape, ...rewardShape,
  output: z.string().min(1).describe('File to write, .jsonl; beside it output.progress holds what is done, so that a stopped run goes on'),
  numGenerations: z.int().min(1).default(8).describe('Answers to each prompt, n'),
  maxCompletionLength: z.int().min(1).default(512).describe('Most tokens of an answer'),
  temperature: z.number().positive().default(1).describe('Logits are divided by this before drawing'),
  topK: z.int().min(0).default(0).describe('Sample from the most likely tokens only; 0 for all'),
  topP: z.number().min(0).max(1).default(1).describe('Sample from the fewest tokens whose probabilities reach this sum'),
  select: z.enum(['best', 'threshold']).default('best').describe('best: one answer to a prompt, the first of the highest score (best-of-n, RAFT); threshold: all from threshold up (RFT)'),
  threshold: z.number().optional().describe('Least score that is kept'),
  dedupe: z.boolean().default(true).describe('Keep only the first of equal answers to a prompt'),
  keepTruncated: z.boolean().default(false).describe('Keep answers that maxCompletionLength cut off; they teach a model not to stop'),
  correctFrom: z.number().default(1).describe('Score from which an answer counts as right, for pass@k'),
  passAtK: z.array(z.int().min(1)).default([1]).describe('Values of k to report pass@k for; at most numGenerations'),
  maxTurns: z.int().min(1).default(8).describe('Most answers in a conversation with an environment'),
  environmentTimeout: z.number().positive().default(60_000).describe('Milliseconds that an environment may take for a turn'),
  promptsPerBatch: z.int().min(1).default(64).describe('Prompts that are sampled together; progress is saved after each batch'),
  resume: z.boolean().default(true).describe('Go on where a stopped run with the same options left off'),
  seed: z.int().min(0).default(42).describe('Of the draws'),
}))

/** The options of rejection sampling, as they are given. */
export type BestOfNOptions = OptionsOf<typeof bestOfNSchema>
/** The options of rejection sampling with every default filled in. */
export type BestOfNArguments = z.output<typeof bestOfNSchema>
