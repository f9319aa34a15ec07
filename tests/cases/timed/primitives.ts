// Timed: the primitives, one large case for each of their kernels.
import { abs, add, concat, exp, gather, greater, mul, permute, slice, sum, toDtype, where } from '../../../src/ops/index.ts'
import { Tensor } from '../../../src/tensor/index.ts'
import { float, integers } from '../case.ts'
import type { OpCase } from '../case.ts'
import { beside, constant, moving, numbers, single, square, timed } from './common.ts'

const columns = 64
const columnIds = integers(Array.from({ length: square[0]! * columns }, (_, i) => (i * 7919) % square[1]!), [square[0]!, columns])
const rowIds = integers(Array.from({ length: 2048 }, (_, i) => (i * 7919) % 8192))
const rows = [8192, 1024]

export const timedPrimitives: readonly OpCase[] = [
  timed('fill', '16M numbers', [constant([1])], moving(numbers, 1), (x) => Tensor.full([numbers], 2, { dtype: x.dtype, device: x.device })),
  timed('iota', '16M numbers', [single([1])], { bytes: () => numbers * 4 }, (x) => {
    const y = beside(x, [numbers])
    x.device.kernels.iota(y.handle, 0, 1)
    return y
  }, { dtypes: ['float32'] }),
  timed('convert', 'from float32, 16M numbers', [single([numbers])], { bytes: () => numbers * 6 }, (x) => toDtype(x, 'bfloat16'), { peer: { formula: 'convert' }, dtypes: ['float32'] }),
  timed('add', '[4096, 4096]', [constant(square), constant(square)], moving(numbers, 3), (a, b) => add(a, b), { peer: { formula: 'add' } }),
  timed('add', '[4096, 4096] and a row', [constant(square), constant([4096])], moving(numbers, 2), (a, b) => add(a, b), { peer: { formula: 'add' } }),
  timed('addInto', '16M numbers', [constant([numbers]), constant([numbers])], moving(numbers, 3), (y, x) => {
    y.device.kernels.add_into(y.handle, x.handle)
    return y
  }, { peer: { formula: 'add_into' } }),
  timed('scale', '16M numbers', [constant([numbers])], moving(numbers, 2), (x) => mul(x, 1.5), { peer: { formula: 'scale' } }),
  timed('exp', '[4096, 4096]', [constant(square)], moving(numbers, 2), (x) => exp(x), { peer: { formula: 'exp' } }),
  timed('abs', '[4096, 4096]', [constant(square)], moving(numbers, 2), (x) => abs(x), { peer: { formula: 'abs' } }),
  timed('where', '[4096, 4096]', [constant(square), constant(square)], moving(numbers, 5), (a, b) => where(greater(a, 0), a, b), { peer: { formula: 'where' } }),
  timed('sum', '[4096, 4096] of rows', [constant(square)], moving(numbers, 1), (x) => sum(x, [1]), { peer: { formula: 'sum', axis: 1 } }),
  timed('sum', '[4096, 4096] of columns', [constant(square)], moving(numbers, 1), (x) => sum(x, [0]), { peer: { formula: 'sum', axis: 0 } }),
  timed('permute', '[4096, 4096] transposed', [constant(square)], moving(numbers, 2), (x) => permute(x, [1, 0]), { peer: { formula: 'permute', order: [1, 0] } }),
  timed('permute', '[4, 512, 12, 64] heads first', [constant([4, 512, 12, 64])], moving(4 * 512 * 12 * 64, 2), (x) => permute(x, [0, 2, 1, 3]), { peer: { formula: 'permute', order: [0, 2, 1, 3] } }),
  timed('slice', '[4096, 4096] half of each row', [float(square)], moving(numbers / 2, 2), (x) => slice(x, [0, 1024], [4096, 2048]), { peer: { formula: 'slice' }, backward: moving(numbers, 1.5) }),
  timed('concat', '[4096, 2048] twice', [constant([4096, 2048]), constant([4096, 2048])], moving(numbers, 2), (a, b) => concat([a, b], 1), { peer: { formula: 'concat' } }),
  timed('gather', '[4096, 4096] 64 of each row', [float(square), columnIds], moving(4096 * columns, 2), (x, id) => gather(x, id), { peer: { formula: 'gather' }, backward: moving(numbers, 1) }),
  timed('gatherRows', '[8192, 1024] 2048 rows', [constant(rows), rowIds], moving(2048 * 1024, 2), (x, id) => {
    const y = beside(x, [2048, 1024])
    x.device.kernels.gather_rows(y.handle, x.handle, id.handle)
    return y
  }, { peer: { formula: 'gather_rows' } }),
  timed('scatterRows', '[8192, 1024] 2048 rows', [constant(rows), constant([2048, 1024]), rowIds], moving(2048 * 1024, 2), (y, x, id) => {
    y.device.kernels.scatter_rows(y.handle, x.handle, id.handle)
    return y
  }, { peer: { formula: 'scatter_rows' } }),
  timed('sumRows', '[1024, 3072] of a bias', [constant([1024, 3072])], moving(1024 * 3072, 1), (x) => {
    const y = beside(x, [3072], 'float32')
    x.device.kernels.sum_rows(y.handle, x.handle, false)
    return y
  }, { peer: { formula: 'sum', axis: 0 } }),
]
