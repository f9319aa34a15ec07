/**
 * Eigenvalues, largest first, and eigenvectors as the columns of `vectors`, of a small symmetric matrix given row by row: Jacobi's rotations in float64
 * until what is off the diagonal is below rounding.
 */
export function symmetricEigen(rows: readonly (readonly number[])[]): { values: number[], vectors: number[][] } {
  const n = rows.length
  const a = rows.map((row) => [...row])
  const v = rows.map((_, i) => rows.map((_row, j) => Number(i === j)))
  const rotate = (matrix: number[][], i: number, j: number, k: number, l: number, s: number, tau: number): void => {
    const [g, h] = [matrix[i]![j]!, matrix[k]![l]!]
    matrix[i]![j] = g - s * (h + g * tau)
    matrix[k]![l] = h + s * (g - h * tau)
  }
  const scale = Math.max(...a.map((row, i) => Math.abs(row[i]!)), Number.MIN_VALUE)
  for (let sweep = 0; sweep < 60; sweep++) {
    let largest = 0
    for (let p = 0; p < n - 1; p++) {
      for (let q = p + 1; q < n; q++) {
        const off = a[p]![q]!
        largest = Math.max(largest, Math.abs(off))
        if (Math.abs(off) < 1e-17 * scale) continue
        const theta = (a[q]![q]! - a[p]![p]!) / (2 * off)
        const t = (theta < 0 ? -1 : 1) / (Math.abs(theta) + Math.sqrt(theta * theta + 1))
        const c = 1 / Math.sqrt(t * t + 1)
        const s = t * c
        const tau = s / (1 + c)
        a[p]![p]! -= t * off
        a[q]![q]! += t * off
        a[p]![q] = 0
        for (let j = 0; j < p; j++) rotate(a, j, p, j, q, s, tau)
        for (let j = p + 1; j < q; j++) rotate(a, p, j, j, q, s, tau)
        for (let j = q + 1; j < n; j++) rotate(a, p, j, q, j, s, tau)
        for (let j = 0; j < n; j++) rotate(v, j, p, j, q, s, tau)
      }
    }
    if (largest < 1e-16 * scale) break
  }
  const order = a.map((row, i) => ({ value: row[i]!, i })).sort((x, y) => y.value - x.value)
  return { values: order.map(({ value }) => value), vectors: v.map((row) => order.map(({ i }) => row[i]!)) }
}
