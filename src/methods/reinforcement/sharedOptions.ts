import { z } from 'zod'
import { lazily } from '../../options.ts'
import { uncachedShape } from '../options.ts'

const strings = lazily(() => z.union([z.string(), z.array(z.string())]))
const positive = lazily(() => z.int().min(1))

/** Where prompts come from, for training and evaluation. */
export const promptShape = lazily(() => ({
  files: strings.optional().describe('Prompts: files, folders or globs of .jsonl .json .csv .parquet with a column prompt (text or messages); other columns go to the reward functions'),
  columns: z.record(z.string(), z.string()).optional().describe('Where the prompt has another name: prompt=question'),
  maxPromptLength: positive.nullable().default(null).describe('Rows with longer prompts are left out, and counted in a warning'),
  chatTemplateKwargs: z.record(z.string(), z.unknown()).optional().describe('Variables of the chat template, such as enable_thinking=false; a row\'s own chat_template_kwargs come before them'),
  ...uncachedShape,
} as const))

/** Held-out prompts. */
export const evalPromptShape = lazily(() => ({
  evalFiles: strings.optional().describe('Prompts for evaluation, instead of a split'),
  evalSplit: z.number().positive().optional().describe('Held out for evaluation: a share below 1, or a number of prompts'),
  numGenerationsEval: positive.default(1).describe('Answers to each prompt of an evaluation (TRL: numGenerations)'),
} as const))

/** What judges answers. */
export const rewardShape = lazily(() => ({
  reward: strings.optional().describe('Reward functions: names of built-in ones (exactMatch, numericMatch, thinkFormat, repetition, jsonValid), or modules whose default export is one or a list of them, such as ./reward.ts'),
  rewardModel: z.string().optional().describe('Folder of a reward model, a ForSequenceClassification with one label and the same tokenizer'),
  rewardWeights: z.array(z.number()).optional().describe('One for each reward function, then for a reward model; 1 by default'),
  rewardTimeout: z.number().positive().default(60_000).describe('Milliseconds a call of a reward function may take; what is not done then has no reward'),
  rewardConcurrency: positive.default(64).describe('Most calls of reward functions under way at a time'),
} as const))

/** How tokens are drawn. */
export const samplingShape = lazily(() => ({
  topP: z.number().min(0).max(1).default(1).describe('Draw from the fewest tokens whose probabilities reach this sum'),
  topK: z.int().min(0).default(0).describe('Draw from the most likely tokens only; 0 for all'),
  minP: z.number().min(0).max(1).default(0).describe('Leave out tokens less likely than this share of the most likely one'),
  repetitionPenalty: z.number().positive().default(1).describe('Makes tokens of prompt and answer less likely to come again; 1 for none'),
  stopStrings: z.array(z.string().min(1)).default([]).describe('Texts that end an answer; they are not part of its text'),
  maxBatchSize: positive.optional().describe('Most answers under way at a time, all of a step by default; decides nothing but speed and memory'),
} as const))

/** Another engine that samples. */
export const serverShape = lazily(() => ({
  rolloutServer: z.string().optional().describe('URL of an OpenAI-compatible server (…/v1) that samples instead of the model; it has to be given the new weights by other means'),
  rolloutServerModel: z.string().min(1).default('default').describe('Name of the model at the server'),
  rolloutServerApiKeyEnv: z.string().min(1).optional().describe('Name of the environment variable that holds the key of the server'),
} as const))
