import { Tensor } from '../tensor/tensor.ts'
import { emptyLike, expect, expectDtype, expectShape, fusedOp, shapeText } from './op.ts'
import { add, concat, equal, matmul, mul, reshape, slice, sub, toDtype } from './primitives.ts'

/** What `rope` takes beside the table of angles and the positions. */
export interface RopeOptions {
  /** Pairs entries (2i, 2i + 1), as GPT-J and GLM do, rather than (i, i + half), as Llama does. */
  interleaved?: boolean
}

/** table[position] by a product with one-hot rows, so that the definition stays in primitives. */
function rowsAt(table: Tensor, position: Tensor, dtype: Tensor['dtype']): Tensor {
  const tokens = position.dim(0)
  const rows = Tensor.arange(table.dim(0), { dtype, device: table.device })
  const oneHot = equal(reshape(toDtype(position, dtype), [tokens, 1]), reshape(rows, [1, table.dim(0)]))
  return matmul(oneHot, toDtype(table, dtype))
}

const op = fusedOp<readonly [Tensor, Tensor, Tensor, Tensor], { interleaved: boolean }, Tensor>({
  name: 'rope',
  definition([x, cosTable, sinTable, position], { interleaved }) {
    const [tokens, heads, width] = x.shape as [number, number, number]
    const half = cosTable.dim(1)
    const rotated = 2 * half
    const c = reshape(rowsAt(cosTable, position, x.dtype), [tokens, 1, half])
    const s = reshape(rowsAt(sinTable, position, x.dtype), [tokens, 1, half])
    const rest = width > rotated ? [slice(x, [0, 0, rotated], [tokens, heads, width - rotated])] : []
    if (interleaved) {
      const pairs = reshape(slice(x, [0, 0, 0], [tokens, heads, rotated]), [tokens, heads, half, 2])
      const a = reshape(slice(pairs, [0, 0, 0, 0], [tokens, heads, half, 1]), [tokens, heads, half])
      const b = reshape(slice(pairs, [0, 0, 0, 1], [tokens, heads, half, 1]), [tokens, heads, half])
      const first = reshape(sub(mul(a, c), mul(b, s)), [tokens, heads, half, 1])
      const second = reshape(add(mul(b, c), mul(a, s)), [tokens, heads, half, 1])
      return concat([reshape(concat([first, second], 3), [tokens, heads, rotated]), ...rest], 2)
    }
    const a = slice(x, [0, 0, 0], [tokens, heads, half])
    const b = slice(x, [0, 0, half], [tokens, heads, half])
    return concat([sub(mul(a, c), mul(b, s)), add(mul(b, c), mul(a, s)), ...rest], 2)
  },
  forward([x, cosTable, sinTable, position], { interleaved }, save) {
    const y = emptyLike(x)
    y.device.kernels.rope(y.handle, x.handle, cosTable.handle, sinTable.handle, position.handle, interleaved, false)
    save(cosTable, sinTable, position)
    return y
  },
  backward([dy], context, { interleaved }) {
    const [cosTable, sinTable, position] = context.saved as [Tensor, Tensor, Tensor]
    const dx = emptyLike(dy!)
    dx.device.kernels.rope(dx.handle, dy!.handle, cosTable.handle, sinTable.handle, position.handle, interleaved, true)
    context.give(0, dx)
  },
})

const pairOp = fusedOp<readonly [Tensor, Tensor, Tensor, Tensor, Tensor], { interleaved: boolean }, readonly [Tensor, Tensor]>({
  name: 'rope_pair',
  definition: ([x, other, ...tables], attributes) => [op.op.definition([x, ...tables], attributes), op.op.definition([other, ...tables], attributes)],
  forward([x, other, cosTable, sinTable, position], { interleaved }, save) {
    const [y, otherY] = [emptyLike(x), emptyLike(other)]
    y.device.kernels.rope_pair(y.handle, otherY.handle, x.handle, other.handle, cosTable.handle, sinTable.handle, position.handle, interleaved, false)
    save(cosTable, sinTable, position)
    return [y, otherY]
  },
  backward([dy, dotherY], context, { interleaved }) {
    const [cosTable, sinTable, position] = context.saved as [Tensor, Tensor, Tensor]
    const [dx, dother] = [dy && emptyLike(dy), dotherY && emptyLike(dotherY)]
    const { kernels } = cosTable.device
    const angles = [cosTable.handle, sinTable.handle, position.handle, interleaved, true] as const
    if (dx && dother) kernels.rope_pair(dx.handle, dother.handle, dy!.handle, dotherY!.handle, ...angles)
    else if (dx) kernels.rope(dx.handle, dy!.handle, ...angles)
    else if (dother) kernels.rope(dother.handle, dotherY!.handle, ...angles)
    if (dx) context.give(0, dx)
    if (dother) context.give(1, dother)
  },
})

function check(operation: string, x: Tensor, cosTable: Tensor, sinTable: Tensor, position: Tensor): void {
  expect(x.rank === 3, operation, () => `x must have shape [tokens, heads, headDim], but has ${shapeText(x.shape)}`)
  expectShape(operation, 'sinTable', sinTable, cosTable.shape, 'that of cosTable')
  expect(cosTable.rank === 2 && 2 * cosTable.dim(1) <= x.dim(2), operation, () => `cosTable ${shapeText(cosTable.shape)} turns more than the ${x.dim(2)} entries of a head`)
  expectShape(operation, 'position', position, [x.dim(0)], 'one per token')
  expectDtype(operation, 'position', position, 'int32')
}

/**
 * Rotary position embedding (Su et al. 2021). x [tokens, heads, headDim]; cosTable and sinTable float32 [positions, rotated / 2]; position int32
 * [tokens]. The first `rotated` entries of each head are turned, the rest pass.
 */
export function rope(x: Tensor, cosTable: Tensor, sinTable: Tensor, position: Tensor, { interleaved = false }: RopeOptions = {}): Tensor {
  check('rope', x, cosTable, sinTable, position)
  return op([x, cosTable, sinTable, position], { interleaved })
}

/** rope() of two tensors in one pass, such as queries and keys: one dtype and headDim, heads of their own. */
export function ropePair(x: Tensor, other: Tensor, cosTable: Tensor, sinTable: Tensor, position: Tensor, { interleaved = false }: RopeOptions = {}): readonly [Tensor, Tensor] {
  check('ropePair', x, cosTable, sinTable, position)
  expectShape('ropePair', 'other', other, [x.dim(0), other.dim(1), x.dim(2)], 'as x')
  expectDtype('ropePair', 'other', other, x.dtype)
  return pairOp([x, other, cosTable, sinTable, position], { interleaved })
}
