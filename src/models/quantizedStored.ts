import { z } from 'zod'
import { ConfigError } from '../errors.ts'
import { lazily } from '../options.ts'
import { flag, object, optional, parseFields, refuse, text, type RawConfig } from './configs/common.ts'
import { weightFormats, type WeightFormat } from './quantizedConfig.ts'

const gptqBits = [2, 3, 4, 8] as const
/** The lengths of GPTQ's codes that are read. */
export type GptqBits = (typeof gptqBits)[number]
/** How zero points are stored: as they are (gptq_v2); as one less (gptq); or less what GPTQModel before 7 subtracted from the words of 3 bits. */
export type GptqZeros = 'plain' | 'lessOne' | 'lessWords'

/** How the layers of a checkpoint lie in the file. */
export type StoredLayerFormat =
  | { readonly method: 'bitsandbytes' }
  | { readonly method: 'gptq', readonly bits: GptqBits, readonly groupSize: number, readonly zeros: GptqZeros, /** Whether inputs may be in groups in any order. */ readonly actOrder: boolean }
  | { readonly method: 'awq', readonly groupSize: number }

/** How anneal has saved a quantised head. */
export interface StoredHead { readonly format: WeightFormat, readonly block: number, /** Of the embeddings' rows, where they share it. */ readonly dtype: 'float32' | 'bfloat16' }

/** What `quantization_config` of a checkpoint's config.json says about how its weights lie in the file. */
export interface StoredQuantization { readonly layers: StoredLayerFormat | undefined, readonly head: StoredHead | undefined }

const whole = lazily(() => z.custom<number>((value) => typeof value === 'number' && Number.isSafeInteger(value), { error: 'a whole number' }))
const fields = lazily(() => z.object({
  quant_method: optional(text, undefined),
  load_in_4bit: optional(flag, false),
  load_in_8bit: optional(flag, false),
  bits: optional(whole, 4),
  group_size: optional(whole, 128),
  checkpoint_format: optional(text, 'gptq'),
  desc_act: optional(flag, false),
  meta: optional(object, {}),
  version: optional(text, 'gemm'),
}))
const ownFields = lazily(() => z.object({ layers: optional(object, undefined), head: object }))
const headFields = lazily(() => z.object({
  format: z.enum(weightFormats, { error: weightFormats.join(', ') }), block: z.int({ error: 'a whole number of 2 or more' }).min(2, { error: 'a whole number of 2 or more' }),
  dtype: z.enum(['float32', 'bfloat16'], { error: 'float32 or bfloat16' }),
}))

const within = 'quantization_config'
const instead = '; fetch the model before it was quantized, and quantize it with anneal'

/** Checks `quantization_config`. Throws ConfigError naming the field where anneal does not read such weights. */
export function parseStoredQuantization(raw: RawConfig, where: string): StoredQuantization {
  if (raw['quant_method'] !== 'anneal') return { layers: parseLayers(raw, where, within), head: undefined }
  const { layers, head } = parseFields(ownFields, raw, where, within)
  return { layers: layers && parseLayers(layers, where, `${within}.layers`), head: parseFields(headFields, head, where, `${within}.head`) }
}

function parseLayers(raw: RawConfig, where: string, within: string): StoredLayerFormat {
  const read = parseFields(fields, raw, where, within)
  const method = read.quant_method ?? (read.load_in_4bit || read.load_in_8bit ? 'bitsandbytes' : undefined)
  const field = (name: string): string => `${within}.${name}`
  const groupSize = (): number => {
    const { group_size: size } = read
    return size === -1 || size > 0 ? size : refuse(where, field('group_size'), 'a number above 0, or -1 for a whole row', size)
  }
  if (method === 'bitsandbytes') {
    if (!read.load_in_4bit && !read.load_in_8bit) refuse(where, field('load_in_4bit'), 'true, or load_in_8bit: true', raw.load_in_4bit, instead)
    return { method }
  }
  if (method === 'gptq') {
    const { checkpoint_format: format, meta } = read
    const bits = gptqBits.find((one) => one === read.bits) ?? refuse(where, field('bits'), '2, 3, 4 or 8', read.bits, instead)
    if (format !== 'gptq' && format !== 'gptq_v2') refuse(where, field('checkpoint_format'), 'gptq or gptq_v2', format, instead)
    const zeros = format === 'gptq_v2' ? 'plain' : bits === 3 && isOfOldGptqModel(meta) ? 'lessWords' : 'lessOne'
    return { method, bits, groupSize: groupSize(), zeros, actOrder: read.desc_act }
  }
  if (method === 'awq') {
    if (read.bits !== 4) refuse(where, field('bits'), '4', read.bits, instead)
    if (read.version.toLowerCase() !== 'gemm') refuse(where, field('version'), 'gemm', read.version, instead)
    return { method, groupSize: groupSize() }
  }
  throw new ConfigError(`${where}: ${field('quant_method')}: expected bitsandbytes, gptq or awq, got ${JSON.stringify(method ?? null)}${instead}`)
}

/** Whether the file was made by GPTQModel before version 7, which names itself in `meta`: {"quantizer": ["optimum:1.27.0", "gptqmodel:4.2.5"]}. */
function isOfOldGptqModel({ quantizer }: RawConfig): boolean {
  const makers: readonly unknown[] = Array.isArray(quantizer) ? quantizer : [quantizer]
  return makers.some((maker) => {
    const version = typeof maker === 'string' ? /^gptqmodel:(\d+)/i.exec(maker) : null
    return version !== null && Number(version[1]) < 7
  })
}
