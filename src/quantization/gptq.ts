import { QuantizedTensor } from '../ops/index.ts'
import { noGrad, scope, Tensor, unscoped } from '../tensor/index.ts'
import { inverseFactor } from './cholesky.ts'
import { Turns } from '../turns.ts'
import { toHalf } from './half.ts'

/** Columns whose errors are passed on together. */
const usualPanel = 128

export interface GptqOptions {
  readonly format: 'int4' | 'int8'
  /** Inputs that share a scale. */
  readonly block: number
  /** A zero point for each block. */
  readonly zeroPoints: boolean
}

/** Upper triangular U with H⁻¹ = Uᵀ U of the damped Gram matrix, and the inputs that are always 0. */
export interface GptqFactor { readonly u: Float64Array, readonly dead: readonly number[] }

/** `dampPercent` is added to the diagonal, as a share of its mean. The paper's H = 2 Xᵀ X gives the same codes as Xᵀ X. */
export async function gptqFactor(gram: Tensor, dampPercent: number): Promise<GptqFactor> {
  const n = gram.dim(0)
  const h = Float64Array.from(await gram.data() as Float32Array)
  const dead: number[] = []
  let trace = 0
  for (let i = 0; i < n; i++) {
    if (h[i * n + i] === 0) {
      dead.push(i)
      h[i * n + i] = 1
    }
    trace += h[i * n + i]!
  }
  for (let i = 0; i < n; i++) h[i * n + i]! += dampPercent * trace / n
  return { u: await inverseFactor(h, n), dead }
}

/** How the numbers of a block are rounded: code = clamp(round(w / scale) + zero). */
interface Grid { readonly scales: Float32Array, readonly zeros: Int16Array }

/** The least and the largest code, how many steps lie between them, and the code of 0 where there are no zero points. */
interface Codes { readonly low: number, readonly high: number, readonly steps: number, readonly middle: number }
const codesOf: Readonly<Record<GptqOptions['format'], Codes>> = { int8: { low: -128, high: 127, steps: 255, middle: 0 }, int4: { low: 0, high: 15, steps: 15, middle: 8 } }

/**
 * Rounds W [out, in] column by column to int4 or int8, and passes each column's error on to the columns that are still to come, so that X Wᵀ changes
 * least (GPTQ, Frantar et al. 2023). Scales come from the numbers as they are when their block begins, and are float16 numbers. No act-order.
 */
export async function gptqQuantize(weight: Tensor, { u, dead }: GptqFactor, options: GptqOptions): Promise<QuantizedTensor> {
  const [outputs, inputs] = weight.shape as [number, number]
  const { device } = weight
  const { format, block, zeroPoints } = options
  const groups = inputs / block
  const wholeRows = block === inputs
  const panel = wholeRows || block > usualPanel ? (wholeRows ? usualPanel : block) : Math.floor(usualPanel / block) * block
  // Column by column, so that a column is contiguous.
  const columns = unscoped(() => Tensor.empty([inputs, outputs], { device }))
  device.kernels.permute(columns.handle, weight.handle, [1, 0])
  const codes = new Uint8Array(inputs * outputs)
  const [scales, zeros] = [new Float32Array(outputs * groups), new Uint8Array(outputs * groups)]
  const range = codesOf[format]
  const turns = new Turns()
  try {
    let grid: Grid | undefined = wholeRows ? await turns.run(gridOf(await columns.data() as Float32Array, outputs, 0, inputs, range, zeroPoints)) : undefined
    for (let begin = 0; begin < inputs; begin += panel) {
      const count = Math.min(panel, inputs - begin)
      const rows = unscoped(() => columns.viewAs([count, outputs], begin * outputs))
      const w = await rows.data() as Float32Array
      rows.dispose()
      const errors = new Float32Array(count * outputs)
      for (let c = 0; c < count; c++) {
        const column = begin + c
        if (!wholeRows && column % block === 0) grid = await turns.run(gridOf(w, outputs, c, block, range, zeroPoints))
        const g = Math.floor(column / block)
        const step = 1 / u[column * inputs + column]!
        const isDead = dead.includes(column)
        for (let o = 0; o < outputs; o++) {
          const value = isDead ? 0 : w[c * outputs + o]!
          const [scale, zero] = [grid!.scales[o]!, grid!.zeros[o]!]
          const code = Math.min(range.high, Math.max(range.low, (scale > 0 ? Math.round(value / scale) : 0) + zero))
          codes[column * outputs + o] = code
          if (column % block === 0) [scales[o * groups + g], zeros[o * groups + g]] = [scale, zero]
          errors[c * outputs + o] = -(value - (code - zero) * scale) * step
        }
        if (turns.due) await turns.take()
        for (let next = c + 1; next < count; next++) {
          const factor = u[column * inputs + begin + next]!
          if (factor !== 0) for (let o = 0; o < outputs; o++) w[next * outputs + o]! += errors[c * outputs + o]! * factor
        }
      }
      passOn(columns, u, errors, begin, count)
    }
  } finally {
    columns.dispose()
  }
  const bytes = await turns.run(packed(codes, inputs, outputs, format))
  return unscoped(() => new QuantizedTensor(
    [outputs, inputs], format, block, Tensor.from(bytes, [outputs, format === 'int8' ? inputs : inputs / 2], { device }),
    Tensor.from(scales, [outputs, groups], { device }), zeroPoints ? Tensor.from(zeros, [outputs, groups], { device }) : null))
}

/** Adds a panel's errors to all columns after it: columns[j] += Σ u[i, j] errors[i], as one product. */
function passOn(columns: Tensor, u: Float64Array, errors: Float32Array, begin: number, count: number): void {
  const [inputs, outputs] = columns.shape as [number, number]
  const from = begin + count
  const left = inputs - from
  if (left === 0) return
  const factors = new Float32Array(count * left)
  for (let i = 0; i < count; i++) factors.set(u.subarray((begin + i) * inputs + from, (begin + i + 1) * inputs), i * left)
  noGrad(() => { scope(() => {
    const { device } = columns
    const rest = columns.viewAs([left, outputs], from * outputs)
    device.kernels.gemm(rest.handle, 0, Tensor.from(factors, [count, left], { device }).handle, Tensor.from(errors, [count, outputs], { device }).handle, 0, true, false, true, 0, false)
  }) })
}

/** The grid of `block` rows of w [columns, out] from row `first` on. */
function* gridOf(w: Float32Array, outputs: number, first: number, block: number, { low: least, steps, middle }: Codes, zeroPoints: boolean): Generator<undefined, Grid> {
  const [low, high] = [new Float32Array(outputs), new Float32Array(outputs)]
  for (let r = first; r < first + block; r++) {
    for (let o = 0; o < outputs; o++) {
      const value = w[r * outputs + o]!
      if (value < low[o]!) low[o] = value
      if (value > high[o]!) high[o] = value
    }
    yield
  }
  const [scales, zeros] = [new Float32Array(outputs), new Int16Array(outputs).fill(middle)]
  for (let o = 0; o < outputs; o++) {
    const span = zeroPoints ? high[o]! - low[o]! : 2 * Math.max(high[o]!, -low[o]!)
    const scale = scales[o] = toHalf(span / steps)
    if (zeroPoints) zeros[o] = least + (scale > 0 ? Math.min(steps, Math.round(-low[o]! / scale)) : 0)
  }
  return { scales, zeros }
}

/** Codes [in, out] as the bytes of rows [out, in]: two in a byte for int4, the earlier in the high half. */
function* packed(codes: Uint8Array, inputs: number, outputs: number, format: 'int4' | 'int8'): Generator<undefined, Uint8Array> {
  const perByte = format === 'int4' ? 2 : 1
  const width = inputs / perByte
  const bytes = new Uint8Array(outputs * width)
  for (let i = 0; i < inputs; i += perByte) {
    for (let o = 0; o < outputs; o++) {
      bytes[o * width + i / perByte] = perByte === 1 ? codes[i * outputs + o]! : codes[i * outputs + o]! << 4 | codes[(i + 1) * outputs + o]!
    }
    yield
  }
  return bytes
}
