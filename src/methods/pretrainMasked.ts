import { ConfigError } from '../errors.ts'
import { fillMask } from '../generate/index.ts'
import { AutoModelForMaskedLM, createEncoderConfig, readEncoderConfig } from '../models/index.ts'
import type { EncoderConfig, MaskedLanguageModel } from '../models/index.ts'
import { Tokenizer } from '../tokenizers/index.ts'
import { Trainer } from '../train/trainer.ts'
import { maskedTask } from './maskedTask.ts'
import { maskingOf } from './masking.ts'
import { decisiveModelOptions, loadMaskedModel } from './model.ts'
import { trainingPart } from './options.ts'
import type { PretrainArguments } from './options.ts'
import { datasetPart, pretrainingRun, runOf } from './prepare.ts'
import type { PreparedRun, RowsInput } from './prepare.ts'

/** A prepared run of a masked language model. */
export type PreparedMaskedRun = PreparedRun<MaskedLanguageModel>

/** The config of a new encoder: the user's, with the tokenizer's vocabulary and special tokens. BERT by default. */
function newEncoderConfig(modelConfig: Readonly<Record<string, unknown>>, tokenizer: Tokenizer, maxLength: number): EncoderConfig {
  const { bosTokenId, eosTokenId, padTokenId } = tokenizer
  const modelType = modelConfig['modelType'] ?? modelConfig['model_type'] ?? 'bert'
  // RoBERTa's positions begin after the padding token's id.
  const maxPositionEmbeddings = maxLength + (modelType === 'roberta' ? (padTokenId ?? 1) + 1 : 0)
  return createEncoderConfig({
    modelType: 'bert', vocabSize: tokenizer.embeddingRows, maxPositionEmbeddings,
    ...(bosTokenId === undefined ? {} : { bosTokenId }), ...(eosTokenId === undefined ? {} : { eosTokenId }), ...(padTokenId === undefined ? {} : { padTokenId }),
    ...modelConfig,
  })
}

/** @internal Masked language modelling, as pretrain() does it with `mlm`. */
export async function pretrainMasked(args: PretrainArguments, given: RowsInput): Promise<PreparedMaskedRun> {
  if (args.model !== undefined && args.modelConfig) throw new ConfigError('model and modelConfig: give model to continue, or modelConfig to start from scratch, not both')
  if (args.model === undefined && !args.modelConfig) throw new ConfigError('model: give the folder of an encoder to continue from, or modelConfig for a new one, such as modelConfig: { hiddenSize: 256 }')
  const folder = args.tokenizer ?? args.model
  if (folder === undefined) throw new ConfigError('tokenizer: a new model needs one; train it with `anneal tokenizer train --type wordpiece` or name a folder that has one')
  const tokenizer = await Tokenizer.fromPretrained(folder)
  const config = args.model === undefined ? newEncoderConfig(args.modelConfig!, tokenizer, args.maxLength) : await readEncoderConfig(args.model)
  const masking = maskingOf(tokenizer, args)
  return pretrainingRun(args, given, tokenizer, config, {
    create: () => AutoModelForMaskedLM.fromConfig(config, { dtype: args.dtype, seed: args.seed, device: args.device }),
    load: (from) => loadMaskedModel(from, args),
    run: (model, data) => prepareMaskedRun(args, model, tokenizer, data, masking),
  })
}

function prepareMaskedRun(args: PretrainArguments, model: MaskedLanguageModel, tokenizer: Tokenizer, data: PreparedRun['data'], masking: ReturnType<typeof maskingOf>): PreparedMaskedRun {
  const { samplePrompts, mlmProbability, maskReplaceProb, randomReplaceProb, wholeWordMask } = args
  const task = maskedTask({
    name: 'pretrain', model, tokenizer, masking, ...datasetPart(args, data),
    ...(samplePrompts.length > 0 ? { sample: () => filledPrompts(model, tokenizer, samplePrompts) } : {}),
  })
  const decisiveOptions = { ...decisiveModelOptions(args), mlm: true, mlmProbability, maskReplaceProb, randomReplaceProb, wholeWordMask }
  const trainer = new Trainer({ ...task, decisiveOptions }, trainingPart(args))
  return runOf(trainer, { model, tokenizer, data }, () => task.save(args.outputDir))
}

/** What the model puts in the place of the prompts' masks, for the log. */
const filledPrompts = (model: MaskedLanguageModel, tokenizer: Tokenizer, prompts: readonly string[]): Promise<{ prompt: string, text: string }[]> =>
  Promise.all(prompts.map(async (prompt) => ({ prompt, text: (await fillMask(model, tokenizer, prompt, { topK: 3 })).map((mask) => mask.map(({ tokenStr }) => tokenStr).join(' / ')).join(', ') })))
