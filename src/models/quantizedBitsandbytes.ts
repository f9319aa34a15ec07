import { z } from 'zod'
import { FileFormatError } from '../errors.ts'
import { parseJson, type CheckpointTensor, type JsonValue, type TensorSource } from '../files/index.ts'
import { codeBook, NestedScales, type QuantizedLinear } from '../nn/index.ts'
import { QuantizedTensor } from '../ops/index.ts'
import { Tensor, unscoped, type Device } from '../tensor/index.ts'
import type { QuantizationConfig } from './quantizedConfig.ts'
import type { QuantizedWeight } from './quantizedLayers.ts'
import { placeOfTensor, readBytes, shapeText, tensorSource } from '../files/tensorFiles.ts'
import { lazily } from '../options.ts'

// How transformers and bitsandbytes save a Linear4bit: codes under the weight's name, and its state in tensors named below it.

const whole = lazily(() => z.int().min(1))
const state = lazily(() => z.object({
  quant_type: z.enum(['nf4', 'fp4']), blocksize: whole, shape: z.array(whole).length(2),
  nested_blocksize: whole.optional(), nested_offset: z.number().optional(),
}))

const stateKeys = ['quant_state.bitsandbytes__nf4', 'quant_state.bitsandbytes__fp4'] as const

/** The tensors of a layer by their names after `layer.`. */
export type LayerTensors = ReadonlyMap<string, CheckpointTensor>

/** Whether these are the tensors of a Linear4bit. */
export const isBitsandbytes = (tensors: LayerTensors): boolean => stateKeys.some((key) => tensors.has(`weight.${key}`))

const bytesOfEntry = (entry: CheckpointTensor, name: string): Promise<Uint8Array<ArrayBuffer>> => entry.file.readTensorBytes(name)

/** Reads a layer of `shape` [out, in]; `prefix` is its name in the file. Throws FileFormatError naming the tensor that does not fit. */
export async function readBitsandbytes(prefix: string, tensors: LayerTensors, shape: readonly number[], device: Device): Promise<QuantizedWeight> {
  const entryOf = (key: string, byteLength?: number): CheckpointTensor => {
    const entry = tensors.get(key)
    if (!entry) throw new FileFormatError(`${tensors.values().next().value!.file.path}: no tensor ${JSON.stringify(`${prefix}.${key}`)} beside the 4-bit weight; fetch the model again`)
    if (byteLength !== undefined && entry.byteLength !== byteLength) throw new FileFormatError(`${placeOfTensor(entry, `${prefix}.${key}`)}: expected ${byteLength} bytes for a 4-bit weight of shape ${shapeText(shape)}, got ${entry.byteLength}`)
    return entry
  }
  const floats = async (key: string, count: number): Promise<Float32Array> => new Float32Array((await bytesOfEntry(entryOf(key, 4 * count), `${prefix}.${key}`)).buffer)

  const key = stateKeys.map((one) => `weight.${one}`).find((one) => tensors.has(one))!
  const place = placeOfTensor(entryOf(key), `${prefix}.${key}`)
  const parsed = state.safeParse(parseJson(Buffer.from(await bytesOfEntry(entryOf(key), `${prefix}.${key}`)).toString(), place))
  if (!parsed.success) throw new FileFormatError(`${place}: ${parsed.error.issues[0]!.path.join('.')}: ${parsed.error.issues[0]!.message}`)
  const { quant_type: format, blocksize: block, nested_blocksize: nestedBlock = 256, nested_offset: offset = 0 } = parsed.data
  if (parsed.data.shape.join() !== shape.join()) throw new FileFormatError(`${place}: expected shape ${shapeText(shape)}, as config.json says, got ${shapeText(parsed.data.shape)}`)
  const book = await codeBook(format)
  if ((await floats('weight.quant_map', 16)).some((value, code) => value !== book[code])) throw new FileFormatError(`${place}: expected the code book of ${format}, got another; it cannot be read`)

  const size = shape[0]! * shape[1]!
  const blocks = Math.ceil(size / block)
  const isNested = tensors.has('weight.nested_absmax')
  const absmax = entryOf('weight.absmax', isNested ? blocks : 4 * blocks)
  const nested = isNested
    ? new NestedScales(
      await bytesOfEntry(absmax, `${prefix}.weight.absmax`), await floats('weight.nested_absmax', Math.ceil(blocks / nestedBlock)), await floats('weight.nested_quant_map', 256), offset, nestedBlock)
    : null
  const scales = nested ? unscoped(() => Tensor.from(nested.values(), [blocks], { device })) : readBytes(absmax, [blocks], 'float32', device)
  const codes = readBytes(entryOf('weight', Math.ceil(size / 2)), [Math.ceil(size / 2)], 'uint8', device)
  return { weight: rowWise(shape, format, block, codes, scales), nested }
}

/** Flat codes and scales in the shapes of rows, where blocks lie within rows. */
function rowWise(shape: readonly number[], format: 'nf4' | 'fp4', block: number, codes: Tensor, scales: Tensor): QuantizedTensor {
  const [out, columns] = shape as [number, number]
  const inRows = (tensor: Tensor, width: number): Tensor => {
    if (!Number.isInteger(width)) return tensor
    const seen = unscoped(() => tensor.viewAs([out, width]))
    tensor.dispose()
    return seen
  }
  return new QuantizedTensor(shape, format, block, inRows(codes, columns / 2), inRows(scales, columns / block))
}

/** JSON as Python's json.dumps writes it, so that the saved state has the bytes of bitsandbytes. */
const pythonJson = (value: object): string => JSON.stringify(value, undefined, 1).replace(/\n\s*/g, ' ').replace(/([[{]) | ([\]}])/g, '$1$2')

/** The tensors of one layer to write. Scales that changed since they were quantised, as merging an adapter does, are written in float32. */
export async function bitsandbytesSources(name: string, { weight, nested }: QuantizedLinear, dtype: string): Promise<TensorSource[]> {
  const format = weight.format as 'nf4' | 'fp4'
  const values = nested ? await weight.scales.data() : undefined
  const kept = nested instanceof NestedScales && nested.values().every((value, i) => value === values![i]) ? nested : null
  const floats = (key: string, array: Float32Array): TensorSource => ({ name: `${name}.weight.${key}`, dtype: 'F32', shape: [array.length], bytes: new Uint8Array(array.buffer, array.byteOffset, array.byteLength) })
  const bytes = (key: string, array: Uint8Array): TensorSource => ({ name: `${name}.weight.${key}`, dtype: 'U8', shape: [array.length], bytes: array })
  const state = {
    quant_type: format, blocksize: weight.block, dtype, shape: weight.shape,
    ...(kept ? { nested_blocksize: kept.block, nested_dtype: 'float32', nested_offset: kept.offset } : {}),
  }
  return [
    tensorSource(`${name}.weight`, weight.codes, 'uint8', [weight.codes.size, 1]),
    ...(kept
      ? [bytes('absmax', kept.codes), floats('nested_absmax', kept.absmax), floats('nested_quant_map', kept.map)]
      : [tensorSource(`${name}.weight.absmax`, weight.scales, 'float32', [weight.scales.size])]),
    floats('quant_map', await codeBook(format)),
    bytes(`quant_state.bitsandbytes__${format}`, Buffer.from(pythonJson(state))),
  ]
}

/** `quantization_config` of config.json. transformers' llm_int8_threshold is left to its default: it must be 6.0 there, which JSON.stringify cannot write. `skipped` are the linear layers left in full. */
export function bitsandbytesConfig({ format, doubleQuant }: QuantizationConfig, dtype: string, skipped: readonly string[], withHead: boolean): { [key: string]: JsonValue } {
  return {
    quant_method: 'bitsandbytes', load_in_4bit: true, load_in_8bit: false,
    bnb_4bit_quant_type: format, bnb_4bit_use_double_quant: doubleQuant, bnb_4bit_compute_dtype: dtype, bnb_4bit_quant_storage: 'uint8',
    llm_int8_enable_fp32_cpu_offload: false, llm_int8_has_fp16_weight: false, llm_int8_skip_modules: [...(withHead ? [] : ['lm_head']), ...skipped],
  }
}
