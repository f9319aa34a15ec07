import { FileFormatError } from '../errors.ts'
import type { JsonValue, TensorSource } from '../files/index.ts'
import { placeOfTensor, readBytes, shapeText, tensorSource } from '../files/tensorFiles.ts'
import { RowMaxima, type QuantizedLinear } from '../nn/index.ts'
import { QuantizedTensor } from '../ops/index.ts'
import { Tensor, unscoped, type Device } from '../tensor/index.ts'
import type { LayerTensors } from './quantizedBitsandbytes.ts'
import type { QuantizedWeight } from './quantizedLayers.ts'

// How transformers and bitsandbytes save a Linear8bitLt (LLM.int8(), Dettmers et al. 2022): weight int8 [out, in], SCB float32 [out], the largest magnitude
// of each row, and weight_format, 0 for rows as they are. W = weight · SCB / 127. Activations are not rounded here, so there are no outliers to take apart.

/** Whether these are the tensors of a Linear8bitLt. */
export const isInt8 = (tensors: LayerTensors): boolean => tensors.has('SCB')

/** Reads a layer of `shape` [out, in]; `prefix` is its name in the file. Throws FileFormatError naming the tensor that does not fit. */
export async function readInt8(prefix: string, tensors: LayerTensors, [outputs, inputs]: readonly [number, number], device: Device): Promise<QuantizedWeight> {
  const entryOf = (key: string, dtype: string, shape: readonly number[]) => {
    const entry = tensors.get(key)
    if (!entry) throw new FileFormatError(`${tensors.values().next().value!.file.path}: no tensor ${JSON.stringify(`${prefix}.${key}`)} beside the 8-bit weight; fetch the model again`)
    if (entry.shape.join() !== shape.join()) throw new FileFormatError(`${placeOfTensor(entry, `${prefix}.${key}`)}: expected shape ${shapeText(shape)}, as config.json says, got ${shapeText(entry.shape)}`)
    if (entry.dtype !== dtype) throw new FileFormatError(`${placeOfTensor(entry, `${prefix}.${key}`)}: expected dtype ${dtype}, got ${entry.dtype}`)
    return entry
  }
  const weight = entryOf('weight', 'I8', [outputs, inputs])
  const absmax = new Float32Array((await entryOf('SCB', 'F32', [outputs]).file.readTensorBytes(`${prefix}.SCB`)).buffer)
  const layout = tensors.get('weight_format')
  const code = layout ? (await layout.file.readTensorBytes(`${prefix}.weight_format`))[0] : 0
  if (code !== 0) throw new FileFormatError(`${placeOfTensor(layout!, `${prefix}.weight_format`)}: expected 0, weights row by row, got ${code}; save the model again with bitsandbytes 0.42 or later`)
  const kept = new RowMaxima(absmax)
  const scales = unscoped(() => Tensor.from(kept.values(), [outputs, 1], { device }))
  return { weight: new QuantizedTensor([outputs, inputs], 'int8', inputs, readBytes(weight, [outputs, inputs], 'uint8', device), scales), nested: kept }
}

/** The tensors of one layer to write. */
export async function int8Sources(name: string, { weight, nested }: QuantizedLinear): Promise<TensorSource[]> {
  const scales = await weight.scales.data() as Float32Array
  const { absmax } = nested instanceof RowMaxima && nested.values().every((value, i) => value === scales[i]) ? nested : RowMaxima.of(scales)
  return [
    { ...tensorSource(`${name}.weight`, weight.codes, 'uint8', weight.shape), dtype: 'I8' },
    { name: `${name}.SCB`, dtype: 'F32', shape: [absmax.length], bytes: new Uint8Array(absmax.buffer, absmax.byteOffset, absmax.byteLength) },
    { name: `${name}.weight_format`, dtype: 'U8', shape: [], bytes: new Uint8Array(1) },
  ]
}

/** `quantization_config` of config.json. `skipped` are the linear layers left in full. transformers' llm_int8_threshold is left to its default. */
export const int8Config = (skipped: readonly string[], withHead: boolean): { [key: string]: JsonValue } => ({
  quant_method: 'bitsandbytes', load_in_4bit: false, load_in_8bit: true,
  llm_int8_enable_fp32_cpu_offload: false, llm_int8_has_fp16_weight: false, llm_int8_skip_modules: [...(withHead ? [] : ['lm_head']), ...skipped],
})
