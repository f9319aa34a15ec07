import { ConfigError, FileFormatError } from '../errors.ts'
import type { CheckpointTensor, CheckpointWeights, JsonValue, TensorSource } from '../files/index.ts'
import { placeOfTensor, readBytes, shapeText, tensorSource } from '../files/tensorFiles.ts'
import { Embedding, Linear, QuantizedLinear } from '../nn/index.ts'
import { QuantizedTensor } from '../ops/index.ts'
import type { Device, DType } from '../tensor/index.ts'
import type { PretrainedModel } from './pretrainedModel.ts'
import { embeddingsName, headName, replaceHead, sharesEmbeddings, type HeadSite } from './quantizedHead.ts'
import type { StoredHead } from './quantizedStored.ts'

// How anneal saves a quantised head that no other library's format holds: under the name of the weight in whose place it stands, codes as uint8 [bytes, 1],
// and scales float32 [out, blocks]; zero points, where there are any, uint8 [out, blocks]. The codes' shape is no weight's, so that a library which leaves
// quantization_config aside refuses them instead of taking codes for numbers.

/** A stored head: the names in the file that belong to it, and those of the parameters in whose place it stands. */
export interface StoredHeadTensors {
  readonly site: HeadSite
  readonly stored: StoredHead
  readonly tensors: ReadonlyMap<string, CheckpointTensor>
}

const keys = ['weight', 'weight_scale', 'weight_zero_point'] as const

/** Finds it. Throws FileFormatError where the checkpoint lacks its codes or scales. */
export function findStoredHead(model: PretrainedModel, weights: CheckpointWeights, stored: StoredHead): StoredHeadTensors {
  const head = model.getOutputEmbeddings()
  const embeddings = model.getInputEmbeddings()
  if (!(head instanceof Linear) || !(embeddings instanceof Embedding)) {
    throw new FileFormatError(`${weights.folder}: quantization_config.head of config.json: expected a causal language model with a plain output layer to read it into, got ${model.config.architecture}${head instanceof QuantizedLinear ? ', whose output layer is quantised already' : ''}`)
  }
  const name = embeddingsName(model)
  const isTied = embeddings.weight === head.weight
  const owner = isTied ? name : headName
  const tensors = new Map(keys.flatMap((key): [string, CheckpointTensor][] => {
    const entry = weights.tensors.get(`${owner}.${key}`)
    return entry ? [[key, entry]] : []
  }))
  const missing = keys.slice(0, 2).find((key) => !tensors.has(key))
  if (missing) throw new FileFormatError(`${weights.folder}: no tensor ${JSON.stringify(`${owner}.${missing}`)} in the checkpoint, whose head config.json says is quantised; write the folder again`)
  return { site: { parameter: `${owner}.weight`, head, embeddings: isTied ? { name, layer: embeddings } : undefined }, stored, tensors }
}

/** The names of a stored head in the file. */
export const namesInFile = ({ site, tensors }: StoredHeadTensors): string[] => [...tensors.keys()].map((key) => site.parameter.replace(/weight$/, key))

/** Reads it and puts it in place; `dtype` is that of the embeddings' rows, where they share it. Throws FileFormatError naming the tensor that does not fit. */
export function readStoredHead(model: PretrainedModel, { site, stored, tensors }: StoredHeadTensors, dtype: DType | 'auto', device: Device): void {
  const { format, block } = stored
  const { outFeatures: rows, inFeatures: width } = site.head
  const read = (key: typeof keys[number], shape: readonly number[], as: 'U8' | 'F32', inMemory: readonly number[]) => {
    const entry = tensors.get(key)!
    const place = placeOfTensor(entry, site.parameter.replace(/weight$/, key))
    if (entry.shape.join() !== shape.join()) throw new FileFormatError(`${place}: expected shape ${shapeText(shape)} for a head of ${shapeText([rows, width])} in ${format}, as config.json says, got ${shapeText(entry.shape)}`)
    if (entry.dtype !== as) throw new FileFormatError(`${place}: expected dtype ${as}, got ${entry.dtype}`)
    return readBytes(entry, inMemory, as === 'U8' ? 'uint8' : 'float32', device)
  }
  const perRow = format === 'int8' ? width : width / 2
  const blocks = width / block
  if (!Number.isInteger(perRow) || !Number.isInteger(blocks)) throw new FileFormatError(`${placeOfTensor(tensors.get('weight')!, site.parameter)}: expected a block of quantization_config.head that divides the ${width} numbers of a row, got ${block}`)
  const codes = read('weight', [rows * perRow, 1], 'U8', [rows, perRow])
  const scales = read('weight_scale', [rows, blocks], 'F32', [rows, blocks])
  const zeros = tensors.has('weight_zero_point') ? read('weight_zero_point', [rows, blocks], 'U8', [rows, blocks]) : null
  replaceHead(model, site, { weight: new QuantizedTensor([rows, width], format, block, codes, scales, zeros), nested: null }, dtype === 'auto' ? stored.dtype : dtype)
}

/** What to write of it, and what config.json says of it. Throws ConfigError where its inputs are in another order, which has no place in the file. */
export function headSources(model: PretrainedModel, head: QuantizedLinear): { tensors: TensorSource[], config: { [key: string]: JsonValue } } {
  const { format, block, codes, scales, zeros, order } = head.weight
  if (order || codes.rank !== 2 || scales.rank !== 2) throw new ConfigError(`${headName}: expected blocks that lie in rows, with inputs in their order, got others, which cannot be saved beside layers in another format; call dequantizeModel() first`)
  const owner = sharesEmbeddings(model, head) ? embeddingsName(model) : headName
  return {
    tensors: [
      tensorSource(`${owner}.weight`, codes, 'uint8', [codes.size, 1]),
      tensorSource(`${owner}.weight_scale`, scales),
      ...(zeros ? [tensorSource(`${owner}.weight_zero_point`, zeros)] : []),
    ],
    config: { format, block, dtype: model.dtype },
  }
}
