import { QuantizedTensor } from '../ops/index.ts'
import { Tensor, unscoped, type Device } from '../tensor/index.ts'
import type { LayerTensors } from './quantizedBitsandbytes.ts'
import { groupOf, PackedLayer } from './quantizedGptq.ts'
import type { QuantizedWeight } from './quantizedLayers.ts'
import type { StoredLayerFormat } from './quantizedStored.ts'

// AWQ's gemm layout: qweight int32 [in, out / 8] and qzeros int32 [groups, out / 8], codes along the outputs; scales float16 [groups, out].
// A weight is (code - zero) · scale.

/** The bits of a word where the outputs 8k, 8k + 1, … of it begin. */
const shifts = [0, 4, 1, 5, 2, 6, 3, 7].map((nibble) => 4 * nibble)

/** Reads a layer of `shape` [out, in]. Throws FileFormatError naming the tensor that does not fit. */
export async function readAwq(prefix: string, tensors: LayerTensors, [outputs, inputs]: readonly [number, number], { groupSize }: Extract<StoredLayerFormat, { method: 'awq' }>, device: Device): Promise<QuantizedWeight> {
  const layer = new PackedLayer(prefix, tensors)
  const group = groupOf(layer, groupSize, inputs)
  const [groups, perRow] = [inputs / group, outputs / 8]
  const words = await layer.words('qweight', [inputs, perRow])
  const codes = new Uint8Array(outputs * inputs / 2)
  for (let i = 0; i < inputs; i += 2) {
    for (let w = 0; w < perRow; w++) {
      const [first, second] = [words[i * perRow + w]!, words[(i + 1) * perRow + w]!]
      for (let k = 0; k < 8; k++) codes[((8 * w + k) * inputs + i) / 2] = (first >>> shifts[k]! & 15) << 4 | second >>> shifts[k]! & 15
    }
  }
  const packedZeros = await layer.words('qzeros', [groups, perRow])
  const zeros = new Uint8Array(outputs * groups)
  for (let g = 0; g < groups; g++) {
    for (let o = 0; o < outputs; o++) zeros[o * groups + g] = packedZeros[g * perRow + Math.floor(o / 8)]! >>> shifts[o % 8]! & 15
  }
  const scales = layer.scales([groups, outputs], device)
  return {
    weight: unscoped(() => new QuantizedTensor(
      [outputs, inputs], 'int4', group, Tensor.from(codes, [outputs, inputs / 2], { device }), scales, Tensor.from(zeros, [outputs, groups], { device }))),
    nested: null,
  }
}
