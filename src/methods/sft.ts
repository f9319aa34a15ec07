import { readConfig } from '../models/index.ts'
import type { CausalLanguageModel } from '../models/index.ts'
import { givenOptions, parseOptions } from '../options.ts'
import { Tokenizer } from '../tokenizers/index.ts'
import type { ComputeLoss } from './causalTask.ts'
import { loadModel } from './model.ts'
import { sftSchema } from './options.ts'
import type { SftOptions } from './options.ts'
import { checkLengths, checkVocabulary, loadData, prepareRun } from './prepare.ts'
import type { PreparedRun, RowsInput } from './prepare.ts'

/** What sft() takes: the options that a file can hold, and what only a program has. */
export interface SftInput extends SftOptions, RowsInput {
  /** A loss in place of the language model's. */
  computeLoss?: ComputeLoss
}

/**
 * Supervised fine-tuning of a model folder on conversations, prompt–completion pairs or texts, with all parameters or some frozen. Options are
 * TRL's SFTConfig in camelCase. Returns the run, ready to train():
 *
 *     const run = await sft({ model: './Qwen2.5-0.5B', files: 'chats/*.jsonl', outputDir: './out', assistantOnlyLoss: true })
 *     for await (const event of run.trainer.events()) … // or simply: await run.train()
 *
 * `rows` takes an array or an async iterable instead of `files`.
 */
export async function sft(input: SftInput): Promise<PreparedRun> {
  const { rows, evalRows, computeLoss, ...options } = givenOptions('sft', input, "model: './model', files: 'data.jsonl', outputDir: './out'")
  const args = parseOptions(sftSchema, options, 'sft')
  const config = await readConfig(args.model)
  const tokenizer = await Tokenizer.fromPretrained(args.tokenizer ?? args.model)
  checkVocabulary(tokenizer, config, args.tokenizer ?? args.model)
  const { assistantOnlyLoss, completionOnlyLoss } = args
  const data = await loadData(args, tokenizer, { rows, evalRows, assistantOnlyLoss, ...(completionOnlyLoss === undefined ? {} : { completionOnlyLoss }) })
  let model: CausalLanguageModel | undefined
  try {
    await checkLengths(data, config)
    model = await loadModel(args.model, args)
    if (model.virtualTokens) await checkLengths(data, config, model.virtualTokens.count)
    return prepareRun('sft', args, model, tokenizer, data, computeLoss)
  } catch (error) {
    model?.dispose()
    data.close()
    throw error
  }
}
