import { ConfigError, FileFormatError } from '../../errors.ts'
import { parseConfig, type ModelConfig, type RopeConfig } from '../../models/index.ts'
import type { JsonValue } from '../../files/index.ts'
import { tensorPlan } from './tensors.ts'
import { ropeFactorsName } from './rope.ts'
import type { GgufFile } from './reader.ts'

type Raw = { [key: string]: JsonValue }

const architectures = ['gpt2', 'llama', 'qwen2', 'qwen3']

/** Typed look-ups in the metadata of a file. */
export class Metadata {
  readonly #file: GgufFile

  constructor(file: GgufFile) { this.#file = file }

  #wrong(key: string, expected: string, got: unknown): never {
    throw new FileFormatError(`${this.#file.path}: ${key}: expected ${expected}, got ${got === undefined ? 'nothing' : typeof got}; the file is not a model as llama.cpp reads it`)
  }

  optional<T extends 'number' | 'string' | 'boolean'>(key: string, type: T): { number: number, string: string, boolean: boolean }[T] | undefined {
    const found = this.#file.metadata.get(key)
    if (found === undefined) return undefined
    const value = typeof found.value === 'bigint' ? Number(found.value) : found.value
    return typeof value === type ? value as { number: number, string: string, boolean: boolean }[T] : this.#wrong(key, `a ${type}`, value)
  }

  number(key: string): number { return this.optional(key, 'number') ?? this.#wrong(key, 'a number', undefined) }
  string(key: string): string { return this.optional(key, 'string') ?? this.#wrong(key, 'a string', undefined) }

  list<T extends 'number' | 'string' | 'boolean'>(key: string, type: T): { number: number, string: string, boolean: boolean }[T][] | undefined {
    const found = this.#file.metadata.get(key)
    if (found === undefined) return undefined
    if (found.type !== 'array') return this.#wrong(key, `a list of ${type}s`, found.value)
    return found.value.map((one) => (typeof one === type ? one as { number: number, string: string, boolean: boolean }[T] : this.#wrong(key, `a list of ${type}s`, one)))
  }
}

/** rope_parameters of a decoder. rope_freqs is LongRoPE with one list for all lengths. */
async function readRope(file: GgufFile, arch: string, context: number): Promise<Raw> {
  const metadata = new Metadata(file)
  const key = (name: string) => `${arch}.rope.${name}`
  const type: string = metadata.optional(key('scaling.type'), 'string') ?? 'none'
  const base: Raw = { rope_type: 'default' satisfies RopeConfig['type'], rope_theta: metadata.optional(key('freq_base'), 'number') ?? 10_000 }
  if (file.tensors.has(ropeFactorsName)) {
    if (type !== 'none') throw new ConfigError(`${file.path}: ${key('scaling.type')}: expected none beside ${ropeFactorsName}, got ${JSON.stringify(type)}`)
    const factors = [...await file.read(ropeFactorsName)]
    return { ...base, rope_type: 'longrope', short_factor: factors, long_factor: factors, attention_factor: 1, factor: 1, original_max_position_embeddings: context }
  }
  const factor = () => metadata.number(key('scaling.factor'))
  switch (type) {
    case 'none': return base
    case 'linear': return { ...base, rope_type: 'linear', factor: factor() }
    case 'yarn': return {
      ...base, rope_type: 'yarn', factor: factor(), original_max_position_embeddings: metadata.number(key('scaling.original_context_length')),
      beta_fast: metadata.optional(key('scaling.yarn_beta_fast'), 'number') ?? 32, beta_slow: metadata.optional(key('scaling.yarn_beta_slow'), 'number') ?? 1,
    }
    default: throw new ConfigError(`${file.path}: ${key('scaling.type')}: expected none, linear or yarn, got ${JSON.stringify(type)}`)
  }
}

function readWindows(file: GgufFile, arch: string, layers: number): Raw {
  const metadata = new Metadata(file)
  const window = metadata.optional(`${arch}.attention.sliding_window`, 'number')
  if (window === undefined || window === 0) return arch === 'llama' ? {} : { use_sliding_window: false }
  const pattern = metadata.list(`${arch}.attention.sliding_window_pattern`, 'boolean') ?? Array.from({ length: layers }, () => true)
  if (arch === 'llama') return { sliding_window: window }
  return { use_sliding_window: true, sliding_window: window, layer_types: pattern.map((local) => (local ? 'sliding_attention' : 'full_attention')) }
}

/** The fields of config.json that the file's metadata and tensors stand for. */
async function readRaw(file: GgufFile): Promise<Raw> {
  const metadata = new Metadata(file)
  const arch = metadata.string('general.architecture')
  if (!architectures.includes(arch)) throw new ConfigError(`${file.path}: general.architecture: expected ${architectures.join(', ')}, got ${JSON.stringify(arch)}`)
  const get = (name: string) => metadata.number(`${arch}.${name}`)
  const context = get('context_length')
  const ids: Raw = Object.fromEntries((['bos', 'eos', 'padding'] as const).flatMap((name) => {
    const id = metadata.optional(`tokenizer.ggml.${name}_token_id`, 'number')
    return id === undefined ? [] : [[`${name === 'padding' ? 'pad' : name}_token_id`, id]]
  }))
  const shared: Raw = {
    ...ids, tie_word_embeddings: !file.tensors.has('output.weight'),
    vocab_size: metadata.optional(`${arch}.vocab_size`, 'number') ?? file.tensor('token_embd.weight').shape[0]!,
  }
  if (arch === 'gpt2') {
    return {
      ...shared, model_type: 'gpt2', n_positions: context, n_embd: get('embedding_length'), n_layer: get('block_count'), n_head: get('attention.head_count'),
      n_inner: get('feed_forward_length'), layer_norm_epsilon: get('attention.layer_norm_epsilon'),
    }
  }
  const windows = readWindows(file, arch, get('block_count'))
  const rope = await readRope(file, arch, context)
  const heads = get('attention.head_count')
  return {
    ...shared, ...windows, model_type: windows.sliding_window !== undefined && arch === 'llama' ? 'mistral' : arch,
    hidden_size: get('embedding_length'), intermediate_size: get('feed_forward_length'), num_hidden_layers: get('block_count'), num_attention_heads: heads,
    num_key_value_heads: metadata.optional(`${arch}.attention.head_count_kv`, 'number') ?? heads,
    head_dim: metadata.optional(`${arch}.attention.key_length`, 'number') ?? get('embedding_length') / heads,
    // Linear scaling stretches the positions of config.json to the file's context.
    max_position_embeddings: rope.rope_type === 'linear' ? Math.round(context / Number(rope.factor)) : context,
    rms_norm_eps: get('attention.layer_norm_rms_epsilon'), rope_parameters: rope,
    attention_bias: file.tensors.has('blk.0.attn_q.bias'), mlp_bias: file.tensors.has('blk.0.ffn_gate.bias'),
  }
}

/** The config of the model in a file, once every tensor it needs is there in the right shape. */
export async function readGgufConfig(file: GgufFile): Promise<ModelConfig> {
  const config = parseConfig(await readRaw(file), file.path)
  const expected = tensorPlan(config)
  for (const { name, shape } of expected) {
    const found = file.tensor(name)
    if (found.shape.join() !== shape.join()) throw new FileFormatError(`${file.path}: tensor ${JSON.stringify(name)}: expected shape [${shape.join(', ')}], as the metadata says, got [${found.shape.join(', ')}]`)
  }
  const known = new Set([...expected.map(({ name }) => name), ropeFactorsName])
  for (const name of file.tensors.keys()) if (!known.has(name)) throw new FileFormatError(`${file.path}: tensor ${JSON.stringify(name)}: ${config.architecture} has none of that name`)
  return config
}
