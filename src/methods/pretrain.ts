import { ConfigError } from '../errors.ts'
import { AutoModelForCausalLM, createConfig, readConfig } from '../models/index.ts'
import type { ModelConfig } from '../models/index.ts'
import { givenOptions, parseOptions } from '../options.ts'
import { Tokenizer } from '../tokenizers/index.ts'
import { loadModel } from './model.ts'
import { pretrainSchema } from './options.ts'
import type { PretrainArguments, PretrainOptions } from './options.ts'
import { prepareRun, pretrainingRun } from './prepare.ts'
import type { PreparedRun, RowsInput } from './prepare.ts'
import { pretrainMasked, type PreparedMaskedRun } from './pretrainMasked.ts'

/** The config of a new model: the user's, with the tokenizer's vocabulary and special tokens. */
function newModelConfig(modelConfig: Readonly<Record<string, unknown>>, tokenizer: Tokenizer, maxLength: number): ModelConfig {
  const { bosTokenId, eosTokenId, padTokenId } = tokenizer
  return createConfig({
    modelType: 'llama', vocabSize: tokenizer.embeddingRows, maxPositionEmbeddings: maxLength,
    ...(bosTokenId === undefined ? {} : { bosTokenId }), ...(eosTokenId === undefined ? {} : { eosTokenId }), ...(padTokenId === undefined ? {} : { padTokenId }),
    ...modelConfig,
  })
}

/** Reads the config, or makes that of a new model. */
async function pretrainConfig(args: PretrainArguments, tokenizer: Tokenizer): Promise<ModelConfig> {
  if (args.model !== undefined && args.modelConfig) throw new ConfigError('model and modelConfig: give model to continue, or modelConfig to start from scratch, not both')
  if (args.model === undefined && !args.modelConfig) throw new ConfigError('model: give a model folder to continue from, or modelConfig for a new model')
  return args.model === undefined ? newModelConfig(args.modelConfig!, tokenizer, args.maxLength) : readConfig(args.model)
}

/** What pretrain() takes: the options that a file can hold, and rows that a program has. */
export interface PretrainInput extends PretrainOptions, RowsInput {}

/**
 * Language modelling on text: from scratch (`modelConfig` and `tokenizer`), or continued from a model folder. A decoder learns to predict the next token;
 * with `mlm` an encoder learns to predict masked ones. Returns the run, ready to train().
 */
export function pretrain(options: PretrainInput & { mlm: true }): Promise<PreparedMaskedRun>
export function pretrain(options: PretrainInput & { mlm?: false | undefined }): Promise<PreparedRun>
export async function pretrain(input: PretrainInput): Promise<PreparedRun | PreparedMaskedRun> {
  const { rows, evalRows, ...options } = givenOptions('pretrain', input, "tokenizer: './tokenizer', modelConfig: { hiddenSize: 256 }, files: 'texts/*.md', outputDir: './out'")
  const args = parseOptions(pretrainSchema, options, 'pretrain')
  const given = { rows, evalRows }
  return args.mlm ? pretrainMasked(args, given) : pretrainCausal(args, given)
}

async function pretrainCausal(args: PretrainArguments, given: RowsInput): Promise<PreparedRun> {
  if (args.wholeWordMask) throw new ConfigError('wholeWordMask: only masked language models have it; add mlm: true')
  const folder = args.tokenizer ?? args.model
  if (folder === undefined) throw new ConfigError('tokenizer: a new model needs one; train it with `anneal tokenizer train` or name a folder that has one')
  const tokenizer = await Tokenizer.fromPretrained(folder)
  const config = await pretrainConfig(args, tokenizer)
  return pretrainingRun(args, given, tokenizer, config, {
    create: () => AutoModelForCausalLM.fromConfig(config, { dtype: args.dtype, seed: args.seed, device: args.device }),
    load: (from) => loadModel(from, args),
    run: (model, data) => prepareRun('pretrain', args, model, tokenizer, data),
  })
}
