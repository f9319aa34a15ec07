import type { DType } from '../tensor/dtype.ts'
import { scope } from '../tensor/scope.ts'
import { Tensor } from '../tensor/tensor.ts'
import { expect, expectDtype, shapeText } from './op.ts'
import { dequantize, QuantizedTensor } from './quantization.ts'

/** Whether rows of it can be taken: two axes, codes and scales that lie within rows. */
const hasRows = ({ shape, codes, scales }: QuantizedTensor): boolean => shape.length === 2 && codes.rank === 2 && scales.rank === 2

/**
 * Rows of a quantised table [vocabulary, width] for id int32 [tokens]: those of dequantize(table, dtype), bit for bit, without the others. The table is
 * frozen: nothing has a gradient.
 */
export function quantizedEmbedding(table: QuantizedTensor, id: Tensor, dtype: DType = 'float32'): Tensor {
  const operation = 'quantizedEmbedding'
  expect(hasRows(table), operation, () => `the table must have two axes and blocks that divide its rows, but is ${table.format} ${shapeText(table.shape)} in blocks of ${table.block}; dequantize it`)
  expectDtype(operation, 'id', id, 'int32')
  expect(id.rank === 1, operation, () => `id must have shape [tokens], but has ${shapeText(id.shape)}`)
  const rows = (of: Tensor): Tensor => {
    const taken = Tensor.empty([id.size, of.dim(1)], { dtype: of.dtype, device: of.device })
    taken.device.kernels.embedding(taken.handle, of.handle, id.handle)
    return taken
  }
  const { format, block, codes, scales, zeros, order } = table
  return scope(() => dequantize(new QuantizedTensor([id.size, table.shape[1]!], format, block, rows(codes), rows(scales), zeros && rows(zeros), order), dtype))
}
