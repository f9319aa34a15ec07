import { ConfigError, FileFormatError } from '../errors.ts'
import type { CheckpointTensor, JsonValue, TensorSource } from '../files/index.ts'
import type { QuantizedLinear } from '../nn/index.ts'
import { InputOrder, QuantizedTensor, transpose } from '../ops/index.ts'
import { noGrad, scope, Tensor, unscoped, type Device } from '../tensor/index.ts'
import type { LayerTensors } from './quantizedBitsandbytes.ts'
import type { QuantizationConfig } from './quantizedConfig.ts'
import type { QuantizedWeight } from './quantizedLayers.ts'
import type { GptqBits, GptqZeros, StoredLayerFormat } from './quantizedStored.ts'
import { codeAt, flipSigns, movedColumns, swapNibbles, transposeWords, widenCodes } from './quantizedWords.ts'
import { floatDtypes, placeOfTensor, readTensor, shapeText } from '../files/tensorFiles.ts'

// GPTQ's layout: qweight int32 [in · bits / 32, out], codes along the inputs, the first in the lowest bits; qzeros int32 [groups, out · bits / 32];
// scales float16 [groups, out]; g_idx int32 [in], the group of each input. A weight is (code - zero) · scale. Codes of 3 bits run on from word to word.

type Gptq = Extract<StoredLayerFormat, { method: 'gptq' }>

/** Whether these are the tensors of a layer in GPTQ's or AWQ's layout. */
export const isPacked = (tensors: LayerTensors): boolean => tensors.has('qweight')

/** The tensors of a layer, each checked for its shape. */
export class PackedLayer {
  readonly prefix: string
  readonly tensors: LayerTensors

  constructor(prefix: string, tensors: LayerTensors) {
    this.prefix = prefix
    this.tensors = tensors
  }

  place(key: string): string { return placeOfTensor(this.tensors.get(key)!, `${this.prefix}.${key}`) }

  entry(key: string, shape: readonly number[], dtypes: readonly string[]): CheckpointTensor {
    const entry = this.tensors.get(key)
    if (!entry) throw new FileFormatError(`${this.place('qweight')}: no tensor ${JSON.stringify(`${this.prefix}.${key}`)} beside it; fetch the model again`)
    if (entry.shape.join() !== shape.join()) throw new FileFormatError(`${this.place(key)}: expected shape ${shapeText(shape)}, as config.json says, got ${shapeText(entry.shape)}`)
    if (!dtypes.includes(entry.dtype)) throw new FileFormatError(`${this.place(key)}: expected dtype ${dtypes.join(', ')}, got ${entry.dtype}`)
    return entry
  }

  /** 32-bit words. */
  async words(key: string, shape: readonly number[]): Promise<Uint32Array> {
    const bytes = await this.entry(key, shape, ['I32', 'U32']).file.readTensorBytes(`${this.prefix}.${key}`)
    return new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4)
  }

  /** Scales [groups, out] of the file as float32 [out, groups]. */
  scales(shape: readonly number[], device: Device): Tensor {
    const stored = readTensor(this.entry('scales', shape, Object.keys(floatDtypes)), 'float32', device)
    const scales = unscoped(() => noGrad(() => transpose(stored)))
    stored.dispose()
    return scales
  }
}

/** The inputs that share a scale. Throws where groups do not fill rows evenly. */
export function groupOf(layer: PackedLayer, groupSize: number, inputs: number): number {
  const group = groupSize === -1 ? inputs : groupSize
  if (inputs % group !== 0 || group % 2 !== 0) throw new FileFormatError(`${layer.place('qweight')}: expected an even group_size that divides the ${inputs} inputs, got ${group}; such weights are not read`)
  return group
}

/**
 * The inputs in the order of their groups, where act-order (desc_act) has them in another; undefined where they lie in it. Throws where groups are not of
 * one size.
 */
function inputsByGroup(layer: PackedLayer, index: Uint32Array, group: number): number[] | undefined {
  if (index.every((value, i) => value === Math.floor(i / group))) return undefined
  const members = Array.from({ length: index.length / group }, (): number[] => [])
  for (const [input, value] of index.entries()) {
    const own = members[value]
    if (!own) throw new FileFormatError(`${layer.place('g_idx')}: expected groups from 0 to ${members.length - 1}, got ${value | 0} for input ${input}; fetch the model again`)
    own.push(input)
  }
  const uneven = members.findIndex(({ length }) => length !== group)
  if (uneven >= 0) throw new FileFormatError(`${layer.place('g_idx')}: expected ${group} inputs in each group, as group_size says, got ${members[uneven]!.length} in group ${uneven}; such weights are not read: fetch the model before it was quantized, and quantize it with anneal`)
  return members.flat()
}

/** Reads a layer of `shape` [out, in]. Throws FileFormatError naming the tensor that does not fit. */
export async function readGptq(prefix: string, tensors: LayerTensors, [outputs, inputs]: readonly [number, number], { bits, groupSize, zeros: storedZeros, actOrder }: Gptq, device: Device): Promise<QuantizedWeight> {
  const layer = new PackedLayer(prefix, tensors)
  const group = groupOf(layer, groupSize, inputs)
  const groups = inputs / group
  if (inputs * bits % 32 !== 0) throw new FileFormatError(`${layer.place('qweight')}: expected inputs whose ${bits} bits each fill words of 32, got ${inputs} inputs; such weights are not read`)
  // Without g_idx nobody knows which input is of which group.
  const order = tensors.has('g_idx') || (actOrder && groups > 1) ? inputsByGroup(layer, await layer.words('g_idx', [inputs]), group) : undefined
  const own = bits === 8 ? 8 : 4
  const [middle, shift] = [1 << own - 1, (1 << own - 1) - (1 << bits - 1)]
  const zeros = unpackZeros(await layer.words('qzeros', [groups, Math.ceil(outputs * bits / 32)]), groups, outputs, bits, storedZeros).map((zero) => zero + shift)
  const symmetric = zeros.every((zero) => zero === middle)
  const wordRows = inputs * bits / 32
  const inFile = codesOf(await layer.words('qweight', [wordRows, outputs]), wordRows, outputs, inputs, bits, shift)
  const codes = order ? movedColumns(inFile, outputs, inputs, own, order) : inFile
  const scales = layer.scales([groups, outputs], device)
  return {
    weight: unscoped(() => new QuantizedTensor(
      [outputs, inputs], own === 4 ? 'int4' : 'int8', group, Tensor.from(codes, [outputs, inputs * own / 8], { device }), scales,
      symmetric ? null : Tensor.from(own === 4 ? zeros : zeros.map(flipSign), [outputs, groups], { device }), order ? new InputOrder(order, device) : null)),
    nested: null,
  }
}

/** The bytes of codes [out, in] as int4 or int8 has them; those of 2 and 3 bits with `shift` added, so that they lie about int4's middle. */
function codesOf(words: Uint32Array, wordRows: number, outputs: number, inputs: number, bits: GptqBits, shift: number): Uint8Array<ArrayBuffer> {
  if (bits === 4 || bits === 8) return new Uint8Array(transposeWords(words, wordRows, outputs, bits === 4 ? swapNibbles : flipSigns).buffer)
  return widenCodes(transposeWords(words, wordRows, outputs, (word) => word), outputs, inputs, bits, shift)
}

/** Zero points of 8 bits are kept as the codes are: in two's complement. Its own inverse. */
const flipSign = (byte: number): number => byte ^ 0x80

/** What GPTQModel before 7 subtracted from three words of zero points of 3 bits, and adds again to read them. */
const oldOffsets = [0x24924924, 0x92492492, 0x49249249]

/** Zero points [out, groups]. One less is subtracted from words, with what that borrows from the next zero point; where they run on from word to word, modulo 8. */
function unpackZeros(stored: Uint32Array, groups: number, outputs: number, bits: GptqBits, how: GptqZeros): Uint8Array<ArrayBuffer> {
  const perRow = stored.length / groups
  const mask = (1 << bits) - 1
  const ones = Math.floor(0xffffffff / mask)
  const offset = how === 'lessWords' ? (i: number) => oldOffsets[i % perRow % 3]! : how === 'lessOne' && bits !== 3 ? () => ones : () => 0
  const words = stored.map((word, i) => word + offset(i))
  const added = how === 'lessOne' && bits === 3 ? 1 : 0
  const zeros = new Uint8Array(outputs * groups)
  for (let g = 0; g < groups; g++) {
    for (let o = 0; o < outputs; o++) zeros[o * groups + g] = codeAt(words, g * perRow, o, bits) + added & mask
  }
  return zeros
}

/** Zero points [out, groups] of 4 or 8 bits in words, as they are or as one less. */
function packZeros(zeros: ArrayLike<number>, groups: number, outputs: number, bits: number): Uint32Array {
  const perWord = 32 / bits
  const perRow = outputs / perWord
  const words = new Uint32Array(groups * perRow)
  for (let g = 0; g < groups; g++) {
    for (let o = 0; o < outputs; o++) words[g * perRow + Math.floor(o / perWord)]! |= zeros[o * groups + g]! << bits * (o % perWord)
  }
  return words
}

/** The tensors of one layer to write; zero points as they are, which is format gptq_v2. Scales are rounded to float16. */
export function gptqSources(name: string, { weight }: QuantizedLinear, withZeros: boolean): TensorSource[] {
  const [outputs, inputs] = weight.shape as [number, number]
  const bits = weight.format === 'int8' ? 8 : 4
  const perWord = 32 / bits
  if (inputs % perWord !== 0 || outputs % perWord !== 0) throw new ConfigError(`${name}: expected inputs and outputs that are multiples of ${perWord}, which GPTQ packs in a word, got ${shapeText(weight.shape)}; leave the layer out with skipModules`)
  if (weight.codes.rank !== 2 || weight.scales.rank !== 2) throw new ConfigError(`${name}: expected blocks that divide the ${inputs} inputs, got ${weight.block}; GPTQ has no others`)
  const groups = inputs / weight.block
  const order = weight.order?.inputs
  const asBytes = (array: Uint32Array | Int32Array): Uint8Array => new Uint8Array(array.buffer, array.byteOffset, array.byteLength)
  const transposed = async (): Promise<Uint8Array> => {
    const own = await weight.codes.data() as Uint8Array
    const codes = order ? movedColumns(own, outputs, inputs, bits, inverseOf(order)) : own
    return asBytes(transposeWords(new Uint32Array(codes.buffer, codes.byteOffset, codes.length / 4), outputs, inputs / perWord, bits === 4 ? swapNibbles : flipSigns))
  }
  const zeros = async (): Promise<Uint8Array> => {
    const middle = (1 << bits - 1) - (withZeros ? 0 : 1)
    const own = await weight.zeros?.data() as Uint8Array | undefined
    return asBytes(packZeros(own ? (bits === 4 ? own : own.map(flipSign)) : new Uint8Array(outputs * groups).fill(middle), groups, outputs, bits))
  }
  return [
    { name: `${name}.qweight`, dtype: 'I32', shape: [inputs / perWord, outputs], bytes: transposed },
    { name: `${name}.qzeros`, dtype: 'I32', shape: [groups, outputs / perWord], bytes: zeros },
    { name: `${name}.scales`, dtype: 'F16', shape: [groups, outputs], bytes: () => halfScales(weight.scales) },
    { name: `${name}.g_idx`, dtype: 'I32', shape: [inputs], bytes: () => asBytes(Int32Array.from(order ? inverseOf(order) : Array(inputs).keys(), (place) => Math.floor(place / weight.block))) },
  ]
}

/** Where each of a permutation's numbers stands. */
function inverseOf(order: readonly number[]): number[] {
  const places: number[] = []
  order.forEach((input, place) => { places[input] = place })
  return places
}

/** Scales [out, groups] as the bytes of float16 [groups, out]. */
async function halfScales(scales: Tensor): Promise<Uint8Array> {
  using half = unscoped(() => noGrad(() => scope(() => transpose(scales).copyAs('float16'))))
  return new Uint8Array(await half.device.native.read(half.handle))
}

/** `quantization_config` of config.json. `skipped` are the linear layers left in full, which GPTQModel reads from `dynamic`. */
export function gptqConfig({ format, block }: QuantizationConfig, withZeros: boolean, actOrder: boolean, skipped: readonly string[], withHead: boolean): { [key: string]: JsonValue } {
  return {
    quant_method: 'gptq', bits: format === 'int8' ? 8 : 4, group_size: block ?? -1, sym: !withZeros, desc_act: actOrder, lm_head: withHead,
    checkpoint_format: withZeros ? 'gptq_v2' : 'gptq',
    ...(skipped.length ? { dynamic: Object.fromEntries(skipped.map((name) => [`-:^${name.replace(/\./g, '\\.')}$`, {}])) } : {}),
  }
}
