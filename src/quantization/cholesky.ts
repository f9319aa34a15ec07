import { NonFiniteError } from '../errors.ts'
import { Turns } from '../turns.ts'

/** Rows that are solved together, so that each row before them is read once for all. */
const tile = 8

/** Rows after which the event loop may have its turn. */
const rowsATurn = 64

/**
 * U with A⁻¹ = Uᵀ U, upper triangular, of a symmetric positive definite A [n, n], in float64: the factor that GPTQ walks along. A = R Rᵀ with R upper
 * triangular gives it as R⁻¹, without A⁻¹ itself. A is overwritten. Throws NonFiniteError where A is not positive definite.
 */
export async function inverseFactor(a: Float64Array, n: number): Promise<Float64Array> {
  const turns = new Turns()
  await turns.run(factorFromEnd(a, n))
  return turns.run(invertUpper(a, n))
}

/** A = R Rᵀ, R upper triangular, in place, from the last row to the first: Cholesky's method with rows and columns in reverse. */
function* factorFromEnd(a: Float64Array, n: number): Generator<undefined, void> {
  for (let end = n; end > 0; end -= tile) {
    const begin = Math.max(0, end - tile)
    for (let j = n - 1; j >= begin; j--) {
      for (let i = Math.min(j, end - 1); i >= begin; i--) {
        let rest = a[i * n + j]!
        for (let k = j + 1; k < n; k++) rest -= a[i * n + k]! * a[j * n + k]!
        if (i !== j) { a[i * n + j] = rest / a[j * n + j]!; continue }
        if (!(rest > 0)) throw new NonFiniteError(`gptq: the inputs' Gram matrix is not positive definite at input ${j}; raise dampPercent, or calibrate with more text`)
        a[j * n + j] = Math.sqrt(rest)
      }
      yield
    }
  }
}

/** R⁻¹ of an upper triangular R; what lies below R's diagonal is not read. */
function* invertUpper(r: Float64Array, n: number): Generator<undefined, Float64Array> {
  const u = new Float64Array(n * n)
  for (let i = n - 1; i >= 0; i--) {
    const scale = 1 / r[i * n + i]!
    u[i * n + i] = scale
    for (let k = i + 1; k < n; k++) {
      const factor = r[i * n + k]! * scale
      if (factor === 0) continue
      for (let j = k; j < n; j++) u[i * n + j]! -= factor * u[k * n + j]!
      if (k % rowsATurn === 0) yield
    }
  }
  return u
}
