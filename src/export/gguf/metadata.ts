import { ConfigError } from '../../errors.ts'
import { contextLength } from '../../generate/index.ts'
import type { DecoderConfig, ModelConfig } from '../../models/index.ts'
import { float32, list, text, uint32, type GgufValue } from './types.ts'
import { ropeMetadata } from './rope.ts'
import { fileTypes, type GgufType } from './tensors.ts'

/** llama.cpp's name for what the model computes: Mistral is its `llama`. */
const architectureOf = (config: ModelConfig): string => (config.modelType === 'mistral' ? 'llama' : config.modelType)

/** Refuses what llama.cpp's graph of this architecture would compute otherwise. */
function checkArchitecture(config: ModelConfig): void {
  const refuse = (key: string, expected: string, got: unknown): never => {
    throw new ConfigError(`${key}: expected ${expected}, as llama.cpp's ${architectureOf(config)} computes, got ${JSON.stringify(got)}; export a Hugging Face folder instead`)
  }
  if (config.kind === 'gpt2') {
    if (config.hiddenAct !== 'gelu_tanh') refuse('activation_function', '"gelu_new"', config.hiddenAct)
    if (!config.scaleAttnWeights) refuse('scale_attn_weights', 'true', false)
    if (config.scaleAttnByInverseLayerIdx) refuse('scale_attn_by_inverse_layer_idx', 'false', true)
    return
  }
  if (config.modelType === 'gemma3_text') throw new ConfigError('model_type: expected gpt2, llama, mistral, qwen2 or qwen3, which anneal writes as GGUF, got "gemma3_text"; export a Hugging Face folder instead')
  if (config.hiddenAct !== 'silu') refuse('hidden_act', '"silu"', config.hiddenAct)
  if (config.modelType === 'qwen3' && config.qkvBias) refuse('attention_bias', 'false', true)
}

/** The window of a model's local layers, and whether all layers are local; undefined where none is. */
function windowOf({ slidingWindows }: DecoderConfig): { window: number, everywhere: boolean } | undefined {
  const windows = new Set(slidingWindows.filter((window) => window > 0))
  if (windows.size === 0) return undefined
  return { window: [...windows][0]!, everywhere: slidingWindows.every((window) => window > 0) }
}

function decoderEntries(arch: string, config: DecoderConfig, warnings: string[]): [string, GgufValue][] {
  const entries: [string, GgufValue][] = [
    [`${arch}.attention.head_count_kv`, uint32(config.numKeyValueHeads)],
    [`${arch}.attention.key_length`, uint32(config.headDim)],
    [`${arch}.attention.value_length`, uint32(config.headDim)],
    [`${arch}.attention.layer_norm_rms_epsilon`, float32(config.rmsNormEps)],
    ...ropeMetadata(arch, config, warnings),
  ]
  const local = windowOf(config)
  if (local) {
    warnings.push(`llama.cpp's ${arch} has no sliding window: beyond ${local.window} tokens it attends to more than the model was trained to`)
    entries.push([`${arch}.attention.sliding_window`, uint32(local.window)])
    if (!local.everywhere) entries.push([`${arch}.attention.sliding_window_pattern`, list('bool', config.slidingWindows.map((window) => window > 0))])
  }
  return entries
}

export interface ModelMetadataOptions {
  readonly type: GgufType
  readonly name: string
}

/** The keys that say what the model is, in the order llama.cpp's converter writes them. What the format cannot say is added to `warnings`. */
export function modelMetadata(config: ModelConfig, { type, name }: ModelMetadataOptions, warnings: string[]): Map<string, GgufValue> {
  checkArchitecture(config)
  const arch = architectureOf(config)
  return new Map<string, GgufValue>([
    ['general.architecture', text(arch)],
    ['general.type', text('model')],
    ['general.name', text(name)],
    [`${arch}.block_count`, uint32(config.numHiddenLayers)],
    // Positions that dynamic scaling alone reaches have other frequencies than the file can say.
    [`${arch}.context_length`, uint32(config.kind === 'decoder' && config.rope.type === 'linear' ? contextLength(config) : config.maxPositionEmbeddings)],
    [`${arch}.embedding_length`, uint32(config.hiddenSize)],
    [`${arch}.feed_forward_length`, uint32(config.intermediateSize)],
    [`${arch}.vocab_size`, uint32(config.vocabSize)],
    [`${arch}.attention.head_count`, uint32(config.numAttentionHeads)],
    ...(config.kind === 'gpt2' ? [[`${arch}.attention.layer_norm_epsilon`, float32(config.layerNormEpsilon)]] as [string, GgufValue][] : decoderEntries(arch, config, warnings)),
    ['general.file_type', uint32(fileTypes[type])],
    ['general.quantization_version', uint32(2)],
  ])
}
