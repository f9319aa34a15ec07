import { ConfigError, KernelError, NonFiniteError } from '../errors.ts'
import { Conv1D, Linear, matchesName, NestedScales, QuantizedLinear, type RowMaxima, type LinearLayer, type Module } from '../nn/index.ts'
import { quantize, QuantizedTensor, transpose } from '../ops/index.ts'
import { noGrad, scope, Tensor, unscoped } from '../tensor/index.ts'
import { didYouMean } from '../suggest.ts'
import type { PretrainedModel } from './pretrainedModel.ts'
import type { QuantizationConfig } from './quantizedConfig.ts'

/** A quantised weight [out, in], and its scales as bitsandbytes saves them where they were quantised too, or are LLM.int8()'s. */
export interface QuantizedWeight { weight: QuantizedTensor, nested: NestedScales | RowMaxima | null }

/** Every linear layer of the model but its head, by name, plain or quantised. */
export function linearLayers(model: PretrainedModel): Map<string, LinearLayer> {
  const layers = new Map<string, LinearLayer>()
  const head = model.getOutputEmbeddings()
  for (const [name, module] of model.namedModules()) {
    if (module !== head && (module instanceof Linear || module instanceof Conv1D || module instanceof QuantizedLinear)) layers.set(name, module)
  }
  return layers
}

/** Whether transformers' list of modules to leave alone means this one: by its whole name, by its last parts, or by those before. */
const isSkipped = (name: string, pattern: string): boolean => matchesName(pattern, name) || `.${name}.`.includes(`.${pattern}.`)

/** The layers that a config quantises. Throws ConfigError where a name in skipModules means none, or a block does not fit. */
export function layersToQuantize(model: PretrainedModel, { format, block, skipModules }: QuantizationConfig): Map<string, Linear | Conv1D> {
  const layers = linearLayers(model)
  for (const pattern of skipModules) {
    if (pattern === 'lm_head' || [...layers.keys()].some((name) => isSkipped(name, pattern))) continue
    const parts = new Set([...layers.keys()].flatMap((name) => [name, name.split('.').at(-1)!]))
    throw new ConfigError(`quantize.skipModules: no linear layer is named ${JSON.stringify(pattern)}${didYouMean(pattern, parts)}; the layers are ${[...parts].filter((part) => !part.includes('.')).join(', ')}`)
  }
  const chosen = new Map<string, Linear | Conv1D>()
  for (const [name, layer] of layers) {
    if (skipModules.some((pattern) => isSkipped(name, pattern))) continue
    if (layer instanceof QuantizedLinear) throw new ConfigError(`quantize: ${name} is quantised already, as ${layer.weight.format}; start from the model before it was quantised, or call dequantizeModel() first`)
    const given = layer as Linear | Conv1D
    if ((format === 'int4' || format === 'int8') && given.inFeatures % (block ?? given.inFeatures) !== 0) {
      throw new ConfigError(`quantize.block: expected a divisor of the ${given.inFeatures} inputs of ${name}, got ${block}; choose another block, or leave the layer out with skipModules`)
    }
    chosen.set(name, given)
  }
  return chosen
}

/** What int4 takes where no block is given: one for all layers, as GPTQ files have it. */
const usualInt4Blocks = [128, 64, 32, 16] as const

/** The largest usual block that divides the inputs of every layer. Throws ConfigError naming the layer that none divides. */
export function blockOfInt4(layers: readonly (readonly [name: string, inputs: number])[], field: 'block' | 'headBlock'): number {
  const block = usualInt4Blocks.find((size) => layers.every(([, inputs]) => inputs % size === 0))
  if (block !== undefined) return block
  const [name, inputs] = layers.find(([, one]) => one % 16 !== 0)!
  const instead = field === 'block' ? 'leave the layer out with skipModules' : "head: 'int8', which has a scale for each row"
  throw new ConfigError(`quantize.${field}: none of ${usualInt4Blocks.join(', ')} divides the ${inputs} inputs of ${name}; choose a block that does, or ${instead}`)
}

/** The config with the block that int4 takes where none was given. */
export function withBlock(model: PretrainedModel, config: QuantizationConfig): QuantizationConfig {
  if (config.format !== 'int4' || config.block !== undefined) return config
  return { ...config, block: blockOfInt4([...layersToQuantize(model, config)].map(([name, { inFeatures }]) => [name, inFeatures]), 'block') }
}

/** W [out, in] of a layer's stored weight: GPT-2 stores its transpose. The result is `weight` itself or a new tensor. */
export const outputsFirst = (layer: LinearLayer, weight: Tensor): Tensor => (layer instanceof Conv1D ? unscoped(() => noGrad(() => transpose(weight))) : weight)

/** Rounds W [out, in] to the nearest codes. Throws NonFiniteError naming the tensor. */
export async function quantizeWeight(weight: Tensor, { format, block = weight.dim(-1), doubleQuant, zeroPoints }: QuantizationConfig, name: string): Promise<QuantizedWeight> {
  const rounded = unscoped(() => quantize(weight, { format, block, zeroPoints }))
  try {
    await weight.device.fence()
    if (format === 'int4' || format === 'int8') return { weight: withHalfScales(rounded), nested: null }
    return doubleQuant ? await doubleQuantized(rounded) : { weight: rounded, nested: null }
  } catch (error) {
    rounded.dispose()
    if (!(error instanceof KernelError)) throw error
    throw new NonFiniteError(`${name}: ${error.message}; check the checkpoint, or leave the layer out with skipModules`)
  }
}

/** The same codes with scales rounded to float16, which is how GPTQ files hold them. */
function withHalfScales({ shape, format, block, codes, scales, zeros }: QuantizedTensor): QuantizedTensor {
  const rounded = unscoped(() => scope(() => scales.copyAs('float16').copyAs('float32')))
  scales.dispose()
  return new QuantizedTensor(shape, format, block, codes, rounded, zeros)
}

async function doubleQuantized({ shape, format, block, codes, scales }: QuantizedTensor): Promise<QuantizedWeight> {
  const nested = await NestedScales.of(scales)
  const values = unscoped(() => Tensor.from(nested.values(), scales.shape, { device: scales.device }))
  scales.dispose()
  return { weight: new QuantizedTensor(shape, format, block, codes, values), nested }
}

/** Puts quantised weights in the place of a linear layer's; the layer's own weight is released. */
export function replaceByQuantized(model: PretrainedModel, name: string, { weight, nested }: QuantizedWeight): void {
  const layer = model.getModule(name) as Linear | Conv1D | QuantizedLinear
  if (layer instanceof QuantizedLinear) { layer.replaceWeight(weight, nested); return }
  model.replaceModule(name, new QuantizedLinear(weight, layer.bias, nested))
  if (layer.weight.isMaterialised) layer.weight.dispose()
}

/** Bytes of the codes, scales and zero points of a quantised weight as they are saved: GPTQ has float16 scales, and a zero point as long as a code. */
export function savedBytes({ weight, nested }: QuantizedLinear): number {
  const { format, codes, scales } = weight
  if (nested instanceof NestedScales) return codes.size + nested.codes.length + 4 * nested.absmax.length
  if (nested) return codes.size + 4 * scales.size
  if (format === 'int4' || format === 'int8') return codes.size + scales.size * (format === 'int4' ? 2.5 : 3)
  return weight.bytes
}

/** The quantised layers below a module, by name. */
export function quantizedLayers(module: Module): Map<string, QuantizedLinear> {
  const layers = new Map<string, QuantizedLinear>()
  for (const [name, one] of module.namedModules()) if (one instanceof QuantizedLinear) layers.set(name, one)
  return layers
}
