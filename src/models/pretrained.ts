import { access } from 'node:fs/promises'
import { join } from 'node:path'
import { ConfigError } from '../errors.ts'
import { givenOptions } from '../options.ts'
import { readJsonObject } from '../files/index.ts'
import { didYouMean } from '../suggest.ts'
import { defaultDevice, device as deviceOf, type DeviceLike } from '../tensor/index.ts'
import type { CausalLanguageModel } from './causal.ts'
import { createConfig, parseConfig, readConfig, type ConfigOptions, type ModelConfig, type RawConfig } from './config.ts'
import { DecoderForCausalLM } from './decoder.ts'
import { Gpt2LMHeadModel } from './gpt2.ts'
import { resolveQuantization, type QuantizeOption } from './quantizedConfig.ts'
import { loadWeights } from './weights.ts'

/** The dtypes a model can compute in; float64 on the CPU only, slowly, for checks. Files may also hold float16. */
export const modelDtypes = ['float32', 'bfloat16', 'float64'] as const
/** A dtype that a model's weights may have. */
export type ModelDtype = (typeof modelDtypes)[number]

/** Of a model with fresh weights. */
export interface FromConfigOptions {
  /** Default float32. */
  dtype?: ModelDtype
  /** The same seed gives the same weights. Default 42. */
  seed?: number
  /** Default: defaultDevice(). */
  device?: DeviceLike | undefined
}

/** Of a model read from a Hugging Face folder. */
export interface FromPretrainedOptions {
  /** Default float32; 'auto' keeps what is stored, with float32 for float16. */
  dtype?: ModelDtype | 'auto'
  /** Default: defaultDevice(). */
  device?: DeviceLike | undefined
  /** Rounds the linear layers to a few bits as they are read: a format, or all of quantizeSchema. Embeddings, norms and, where `head` says nothing, the head stay as they are. */
  quantize?: QuantizeOption | undefined
  /** Fields of config.json to read instead of the file's, by the names that stand there. */
  config?: RawConfig
}

/** The model a config describes, without memory for its weights. */
export function buildModel(config: ModelConfig): CausalLanguageModel {
  return config.kind === 'gpt2' ? new Gpt2LMHeadModel(config) : new DecoderForCausalLM(config)
}

export function checkDtype(dtype: string, known: readonly string[]): void {
  if (!known.includes(dtype)) throw new ConfigError(`dtype: expected ${known.join(', ')}, got ${JSON.stringify(dtype)}${didYouMean(dtype, known)}`)
}

const isParsed = (config: ModelConfig | ConfigOptions): config is ModelConfig => 'kind' in config && 'raw' in config

async function readGenerationConfig(folder: string): Promise<CausalLanguageModel['generationConfig']> {
  const path = join(folder, 'generation_config.json')
  const exists = await access(path).then(() => true, () => false)
  return exists ? await readJsonObject(path) : undefined
}

/** Causal language models by their config, as transformers' class of that name. */
export const AutoModelForCausalLM = {
  /** A new model with initial weights, as transformers draws them. Takes a config that was read, or createConfig()'s options. */
  fromConfig(config: ModelConfig | ConfigOptions, { dtype = 'float32', seed = 42, device = defaultDevice() }: FromConfigOptions = {}): CausalLanguageModel {
    checkDtype(dtype, modelDtypes)
    const model = buildModel(isParsed(config) ? config : createConfig(config))
    model.initialise({ seed, dtype, device: deviceOf(device) })
    return model
  },

  /**
   * A model from a Hugging Face folder: config.json, model.safetensors or its shards, and generation_config.json where there is one. Dropout is
   * off until train(). Checkpoints of bitsandbytes (4 bits), GPTQ and AWQ keep their codes. Throws ConfigError or FileFormatError naming what does not
   * fit.
   */
  async fromPretrained(folder: string, options: FromPretrainedOptions = {}): Promise<CausalLanguageModel> {
    const { dtype = 'float32', device = defaultDevice(), quantize, config: overrides } = givenOptions('fromPretrained', options, "dtype: 'bfloat16'")
    checkDtype(dtype, [...modelDtypes, 'auto'])
    const quantization = quantize === undefined ? undefined : resolveQuantization(quantize)
    const read = await readConfig(folder)
    const config = overrides ? parseConfig({ ...read.raw, ...overrides }, join(folder, 'config.json')) : read
    const generationConfig = await readGenerationConfig(folder)
    const model = buildModel(config)
    await loadWeights(model, folder, dtype, deviceOf(device), quantization)
    model.generationConfig = generationConfig
    return model
  },
}
