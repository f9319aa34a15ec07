import { ShapeError } from '../errors.ts'
import type { DType } from '../tensor/dtype.ts'
import { resultsOnly } from '../tensor/scope.ts'
import { sizeOf, Tensor } from '../tensor/tensor.ts'
import type { Shape } from '../tensor/tensor.ts'
import type { InputOrder } from './inputOrder.ts'
import { expect, expectDtype, shapeText } from './op.ts'
import { quantizedFormats } from './operations.ts'
import type { QuantizedFormat } from './operations.ts'

const fourBit: readonly QuantizedFormat[] = ['nf4', 'fp4', 'int4']

/** The block that a format has where nothing else is said: bitsandbytes' 64 for weights and 256 for 8-bit maps, GPTQ's 128 for int4, a whole row for int8. */
const usualBlock = (format: QuantizedFormat, shape: Shape): number =>
  ({ nf4: 64, fp4: 64, int4: 128, int8: Math.max(1, shape.at(-1) ?? 1), dynamic: 256, dynamic_unsigned: 256 })[format]

/**
 * Numbers in a few bits each: codes, and a scale for each `block` of them in row-major order. A code stands for value(code) * scale. Codes of four bits
 * lie two in a byte, the earlier number in the high nibble, as bitsandbytes has them.
 */
export class QuantizedTensor {
  readonly shape: Shape
  readonly format: QuantizedFormat
  readonly block: number
  /** uint8 [..., columns / 2] for four bits, else of the shape itself; flat where a row has an odd number of columns. */
  readonly codes: Tensor
  /** float32 [..., columns / block]; flat where blocks cross rows. */
  readonly scales: Tensor
  /** uint8, one for each scale, in the codes' own notation; int4 and int8 only. */
  readonly zeros: Tensor | null
  /** Where the columns of the codes are not in the order of the inputs. */
  readonly order: InputOrder | null

  constructor(shape: Shape, format: QuantizedFormat, block: number, codes: Tensor, scales: Tensor, zeros: Tensor | null = null, order: InputOrder | null = null) {
    const [codesShape, scalesShape] = shapesOf(shape, format, block)
    const check = (what: string, tensor: Tensor, wanted: Shape, dtype: DType): void => {
      expectDtype('QuantizedTensor', what, tensor, dtype)
      expect(tensor.size === sizeOf(wanted), 'QuantizedTensor', () => `${what} must have shape ${shapeText(wanted)} for ${format} numbers of shape ${shapeText(shape)} in blocks of ${block}, but has ${shapeText(tensor.shape)}`)
    }
    check('codes', codes, codesShape, 'uint8')
    check('scales', scales, scalesShape, 'float32')
    if (zeros) {
      expect(format === 'int4' || format === 'int8', 'QuantizedTensor', () => `zeros are for int4 and int8 only, but the format is ${format}`)
      check('zeros', zeros, scalesShape, 'uint8')
    }
    if (order) {
      expect(shape.length === 2 && order.inputs.length === shape[1], 'QuantizedTensor', () => `order must have as many inputs as a weight [out, in], but has ${order.inputs.length} for shape ${shapeText(shape)}`)
    }
    this.shape = shape
    this.format = format
    this.block = block
    this.codes = codes
    this.scales = scales
    this.zeros = zeros
    this.order = order
  }

  /** Bytes of codes, scales, zero points and the order of the inputs. */
  get bytes(): number { return this.codes.size + 4 * this.scales.size + (this.zeros?.size ?? 0) + 8 * (this.order?.inputs.length ?? 0) }
  /** Whether `quantizedMatmul` takes it: a weight's format, two axes, and blocks that lie within rows. */
  get multiplies(): boolean {
    return this.shape.length === 2 && ['nf4', 'fp4', 'int8', 'int4'].includes(this.format) && this.scales.rank === 2 && this.codes.rank === 2
  }

  dispose(): void {
    this.codes.dispose()
    this.scales.dispose()
    this.zeros?.dispose()
    this.order?.dispose()
  }
}

/** The shapes of codes and scales. */
function shapesOf(shape: Shape, format: QuantizedFormat, block: number): [codes: Shape, scales: Shape] {
  const four = fourBit.includes(format)
  if (!(Number.isInteger(block) && block > 0 && (!four || block % 2 === 0))) {
    throw new ShapeError(`quantize: block must be a positive${four ? ', even' : ''} integer for ${format}, but is ${block}`)
  }
  const size = sizeOf(shape)
  const [lead, columns] = [shape.slice(0, -1), shape.at(-1) ?? 1]
  const codes = !four ? shape : columns % 2 === 0 ? [...lead, columns / 2] : [Math.ceil(size / 2)]
  return [codes, columns > 0 && columns % block === 0 ? [...lead, columns / block] : [Math.ceil(size / block)]]
}

/** What `QuantizedTensor.quantize` takes: format, block and what else the scales are. */
export interface QuantizeOptions {
  format?: QuantizedFormat
  /** Numbers that share a scale. 64 for nf4 and fp4, 128 for int4, a row for int8, 256 for the dynamic maps. */
  block?: number
  /** int4 and int8: a zero point for each block, so that its codes span its least to its largest number. */
  zeroPoints?: boolean
}

/**
 * Rounds x (float32, bfloat16 or float16, any shape) to the nearest codes of a format, NF4 by default: bitsandbytes' bits for nf4, fp4 (Dettmers et al.,
 * "QLoRA", 2023) and its 8-bit dynamic maps. A number that is not finite fails.
 */
export function quantize(x: Tensor, { format = 'nf4', block = usualBlock(format, x.shape), zeroPoints = false }: QuantizeOptions = {}): QuantizedTensor {
  expectDtype('quantize', 'x', x, 'float32', 'bfloat16', 'float16')
  const [codesShape, scalesShape] = shapesOf(x.shape, format, block)
  const { device } = x
  const codes = Tensor.empty(codesShape, { dtype: 'uint8', device })
  const scales = Tensor.empty(scalesShape, { device })
  const zeros = zeroPoints ? Tensor.empty(scalesShape, { dtype: 'uint8', device }) : null
  const result = new QuantizedTensor(x.shape, format, block, codes, scales, zeros)
  device.kernels.quantize(codes.handle, scales.handle, zeros?.handle ?? 0, x.handle, quantizedFormats[format], block)
  return result
}

/** The numbers that the codes stand for: value(code) * scale in float32, rounded once to `dtype` (float32, bfloat16 or float16). */
export function dequantize(weight: QuantizedTensor, dtype: DType = 'float32'): Tensor {
  const { codes, scales, zeros, format, block, shape, order } = weight
  return resultsOnly(() => {
    const y = Tensor.empty(shape, { dtype, device: codes.device })
    expectDtype('dequantize', 'the result', y, 'float32', 'bfloat16', 'float16')
    codes.device.kernels.dequantize(y.handle, codes.handle, scales.handle, zeros?.handle ?? 0, quantizedFormats[format], block)
    return order ? order.toInputs(y) : y
  })
}
