import { z } from 'zod'
import { ConfigError } from '../errors.ts'
import { lazily, parseOptions, type OptionsOf } from '../options.ts'

/** The formats of quantised weights. */
export const weightFormats = ['nf4', 'fp4', 'int8', 'int4'] as const
/** The name of a format that the weights of a model can have. */
export type WeightFormat = (typeof weightFormats)[number]

/** How a model's linear layers are quantised: transformers' BitsAndBytesConfig and GPTQConfig in one. */
export const quantizeSchema = lazily(() => z.strictObject({
  format: z.enum(weightFormats).describe('nf4 and fp4 are bitsandbytes\' 4-bit types; int8 and int4 are saved as GPTQ'),
  block: z.int().min(2).optional().describe("Numbers that share a scale: 64 for nf4 and fp4, the largest of 128, 64, 32 and 16 that divides every layer's inputs for int4, a row for int8 where nothing is said"),
  doubleQuant: z.boolean().default(false).describe('nf4 and fp4: save the scales in 8 bits too, 4.127 bits a weight instead of 4.5'),
  zeroPoints: z.boolean().default(false).describe('int4 and int8: a zero point for each block, for weights that are not symmetric about 0'),
  skipModules: z.array(z.string()).default([]).describe('Layers to leave as they are: names such as down_proj or model.layers.0, or patterns with *'),
  head: z.enum(weightFormats).optional().describe('Format of the output layer, and of the embeddings where both are one weight: int8 halves what a new token reads of it. Where nothing is said, it stays as it is'),
  headBlock: z.int().min(2).optional().describe("Numbers of a row of the head that share a scale: a row for int8, 64 for nf4 and fp4, the largest of 128, 64, 32 and 16 that divides its width for int4 where nothing is said"),
}))

/** The option of a command or method: a format alone, or all of it. */
export const quantizeOption = lazily(() => z.union([z.enum(weightFormats), quantizeSchema]))
/** Rounds weights when a model is loaded: a format's name, or a format with its details. */
export type QuantizeOption = OptionsOf<typeof quantizeOption>

/** How a model is quantised. `block` (`headBlock` likewise) is undefined where a whole row shares a scale, and of an int4 model that is still to be quantised, where nothing is said. */
export type QuantizationConfig = z.output<typeof quantizeSchema>

const usualBlocks: Readonly<Record<WeightFormat, number | undefined>> = { nf4: 64, fp4: 64, int4: undefined, int8: undefined }

/** Checks the option and fills in what is left out. Throws ConfigError naming the field. */
export function resolveQuantization(option: QuantizeOption): QuantizationConfig {
  const given = parseOptions(quantizeSchema, typeof option === 'string' ? { format: option } : option, 'quantize')
  const { format, block = usualBlocks[format], doubleQuant, zeroPoints, skipModules, head, headBlock = head && usualBlocks[head] } = given
  const refuse = (field: string, problem: string): never => { throw new ConfigError(`quantize.${field}: ${problem}`) }
  const isBitsandbytes = (one: WeightFormat): boolean => one === 'nf4' || one === 'fp4'
  const checkBlock = (field: string, one: WeightFormat, size: number | undefined): void => {
    if (size === undefined) return
    if (isBitsandbytes(one) && !(Number.isInteger(Math.log2(size)) && size >= 32 && size <= 4096)) refuse(field, `expected a power of two from 32 to 4096, as bitsandbytes has, got ${size}`)
    if (one === 'int4' && size % 2 !== 0) refuse(field, `expected an even number for int4, got ${size}`)
  }
  if (doubleQuant && !isBitsandbytes(format)) refuse('doubleQuant', `expected format nf4 or fp4, got ${format}`)
  if (zeroPoints && isBitsandbytes(format)) refuse('zeroPoints', `expected format int4 or int8, got ${format}`)
  checkBlock('block', format, block)
  if (head === undefined) {
    if (headBlock !== undefined) refuse('headBlock', 'expected head beside it, got none; headBlock is for the output layer')
    return { ...given, block }
  }
  checkBlock('headBlock', head, headBlock)
  if (skipModules.includes('lm_head')) refuse('head', `skipModules names lm_head, which head: '${head}' quantises; leave one of them out`)
  return { ...given, block, headBlock }
}
