import { join } from 'node:path'
import { givenOptions } from '../options.ts'
import { readJsonObject } from '../files/index.ts'
import { defaultDevice, device as deviceOf } from '../tensor/index.ts'
import { createEncoderConfig, parseEncoderConfig, type ConfigOptions, type EncoderConfig } from './config.ts'
import { EncoderModel } from './encoder.ts'
import { BertForMaskedLM, RobertaForMaskedLM, type MaskedLanguageModel } from './maskedLanguageModel.ts'
import { checkDtype, modelDtypes, type FromConfigOptions, type FromPretrainedOptions } from './pretrained.ts'
import { Classifier, type ClassifierOptions } from './sequenceClassification.ts'
import { loadWeights } from './weights.ts'

type EncoderOptions = Omit<FromPretrainedOptions, 'quantize'>

/** The masked language model a config describes, without memory for its weights. */
export function buildMaskedModel(config: EncoderConfig): MaskedLanguageModel {
  return config.modelType === 'roberta' ? new RobertaForMaskedLM(config) : new BertForMaskedLM(config)
}

async function readEncoder(folder: string, { dtype = 'float32', config: overrides }: EncoderOptions): Promise<EncoderConfig> {
  checkDtype(dtype, [...modelDtypes, 'auto'])
  const path = join(folder, 'config.json')
  return parseEncoderConfig({ ...await readJsonObject(path), ...overrides }, path)
}

/** Masked language models by their config, as transformers' class of that name. */
export const AutoModelForMaskedLM = {
  /** A new model with initial weights, as transformers draws them. Takes a config that was read, or createEncoderConfig()'s options. */
  fromConfig(config: EncoderConfig | ConfigOptions, { dtype = 'float32', seed = 42, device = defaultDevice() }: FromConfigOptions = {}): MaskedLanguageModel {
    checkDtype(dtype, modelDtypes)
    const model = buildMaskedModel('kind' in config && 'raw' in config ? config as EncoderConfig : createEncoderConfig(config))
    model.initialise({ seed, dtype, device: deviceOf(device) })
    return model
  },

  /** A model from a Hugging Face folder. Dropout is off until train(). Throws ConfigError or FileFormatError naming what does not fit. */
  async fromPretrained(folder: string, options: EncoderOptions = {}): Promise<MaskedLanguageModel> {
    givenOptions('fromPretrained', options, "dtype: 'bfloat16'")
    const model = buildMaskedModel(await readEncoder(folder, options))
    await loadWeights(model, folder, options.dtype ?? 'float32', deviceOf(options.device ?? defaultDevice()))
    return model
  },
}

/** Encoders without their heads, as transformers' class of that name. */
export const AutoModel = {
  /** The encoder of a folder; a pooler that the checkpoint lacks, as those of masked language models do, gets initial values. */
  async fromPretrained(folder: string, options: EncoderOptions & { seed?: number } = {}): Promise<EncoderModel> {
    givenOptions('fromPretrained', options, "dtype: 'bfloat16'")
    const config = await readEncoder(folder, options)
    const model = new EncoderModel({ ...config, architecture: config.architecture.replace(/ForMaskedLM$/, 'Model') })
    await loadWeights(model, folder, options.dtype ?? 'float32', deviceOf(options.device ?? defaultDevice()), undefined, { names: /^pooler\./, seed: options.seed ?? 42 })
    return model
  },
}

/** Classifiers of sequences, as transformers' class of that name. */
export const AutoModelForSequenceClassification = {
  fromPretrained: async (folder: string, options: Omit<ClassifierOptions, 'kind'> = {}): Promise<Classifier> => Classifier.fromPretrained(folder, { ...givenOptions('fromPretrained', options, "dtype: 'bfloat16'"), kind: 'sequence' }),
}

/** Classifiers of tokens, as transformers' class of that name. */
export const AutoModelForTokenClassification = {
  fromPretrained: async (folder: string, options: Omit<ClassifierOptions, 'kind'> = {}): Promise<Classifier> => Classifier.fromPretrained(folder, { ...givenOptions('fromPretrained', options, "dtype: 'bfloat16'"), kind: 'token' }),
}
