import type { DecoderConfig, Gpt2Config, ModelConfig } from '../../models/index.ts'
import type { TensorFormatName } from './blocks.ts'

/** The dtypes a GGUF file can be written in. */
export const ggufTypes = ['f32', 'f16', 'bf16', 'q8_0', 'q4_0'] as const
/** The name of a type that GGUF's matrices are written in. */
export type GgufType = (typeof ggufTypes)[number]

/** How the rows of a parameter stand in the file: `heads` interleaves the halves of each head, `transpose` swaps the two axes. */
export type Arrangement = { readonly kind: 'plain' } | { readonly kind: 'transpose' } | { readonly kind: 'heads', readonly headDim: number }

/** A parameter of a model and the tensor of the file that holds it. */
export interface TensorPlan {
  readonly name: string
  readonly parameter: string
  /** As it stands in the file, the slowest axis first. */
  readonly shape: readonly number[]
  readonly arrangement: Arrangement
  /** What makes the logits: kept in more bits. */
  readonly isHead?: boolean
  /** Read as float32 by llama.cpp whatever the file's type. */
  readonly alwaysF32?: boolean
}

const plain: Arrangement = { kind: 'plain' }
const transpose: Arrangement = { kind: 'transpose' }

/** llama.cpp's rope of this architecture turns neighbouring entries, transformers' turns entry i with entry i + headDim / 2. */
const interleavesHeads = (config: DecoderConfig): boolean => config.modelType === 'llama' || config.modelType === 'mistral'

function decoderLayer(config: DecoderConfig, layer: number): TensorPlan[] {
  const { hiddenSize, intermediateSize, headDim, numAttentionHeads, numKeyValueHeads, qkvBias, outputBias, mlpBias, qkNorm } = config
  const turned: Arrangement = interleavesHeads(config) ? { kind: 'heads', headDim } : plain
  const [query, keyValue] = [numAttentionHeads * headDim, numKeyValueHeads * headDim]
  const vector = (name: string, parameter: string, size: number, arrangement = plain): TensorPlan =>
    ({ name: `blk.${layer}.${name}`, parameter: `model.layers.${layer}.${parameter}`, shape: [size], arrangement })
  const linear = (name: string, parameter: string, shape: [rows: number, columns: number], bias: boolean, arrangement = plain): TensorPlan[] => [
    { name: `blk.${layer}.${name}.weight`, parameter: `model.layers.${layer}.${parameter}.weight`, shape, arrangement },
    ...(bias ? [vector(`${name}.bias`, `${parameter}.bias`, shape[0], arrangement)] : []),
  ]
  return [
    vector('attn_norm.weight', 'input_layernorm.weight', hiddenSize),
    ...linear('attn_q', 'self_attn.q_proj', [query, hiddenSize], qkvBias, turned),
    ...linear('attn_k', 'self_attn.k_proj', [keyValue, hiddenSize], qkvBias, turned),
    ...linear('attn_v', 'self_attn.v_proj', [keyValue, hiddenSize], qkvBias),
    ...linear('attn_output', 'self_attn.o_proj', [hiddenSize, query], outputBias),
    ...(qkNorm ? [vector('attn_q_norm.weight', 'self_attn.q_norm.weight', headDim), vector('attn_k_norm.weight', 'self_attn.k_norm.weight', headDim)] : []),
    vector('ffn_norm.weight', 'post_attention_layernorm.weight', hiddenSize),
    ...linear('ffn_gate', 'mlp.gate_proj', [intermediateSize, hiddenSize], mlpBias),
    ...linear('ffn_up', 'mlp.up_proj', [intermediateSize, hiddenSize], mlpBias),
    ...linear('ffn_down', 'mlp.down_proj', [hiddenSize, intermediateSize], mlpBias),
  ]
}

function gpt2Layer({ hiddenSize, intermediateSize }: Gpt2Config, layer: number): TensorPlan[] {
  const vector = (name: string, parameter: string, size: number): TensorPlan =>
    ({ name: `blk.${layer}.${name}`, parameter: `transformer.h.${layer}.${parameter}`, shape: [size], arrangement: plain })
  const norm = (name: string, parameter: string) => ['weight', 'bias'].map((part) => vector(`${name}.${part}`, `${parameter}.${part}`, hiddenSize))
  const linear = (name: string, parameter: string, shape: [rows: number, columns: number]): TensorPlan[] => [
    { name: `blk.${layer}.${name}.weight`, parameter: `transformer.h.${layer}.${parameter}.weight`, shape, arrangement: transpose },
    vector(`${name}.bias`, `${parameter}.bias`, shape[0]),
  ]
  return [
    ...norm('attn_norm', 'ln_1'),
    ...linear('attn_qkv', 'attn.c_attn', [3 * hiddenSize, hiddenSize]),
    ...linear('attn_output', 'attn.c_proj', [hiddenSize, hiddenSize]),
    ...norm('ffn_norm', 'ln_2'),
    ...linear('ffn_up', 'mlp.c_fc', [intermediateSize, hiddenSize]),
    ...linear('ffn_down', 'mlp.c_proj', [hiddenSize, intermediateSize]),
  ]
}

/** Every parameter of a model of this config and where llama.cpp looks for it. Tied output weights are left out, as llama.cpp then takes the embeddings. */
export function tensorPlan(config: ModelConfig): TensorPlan[] {
  const { vocabSize, hiddenSize, numHiddenLayers, tieWordEmbeddings } = config
  const table = [vocabSize, hiddenSize]
  const embedding = (parameter: string): TensorPlan => ({ name: 'token_embd.weight', parameter, shape: table, arrangement: plain, isHead: tieWordEmbeddings })
  const layers = Array.from({ length: numHiddenLayers }, (_, layer) => layer)
  const head: TensorPlan[] = tieWordEmbeddings ? [] : [{ name: 'output.weight', parameter: 'lm_head.weight', shape: table, arrangement: plain, isHead: true }]
  const vector = (name: string, parameter: string): TensorPlan => ({ name, parameter, shape: [hiddenSize], arrangement: plain })
  if (config.kind === 'gpt2') {
    return [
      embedding('transformer.wte.weight'),
      { name: 'position_embd.weight', parameter: 'transformer.wpe.weight', shape: [config.maxPositionEmbeddings, hiddenSize], arrangement: plain, alwaysF32: true },
      ...layers.flatMap((layer) => gpt2Layer(config, layer)),
      vector('output_norm.weight', 'transformer.ln_f.weight'), vector('output_norm.bias', 'transformer.ln_f.bias'), ...head,
    ]
  }
  return [embedding('model.embed_tokens.weight'), ...layers.flatMap((layer) => decoderLayer(config, layer)), vector('output_norm.weight', 'model.norm.weight'), ...head]
}

const formats: Readonly<Record<GgufType, TensorFormatName>> = { f32: 'F32', f16: 'F16', bf16: 'BF16', q8_0: 'Q8_0', q4_0: 'Q4_0' }

/** general.file_type of each type. */
export const fileTypes: Readonly<Record<GgufType, number>> = { f32: 0, f16: 1, bf16: 32, q8_0: 7, q4_0: 2 }

/**
 * The format of one tensor in a file of that type: norms, biases and positions stay F32; what makes the logits has 8 bits in a 4-bit file; rows
 * that are no multiple of 32 numbers stay F16.
 */
export function formatOf({ shape, isHead, alwaysF32 }: TensorPlan, type: GgufType): TensorFormatName {
  if (shape.length === 1 || alwaysF32) return 'F32'
  if ((type === 'q8_0' || type === 'q4_0') && shape.at(-1)! % 32 !== 0) return 'F16'
  return type === 'q4_0' && isHead ? 'Q8_0' : formats[type]
}
