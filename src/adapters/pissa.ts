import { ConfigError } from '../errors.ts'
import { Conv1D, Linear } from '../nn/index.ts'
import { matmul, mul, sub, toDtype, transpose } from '../ops/index.ts'
import { autocast } from '../tensor/autocast.ts'
import { noGrad, scope, Tensor, unscoped } from '../tensor/index.ts'
import type { LoraLinear, LoraPart } from './loraLayer.ts'
import { symmetricEigen } from './symmetricEigen.ts'

/** Vectors beside the wanted ones, and rounds: the error falls with the ratio of singular values to the power of twice the rounds (Halko et al. 2011). */
const oversampling = 16
const rounds = 12

const float32 = <T>(body: () => T): T => noGrad(() => autocast('float32', body))

async function rowsOf(matrix: Tensor): Promise<number[][]> {
  const values = await matrix.toArray()
  const width = matrix.dim(1)
  return Array.from({ length: matrix.dim(0) }, (_, i) => values.slice(i * width, (i + 1) * width))
}

const matrixOf = (rows: readonly (readonly number[])[], device: Tensor['device']): Tensor => unscoped(() => Tensor.from(Float32Array.from(rows.flat()), [rows.length, rows[0]!.length], { device }))

/** x with its columns made orthonormal; x is released. The inverse root of their products with each other comes from the eigenvectors. */
async function orthonormal(x: Tensor): Promise<Tensor> {
  const gram = unscoped(() => float32(() => matmul(x, x, { transposeA: true })))
  const { values, vectors } = symmetricEigen(await rowsOf(gram))
  const factor = matrixOf(vectors.map((row) => row.map((value, j) => value / Math.sqrt(Math.max(values[j]!, 1e-14 * values[0]!)))), x.device)
  const result = unscoped(() => float32(() => matmul(x, factor)))
  for (const tensor of [x, gram, factor]) tensor.dispose()
  return result
}

/** The first `rank` right singular vectors as columns [in, rank], left ones [out, rank] and singular values of a matrix [out, in]. */
async function singularVectors(weight: Tensor, rank: number): Promise<{ right: Tensor, left: Tensor, values: number[] }> {
  const width = Math.min(rank + oversampling, ...weight.shape)
  const multiply = (x: Tensor, transposeA: boolean): Tensor => {
    const y = unscoped(() => float32(() => matmul(weight, x, { transposeA })))
    x.dispose()
    return y
  }
  const start = unscoped(() => Tensor.empty([weight.dim(1), width], { device: weight.device }))
  start.device.kernels.random_normal(start.handle, 0, 1, rank, 0)
  let basis = await orthonormal(start)
  for (let i = 0; i < rounds; i++) basis = await orthonormal(multiply(await orthonormal(multiply(basis, false)), true))
  const projected = unscoped(() => float32(() => matmul(weight, basis)))
  const gram = unscoped(() => float32(() => matmul(projected, projected, { transposeA: true })))
  const { values, vectors } = symmetricEigen(await rowsOf(gram))
  const singular = values.slice(0, rank).map((value) => Math.sqrt(Math.max(value, 0)))
  const rotation = matrixOf(vectors.map((row) => row.slice(0, rank)), weight.device)
  const inverse = matrixOf(vectors.map((row) => row.slice(0, rank).map((value, j) => value / Math.max(singular[j]!, 1e-30))), weight.device)
  const [right, left] = unscoped(() => float32(() => [matmul(basis, rotation), matmul(projected, inverse)] as const))
  for (const tensor of [basis, projected, gram, rotation, inverse]) tensor.dispose()
  return { right, left, values: singular }
}

/**
 * PiSSA's start (Meng et al. 2024): with W ≈ U S Vᵀ of the largest `rank` singular values, B A scale is that product and the weight keeps the rest. The
 * vectors come from subspace iteration in float32, as PEFT's pissa_niter has them.
 */
export async function takeSingularVectors(path: string, layer: LoraLinear, part: LoraPart): Promise<void> {
  const base = layer.base_layer
  if (!(base instanceof Linear || base instanceof Conv1D)) throw new ConfigError(`initLoraWeights: "pissa" needs weights that are neither quantised nor carry another adapter; ${path} is a ${base.constructor.name}`)
  const { rank, scale } = part.options
  const isTransposed = base instanceof Conv1D
  const weight = unscoped(() => float32(() => scope(() => {
    const dense = toDtype(base.weight.tensor, 'float32')
    return (isTransposed ? transpose(dense) : dense).alias()
  })))
  if (rank > Math.min(...weight.shape)) throw new ConfigError(`r: ${path} has a weight of shape [${weight.shape.join(', ')}], whose rank cannot be ${rank}`)
  const { right, left, values } = await singularVectors(weight, rank)
  const [root, a, b, rest] = unscoped(() => float32(() => scope(() => {
    const factor = Tensor.from(Float32Array.from(values, (value) => Math.sqrt(value / scale)), [1, rank], { device: weight.device })
    const [first, second] = [transpose(mul(right, factor)), mul(left, factor)]
    const residual = sub(weight, mul(matmul(second, first), scale))
    return [factor, first, second, toDtype(isTransposed ? transpose(residual) : residual, base.weight.dtype)] as const
  })))
  part.lora_A.replace(a)
  part.lora_B.replace(b)
  base.weight.replace(rest)
  for (const tensor of [root, right, left, weight]) tensor.dispose()
  layer.forgetBase()
}
