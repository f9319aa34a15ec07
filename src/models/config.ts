import { access } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { z } from 'zod'
import { ConfigError, FileAccessError } from '../errors.ts'
import { readJsonObject, type JsonValue } from '../files/index.ts'
import { lazily } from '../options.ts'
import { didYouMean } from '../suggest.ts'
import { names, object, optional, parseFields, refuse, text, type RawConfig } from './configs/common.ts'
import { llama, mistral, qwen2, qwen3 } from './configs/decoders.ts'
import { bert, roberta } from './configs/encoders.ts'
import { gemma3 } from './configs/gemma3.ts'
import { gpt2, isGpt2Alias } from './configs/gpt2.ts'
import type { RopeConfig } from './configs/rope.ts'
import type { AnyModelConfig, ConfigReader, DecoderConfig, EncoderConfig, ModelConfig } from './configs/types.ts'
import { parseStoredQuantization } from './quantizedStored.ts'

export type { ActivationName, RawConfig } from './configs/common.ts'
export type { RopeConfig } from './configs/rope.ts'
export type { AnyModelConfig, DecoderConfig, EncoderConfig, Gpt2Config, ModelConfig, ModelConfigBase } from './configs/types.ts'

const readers: readonly ConfigReader[] = [gpt2, llama, mistral, qwen2, qwen3, gemma3]

const encoderReaders: readonly ConfigReader<EncoderConfig>[] = [bert, roberta]

/** The `model_type`s anneal knows. */
export const knownModelTypes: readonly string[] = [...readers, ...encoderReaders].map((reader) => reader.modelType)

/** BertForMaskedLM and BertModel belong to bert. */
const encoderOf = (modelType: string | undefined, architectures: readonly string[]): ConfigReader<EncoderConfig> | undefined => encoderReaders.find((reader) =>
  modelType === undefined ? architectures.some((name) => name.toLowerCase().startsWith(reader.modelType)) : reader.modelType === modelType)

/** Whether config.json describes an encoder, such as BERT. */
export const isEncoderConfig = ({ model_type: modelType, architectures }: RawConfig): boolean =>
  encoderOf(typeof modelType === 'string' ? modelType : undefined, [architectures].flat().filter((name) => typeof name === 'string')) !== undefined

const head = lazily(() => z.object({
  model_type: optional(text, undefined),
  architectures: optional(names, undefined),
  quantization_config: optional(object, undefined),
}))

const knownText = (all: readonly Pick<ConfigReader, 'modelType' | 'architecture'>[]): string => all.map(({ modelType, architecture }) => `${modelType} (${architecture})`).join(', ')

/** Finds the reader by model_type, or by the class name where an old file has no model_type. */
function findReader(where: string, modelType: string | undefined, architectures: readonly string[]): ConfigReader {
  const byClass = readers.find((reader) => architectures.some((name) => name.toLowerCase() === reader.architecture.toLowerCase()))
  const reader = modelType === undefined ? byClass : readers.find((one) => one.modelType === modelType)
  if (!reader) {
    const encoder = encoderOf(modelType, architectures)
    if (encoder) throw new ConfigError(`${where}: ${encoder.modelType} is an encoder, which predicts masked tokens, but a causal language model is needed here; train it with mlm: true, as a classifier or as a reward model, or take a decoder`)
    const known = knownText([...readers])
    const [key, got, names] = modelType === undefined
      ? ['architectures', architectures, readers.map((one) => one.architecture)] as const
      : ['model_type', modelType, readers.map((one) => one.modelType)] as const
    return refuse(where, key, `a model anneal knows: ${known}`, got, didYouMean([got].flat()[0] ?? '', names))
  }
  if (architectures.length && !byClass) refuse(where, 'architectures', `${reader.architecture}, the causal language model of ${reader.modelType}`, architectures)
  if (byClass && byClass !== reader) {
    throw new ConfigError(`${where}: model_type ${JSON.stringify(modelType)} and architectures ${JSON.stringify(architectures)} contradict each other`)
  }
  return reader
}

/**
 * Checks config.json and returns it typed. Unknown keys are kept in `raw`; `auto_map` never runs code. `where` names the source in errors.
 * Throws ConfigError naming the field, what was expected and what was found.
 */
export function parseConfig(raw: RawConfig, where = 'config'): ModelConfig {
  const { model_type: modelType, architectures, quantization_config: quantization } = parseFields(head, raw, where)
  const reader = findReader(where, modelType, architectures ?? [])
  if (quantization) parseStoredQuantization(quantization, where)
  return reader.read(raw, where)
}

/** The same of an encoder, whichever head its class has. */
export function parseEncoderConfig(raw: RawConfig, where = 'config'): EncoderConfig {
  const { model_type: modelType, architectures, quantization_config: quantization } = parseFields(head, raw, where)
  const reader = encoderOf(modelType, architectures ?? [])
  if (!reader) {
    const decoder = readers.find((one) => one.modelType === modelType || architectures?.includes(one.architecture))
    if (decoder) throw new ConfigError(`${where}: ${decoder.modelType} is a causal language model, which cannot see the tokens after a mask, but an encoder is needed here: ${knownText(encoderReaders)}`)
    return refuse(where, 'model_type', `an encoder anneal knows: ${knownText(encoderReaders)}`, modelType ?? architectures, didYouMean(modelType ?? '', encoderReaders.map((one) => one.modelType)))
  }
  if (architectures?.length && !encoderOf(undefined, architectures)) {
    throw new ConfigError(`${where}: model_type ${JSON.stringify(modelType)} and architectures ${JSON.stringify(architectures)} contradict each other`)
  }
  if (quantization) throw new ConfigError(`${where}: quantization_config: expected an encoder that is not quantised; fetch the model before it was`)
  return reader.read(raw, where)
}

/** Reads and checks config.json of a Hugging Face folder with a causal language model. */
export async function readConfig(folder: string): Promise<ModelConfig> {
  const path = join(folder, 'config.json')
  return parseConfig(await readModelJson(folder, path), path)
}

/** config.json; a name that stands for a model of the Hugging Face Hub is told how to become a folder. */
async function readModelJson(folder: string, path: string): ReturnType<typeof readJsonObject> {
  if (/^[\w-][\w.-]*\/[\w.-]+$/.test(folder) && !await access(folder).then(() => true, () => false)) {
    throw new FileAccessError(`${folder}: there is no such folder. Models are read from disk; one of the Hugging Face Hub comes there with: hf download ${folder} --local-dir ${basename(folder)}`)
  }
  return readJsonObject(path)
}

/** The same of an encoder. */
export async function readEncoderConfig(folder: string): Promise<EncoderConfig> {
  const path = join(folder, 'config.json')
  return parseEncoderConfig(await readModelJson(folder, path), path)
}

/** Option names for a new model: config.json's keys in camelCase, such as `hiddenSize`, or as they stand there. */
export type ConfigOptions = Readonly<Record<string, unknown>> & { readonly modelType?: string }

const snakeCase = (key: string): string => key.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)

function toRaw(value: unknown): JsonValue | undefined {
  if (Array.isArray(value)) return value.map((one) => toRaw(one) ?? null)
  if (typeof value === 'object' && value !== null) {
    const result: { [key: string]: JsonValue } = {}
    for (const [key, one] of Object.entries(value)) {
      const converted = toRaw(one)
      if (converted !== undefined) result[snakeCase(key)] = converted
    }
    return result
  }
  return value as JsonValue | undefined
}

/**
 * The config of a new model: `createConfig({ modelType: 'llama', vocabSize: 8192, hiddenSize: 256, intermediateSize: 688, numHiddenLayers: 4,
 * numAttentionHeads: 4 })`. Everything left out has transformers' default.
 */
export function createConfig(options: ConfigOptions): ModelConfig {
  return parseConfig(toRaw(options) as RawConfig, 'config')
}

/** The config of a new encoder: `createEncoderConfig({ modelType: 'bert', vocabSize: 30522, hiddenSize: 256, … })`. */
export function createEncoderConfig(options: ConfigOptions): EncoderConfig {
  return parseEncoderConfig(toRaw(options) as RawConfig, 'config')
}

/** Those of Gemma 3 alone. */
const gemmaKeys = ({ raw, slidingWindows }: DecoderConfig, localRope: RopeConfig): { [key: string]: JsonValue } => ({
  hidden_activation: raw.hidden_activation ?? 'gelu_pytorch_tanh', query_pre_attn_scalar: raw.query_pre_attn_scalar ?? 256, sliding_window: raw.sliding_window ?? 4096,
  layer_types: slidingWindows.map((window) => (window > 0 ? 'sliding_attention' : 'full_attention')),
  ...(raw.rope_parameters ? {} : { rope_local_base_freq: localRope.theta }),
})

/** The keys that decide how the model computes, under config.json's names, so that another version's defaults cannot change it. */
function decidingKeys(config: AnyModelConfig): { [key: string]: JsonValue } {
  const shared = { vocab_size: config.vocabSize, initializer_range: config.initializerRange, tie_word_embeddings: config.tieWordEmbeddings }
  if (config.kind === 'gpt2') {
    return {
      ...shared, n_positions: config.maxPositionEmbeddings, n_embd: config.hiddenSize, n_layer: config.numHiddenLayers, n_head: config.numAttentionHeads,
      n_inner: config.intermediateSize, layer_norm_epsilon: config.layerNormEpsilon, activation_function: config.raw.activation_function ?? 'gelu_new',
      resid_pdrop: config.residPdrop, embd_pdrop: config.embdPdrop, attn_pdrop: config.attentionDropout,
    }
  }
  if (config.kind === 'encoder') {
    return {
      ...shared, hidden_size: config.hiddenSize, num_hidden_layers: config.numHiddenLayers, num_attention_heads: config.numAttentionHeads,
      intermediate_size: config.intermediateSize, hidden_act: config.raw.hidden_act ?? 'gelu', hidden_dropout_prob: config.hiddenDropoutProb,
      attention_probs_dropout_prob: config.attentionDropout, max_position_embeddings: config.maxPositionEmbeddings + config.positionOffset,
      type_vocab_size: config.typeVocabSize, layer_norm_eps: config.layerNormEps, pad_token_id: config.padTokenId ?? null,
    }
  }
  const { raw } = config
  return {
    ...shared, num_key_value_heads: config.numKeyValueHeads, head_dim: config.headDim,
    ...(config.localRope ? gemmaKeys(config, config.localRope) : { hidden_act: raw.hidden_act ?? 'silu' }),
    max_position_embeddings: config.maxPositionEmbeddings, rms_norm_eps: config.rmsNormEps, attention_dropout: config.attentionDropout,
    ...(raw.rope_parameters ? {} : { rope_theta: config.rope.theta }),
  }
}

/** config.json to write: the source's keys, unknown ones too, the class transformers loads it with, and `dtype` of the weights. */
export function configToJson(config: AnyModelConfig, dtype: string): { [key: string]: JsonValue } {
  const source = Object.entries(config.raw).filter(([key]) => !(config.kind === 'gpt2' && isGpt2Alias(key)))
  const result: { [key: string]: JsonValue } = {
    ...Object.fromEntries(source), ...decidingKeys(config), model_type: config.modelType, architectures: [config.architecture],
    [config.raw.torch_dtype === undefined ? 'dtype' : 'torch_dtype']: dtype,
  }
  return Object.fromEntries(Object.entries(result).sort(([a], [b]) => (a < b ? -1 : 1)))
}
