import { access } from 'node:fs/promises'
import { join } from 'node:path'
import { readJsonObject } from '../files/index.ts'
import { cpu, type Device, type DType } from '../tensor/index.ts'
import type { CausalLanguageModel } from './causal.ts'
import { createConfig, parseConfig, readConfig, type ConfigOptions, type ModelConfig, type RawConfig } from './config.ts'
import { DecoderForCausalLM } from './decoder.ts'
import { Gpt2LMHeadModel } from './gpt2.ts'
import { loadWeights } from './weights.ts'

export interface FromConfigOptions {
  /** Default float32. */
  dtype?: DType
  /** The same seed gives the same weights. Default 42. */
  seed?: number
  device?: Device
}

export interface FromPretrainedOptions {
  /** Default float32; 'auto' keeps what is stored. */
  dtype?: DType | 'auto'
  device?: Device
  /** Fields of config.json to read instead of the file's, by the names that stand there. */
  config?: RawConfig
}

/** The model a config describes, without memory for its weights. */
export function buildModel(config: ModelConfig): CausalLanguageModel {
  return config.kind === 'gpt2' ? new Gpt2LMHeadModel(config) : new DecoderForCausalLM(config)
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
  fromConfig(config: ModelConfig | ConfigOptions, { dtype = 'float32', seed = 42, device = cpu }: FromConfigOptions = {}): CausalLanguageModel {
    const model = buildModel(isParsed(config) ? config : createConfig(config))
    model.initialise({ seed, dtype, device })
    return model
  },

  /**
   * A model from a Hugging Face folder: config.json, model.safetensors or its shards, and generation_config.json where there is one. Dropout is
   * off until train(). Throws ConfigError or FileFormatError naming what does not fit.
   */
  async fromPretrained(folder: string, { dtype = 'float32', device = cpu, config: overrides }: FromPretrainedOptions = {}): Promise<CausalLanguageModel> {
    const read = await readConfig(folder)
    const config = overrides ? parseConfig({ ...read.raw, ...overrides }, join(folder, 'config.json')) : read
    const generationConfig = await readGenerationConfig(folder)
    const model = buildModel(config)
    await loadWeights(model, folder, dtype, device)
    model.generationConfig = generationConfig
    return model
  },
}
