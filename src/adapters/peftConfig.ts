import { FileFormatError } from '../errors.ts'
import type { JsonValue } from '../files/index.ts'
import { didYouMean } from '../suggest.ts'
import type { AdapterOptions } from './options.ts'

type Json = Readonly<Record<string, JsonValue>>

/** What PEFT calls each kind; those it does not have are anneal's own. */
const peftTypes = { lora: 'LORA', ia3: 'IA3', lntuning: 'LN_TUNING', prefix: 'PREFIX_TUNING', prompt: 'PROMPT_TUNING', ptuning: 'P_TUNING', bottleneck: 'BOTTLENECK', bitfit: 'BITFIT', freeze: 'FREEZE' } as const satisfies Record<AdapterOptions['type'], string>

/** Options that are no keys of adapter_config.json: they are about training, not about what was trained. */
const unwritten = new Set(['type', 'loraplusLrRatio'])

/** Keys that say nothing about the numbers. */
const informative = new Set([
  'peft_type', 'peft_version', 'auto_mapping', 'base_model_name_or_path', 'revision', 'task_type', 'inference_mode', 'fan_in_fan_out', 'loftq_config', 'megatron_core', 'qalora_group_size',
  'num_attention_heads', 'num_layers', 'token_dim', 'tokenizer_kwargs',
])

/** Keys of features that anneal lacks, which is no harm while they are off. */
const off: Readonly<Record<string, readonly string[]>> = {
  LORA: [
    'alora_invocation_tokens', 'arrow_config', 'corda_config', 'ensure_weight_tying', 'eva_config', 'kasa_config', 'layer_replication', 'lora_bias', 'lora_ga_config', 'megatron_config',
    'monteclora_config', 'target_parameters', 'use_bdlora', 'use_qalora', 'velora_config',
  ],
  PREFIX_TUNING: ['modules_to_save', 'num_transformer_submodules'],
  PROMPT_TUNING: ['modules_to_save', 'num_transformer_submodules'],
  P_TUNING: ['modules_to_save', 'num_transformer_submodules'],
}

const toSnake = (name: string): string => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)
// Two submodules are encoder and decoder.
const isOff = (key: string, value: JsonValue): boolean => (key === 'num_transformer_submodules' && value === 1) || value === null || value === false || (Array.isArray(value) && value.length === 0)

/** What adapter_config.json says of an adapter, keys sorted as PEFT writes them. */
export function toPeftConfig(options: AdapterOptions, extra: Readonly<Record<string, JsonValue>>): Record<string, JsonValue> {
  const own = Object.entries(options).flatMap(([name, value]): [string, JsonValue][] =>
    unwritten.has(name) || value === undefined ? [] : [[toSnake(name), name === 'modulesToSave' && (value as unknown[]).length === 0 ? null : value as JsonValue]])
  const all: [string, JsonValue][] = [...own, ...Object.entries({ peft_type: peftTypes[options.type], inference_mode: true, ...extra })]
  return Object.fromEntries(all.sort(([a], [b]) => (a < b ? -1 : 1)))
}

/** The options that an adapter_config.json means, and warnings about keys that say nothing to anneal. */
export function fromPeftConfig(json: Json, path: string, namesOf: (type: string) => readonly string[]): { input: Record<string, unknown>, warnings: string[] } {
  const peftType = json['peft_type']
  const type = Object.entries(peftTypes).find(([, name]) => name === peftType)?.[0]
  if (type === undefined) {
    throw new FileFormatError(`${path}: peft_type: expected ${Object.values(peftTypes).join(', ')}, got ${JSON.stringify(peftType)}${typeof peftType === 'string' ? didYouMean(peftType, Object.values(peftTypes)) : ''}`)
  }
  const known = new Map(namesOf(type).filter((name) => !unwritten.has(name)).map((name) => [toSnake(name), name]))
  const input: Record<string, unknown> = { type }
  const warnings: string[] = []
  for (const [key, value] of Object.entries(json)) {
    const name = known.get(key)
    if (name !== undefined) {
      if (value !== null) input[name] = name === 'modulesToSave' ? [...new Set(value as string[])] : value
    } else if (off[peftType as string]?.includes(key)) {
      if (!isOff(key, value)) throw new FileFormatError(`${path}: ${key}: anneal cannot apply this yet (it is ${JSON.stringify(value)}); merge the adapter with PEFT and load the merged model`)
    } else if (!informative.has(key)) {
      warnings.push(`${path}: ${key} is unknown and has no effect${didYouMean(key, known.keys())}`)
    }
  }
  return { input, warnings }
}
