// The kernels that a training step, a rollout and an adapter launch, at the sizes of an 8B model, with the bytes and operations each needs at least.
import { activations, advantageScalings, policyObjectives, quantizedFormats, ratioLevels, reduceOperations } from '../../src/ops/operations.ts'
import { bytesOf, Tensor } from '../../src/tensor/index.ts'
import type { Device, DType, Shape } from '../../src/tensor/index.ts'

/** Sizes of the model whose layers are timed: Llama 3 8B, or something an emulator can run. */
export interface Sizes {
  tokens: number; width: number; ffn: number; heads: number; kvHeads: number; headDim: number; vocabulary: number
  /** Rows of logits; fewer than tokens, as nothing ever holds them all. */
  logitRows: number
  sequences: number; cached: number; parameters: number
}
export const llama8b: Sizes = {
  tokens: 8192, width: 4096, ffn: 14336, heads: 32, kvHeads: 8, headDim: 128, vocabulary: 128256, logitRows: 2048, sequences: 64, cached: 4096, parameters: 200e6,
}
export const tiny: Sizes = { tokens: 40, width: 64, ffn: 96, heads: 4, kvHeads: 2, headDim: 64, vocabulary: 129, logitRows: 8, sequences: 3, cached: 33, parameters: 1000 }

export interface KernelCase {
  readonly name: string
  /** Bytes of device memory read and written at least. */
  readonly bytes: number
  readonly flops?: number
  /** Whether the operations run on tensor cores. */
  readonly tensorCores?: boolean
  /** Makes the tensors; returns the call to time. */
  setup(make: Maker): () => void
}

/** Makes tensors on the device and keeps them until the case is done. */
export class Maker {
  readonly device: Device
  readonly #made: Tensor[] = []
  constructor(device: Device) { this.device = device }
  #keep(tensor: Tensor): number {
    this.#made.push(tensor)
    return tensor.handle
  }
  empty(shape: Shape, dtype: DType = 'bfloat16'): number { return this.#keep(Tensor.empty(shape, { dtype, device: this.device })) }
  zeros(shape: Shape, dtype: DType = 'bfloat16'): number { return this.#keep(Tensor.zeros(shape, { dtype, device: this.device })) }
  normal(shape: Shape, dtype: DType = 'bfloat16', deviation = 1): number {
    const tensor = Tensor.empty(shape, { dtype, device: this.device })
    this.device.kernels.random_normal(tensor.handle, 0, deviation, 1, this.#made.length)
    return this.#keep(tensor)
  }
  ints(values: readonly number[], shape: Shape = [values.length]): number { return this.#keep(Tensor.from(Int32Array.from(values), shape, { device: this.device })) }
  floats(values: readonly number[], shape: Shape): number { return this.#keep(Tensor.from(Float32Array.from(values), shape, { device: this.device })) }
  dispose(): void { for (const tensor of this.#made.splice(0)) tensor.dispose() }
}

const upTo = (count: number, below: number): number[] => Array.from({ length: count }, (_, i) => i * 7919 % below)

function gemm(name: string, rows: number, inner: number, columns: number, dtype: 'bfloat16' | 'float32' = 'bfloat16', passes: { a?: boolean; b?: boolean } = {}): KernelCase {
  const { a = false, b = true } = passes
  const size = bytesOf(dtype)
  return {
    name, flops: 2 * rows * inner * columns, tensorCores: dtype === 'bfloat16', bytes: size * (rows * inner + inner * columns + rows * columns),
    setup: (make) => {
      const [y, x, w] = [make.empty([rows, columns], dtype), make.normal(a ? [inner, rows] : [rows, inner], dtype), make.normal(b ? [columns, inner] : [inner, columns], dtype, 0.02)]
      return () => { make.device.kernels.gemm(y, 0, x, w, 0, a, b, false, activations.none, dtype === 'bfloat16') }
    },
  }
}

function attention(name: string, sizes: Sizes, { length, headDim, heads, backward = false }: { length: number; headDim: number; heads: number; backward?: boolean }): KernelCase {
  const { tokens } = sizes
  const kvHeads = Math.max(1, Math.floor(heads * sizes.kvHeads / sizes.heads))
  const count = Math.floor(tokens / length)
  const pairs = count * length * length / 2
  const [q, kv] = [count * length * heads * headDim, count * length * kvHeads * headDim]
  return {
    name, tensorCores: true, flops: (backward ? 10 : 4) * pairs * heads * headDim, bytes: 2 * (backward ? 4 * q + 4 * kv : 2 * q + 2 * kv),
    setup: (make) => {
      const shape = [count * length, heads, headDim]
      const kvShape = [count * length, kvHeads, headDim]
      const spans = make.ints(Array.from({ length: count }, (_, i) => [i * length, length, i * length, length]).flat(), [count, 4])
      const [queries, keys, values] = [make.normal(shape), make.normal(kvShape), make.normal(kvShape)]
      const [out, lse] = [make.empty(shape), make.empty([count * length, heads], 'float32')]
      const { kernels } = make.device
      const scale = 1 / Math.sqrt(headDim)
      const forward = (): void => { kernels.attention(out, lse, queries, keys, values, spans, 0, scale, true, 0, 0, true) }
      if (!backward) return forward
      forward()
      const [dq, dk, dv, dout] = [make.empty(shape), make.empty(kvShape), make.empty(kvShape), make.normal(shape)]
      return () => { kernels.attention_backward(dq, dk, dv, dout, queries, keys, values, out, lse, spans, 0, scale, true, 0, 0, true) }
    },
  }
}

/** y = x Wᵀ, or dx = dy W, with NF4 weights: half a byte a number and a float32 scale for 64 of them. */
function quantized(name: string, rows: number, inner: number, columns: number, backward = false): KernelCase {
  const block = Math.min(64, inner)
  const weights = inner * columns
  return {
    name, flops: 2 * rows * weights, tensorCores: true, bytes: weights / 2 + 4 * weights / block + 2 * rows * (inner + columns),
    setup: (make) => {
      const { kernels } = make.device
      const [codes, scales, full] = [make.empty([columns, inner / 2], 'uint8'), make.empty([columns, inner / block], 'float32'), make.normal([columns, inner], 'bfloat16', 0.02)]
      kernels.quantize(codes, scales, 0, full, quantizedFormats.nf4, block)
      const [x, y] = [make.normal([rows, backward ? columns : inner]), make.empty([rows, backward ? inner : columns])]
      if (backward) return () => { kernels.quantized_matmul_backward(y, x, codes, scales, 0, quantizedFormats.nf4, true) }
      return () => { kernels.quantized_matmul(y, x, codes, scales, 0, 0, quantizedFormats.nf4, true) }
    },
  }
}

/** Every case at these sizes. */
export function kernelCases(s: Sizes): KernelCase[] {
  const { tokens, width, ffn, heads, kvHeads, headDim, vocabulary, logitRows, sequences, cached, parameters } = s
  const rows = tokens * width
  const gate = tokens * ffn
  const logits = logitRows * vocabulary
  const labels = upTo(logitRows, vocabulary)
  const [samples, answer] = [8 * sequences, Math.ceil(tokens / 8)]
  const half = (name: string, bytes: number, setup: KernelCase['setup']): KernelCase => ({ name, bytes, setup })
  return [
    gemm('gemm forward', tokens, width, ffn), gemm('gemm dx', tokens, ffn, width, 'bfloat16', { b: false }), gemm('gemm dw', width, tokens, ffn, 'bfloat16', { a: true, b: false }),
    gemm('gemm f32', Math.ceil(tokens / 4), width, width, 'float32'), gemm('gemm 1 row', 1, width, ffn), gemm('gemm 16 rows', 16, width, ffn), gemm('gemm 64 rows', 64, width, ffn),
    attention('attention 2k d128', s, { length: Math.min(tokens, 2048), headDim, heads }), attention('attention 8k d128', s, { length: tokens, headDim, heads }),
    attention('attention 2k d64', s, { length: Math.min(tokens, 2048), headDim: 64, heads }),
    attention('attention backward 2k d128', s, { length: Math.min(tokens, 2048), headDim, heads, backward: true }),
    attention('attention backward 2k d64', s, { length: Math.min(tokens, 2048), headDim: 64, heads, backward: true }),
    {
      name: 'attention decode', tensorCores: true, flops: 4 * sequences * cached * heads * headDim, bytes: 4 * sequences * cached * kvHeads * headDim,
      setup: (make) => {
        const shape = [sequences, heads, headDim]
        const cache = [sequences * cached, kvHeads, headDim]
        const spans = make.ints(Array.from({ length: sequences }, (_, i) => [i, 1, i * cached, cached]).flat(), [sequences, 4])
        const [q, k, v, out, lse] = [make.normal(shape), make.normal(cache), make.normal(cache), make.empty(shape), make.empty([sequences, heads], 'float32')]
        return () => { make.device.kernels.attention(out, lse, q, k, v, spans, 0, 1 / Math.sqrt(headDim), true, 0, 0, true) }
      },
    },
    quantized('nf4 matmul 1 row', 1, width, ffn), quantized('nf4 matmul 16 rows', 16, width, ffn), quantized('nf4 matmul', tokens, width, ffn), quantized('nf4 matmul backward', tokens, width, ffn, true),
    half('lora_merge r 16', 4 * width * ffn, (make) => {
      const [weight, b, a] = [make.normal([ffn, width], 'bfloat16', 0.02), make.normal([ffn, 16], 'float32', 0.02), make.normal([16, width], 'float32', 0.02)]
      return () => { make.device.kernels.lora_merge(weight, b, a, 1e-3, false) }
    }),
    half('rms_norm with residual', 8 * rows, (make) => {
      const [y, sum, x, residual, weight] = [make.empty([tokens, width]), make.empty([tokens, width]), make.normal([tokens, width]), make.normal([tokens, width]), make.normal([width])]
      const rstd = make.empty([tokens], 'float32')
      return () => { make.device.kernels.rms_norm(y, rstd, sum, x, residual, weight, 1e-5, 0) }
    }),
    half('rms_norm backward', 8 * rows, (make) => {
      const [dx, dy, dsum, x, weight] = [make.empty([tokens, width]), make.normal([tokens, width]), make.normal([tokens, width]), make.normal([tokens, width]), make.normal([width])]
      const [dweight, rstd] = [make.zeros([width], 'float32'), make.normal([tokens], 'float32')]
      return () => { make.device.kernels.rms_norm_backward(dx, dweight, dy, dsum, x, weight, rstd, 0, true) }
    }),
    half('layer_norm', 4 * rows, (make) => {
      const [y, x, weight, bias] = [make.empty([tokens, width]), make.normal([tokens, width]), make.normal([width]), make.normal([width])]
      const [mean, rstd] = [make.empty([tokens], 'float32'), make.empty([tokens], 'float32')]
      return () => { make.device.kernels.layer_norm(y, mean, rstd, 0, x, 0, weight, bias, 1e-5) }
    }),
    half('layer_norm backward', 6 * rows, (make) => {
      const [dx, dy, x, weight] = [make.empty([tokens, width]), make.normal([tokens, width]), make.normal([tokens, width]), make.normal([width])]
      const [dweight, dbias, mean, rstd] = [make.zeros([width], 'float32'), make.zeros([width], 'float32'), make.normal([tokens], 'float32'), make.normal([tokens], 'float32')]
      return () => { make.device.kernels.layer_norm_backward(dx, dweight, dbias, dy, 0, x, weight, mean, rstd, true) }
    }),
    half('rope', 4 * tokens * heads * headDim, (make) => {
      const [y, x] = [make.empty([tokens, heads, headDim]), make.normal([tokens, heads, headDim])]
      const [cos, sin] = [make.normal([tokens, headDim / 2], 'float32'), make.normal([tokens, headDim / 2], 'float32')]
      const position = make.ints(Array.from({ length: tokens }, (_, i) => i))
      return () => { make.device.kernels.rope(y, x, cos, sin, position, false, false) }
    }),
    half('rope_pair', 4 * tokens * (heads + kvHeads) * headDim, (make) => {
      const [shape, otherShape] = [[tokens, heads, headDim], [tokens, kvHeads, headDim]]
      const [y, otherY, x, otherX] = [make.empty(shape), make.empty(otherShape), make.normal(shape), make.normal(otherShape)]
      const [cos, sin] = [make.normal([tokens, headDim / 2], 'float32'), make.normal([tokens, headDim / 2], 'float32')]
      const position = make.ints(Array.from({ length: tokens }, (_, i) => i))
      return () => { make.device.kernels.rope_pair(y, otherY, x, otherX, cos, sin, position, false, false) }
    }),
    half('activation', 4 * gate, (make) => {
      const [y, x] = [make.empty([tokens, ffn]), make.normal([tokens, ffn])]
      return () => { make.device.kernels.activation(y, x, activations.gelu_tanh) }
    }),
    half('activation backward', 6 * gate, (make) => {
      const [dx, dy, x] = [make.empty([tokens, ffn]), make.normal([tokens, ffn]), make.normal([tokens, ffn])]
      return () => { make.device.kernels.activation_backward(dx, dy, x, activations.gelu_tanh) }
    }),
    half('gated_activation', 6 * gate, (make) => {
      const [y, g, up] = [make.empty([tokens, ffn]), make.normal([tokens, ffn]), make.normal([tokens, ffn])]
      return () => { make.device.kernels.gated_activation(y, g, up, activations.silu) }
    }),
    half('gated_activation backward', 10 * gate, (make) => {
      const [dg, du, dy, g, up] = [make.empty([tokens, ffn]), make.empty([tokens, ffn]), make.normal([tokens, ffn]), make.normal([tokens, ffn]), make.normal([tokens, ffn])]
      return () => { make.device.kernels.gated_activation_backward(dg, du, dy, g, up, activations.silu) }
    }),
    half('embedding', 4 * rows, (make) => {
      const [y, weight, id] = [make.empty([tokens, width]), make.normal([vocabulary, width]), make.ints(upTo(tokens, vocabulary))]
      return () => { make.device.kernels.embedding(y, weight, id) }
    }),
    half('embedding backward', 10 * rows, (make) => {
      const [dweight, dy, id] = [make.zeros([vocabulary, width], 'float32'), make.normal([tokens, width]), make.ints(upTo(tokens, vocabulary))]
      return () => { make.device.kernels.embedding_backward(dweight, dy, id, true) }
    }),
    half('dropout', 4 * rows, (make) => {
      const [y, x] = [make.empty([tokens, width]), make.normal([tokens, width])]
      return () => { make.device.kernels.dropout(y, x, 0.1, 1, 2) }
    }),
    half('sum of columns', 2 * rows, (make) => {
      const [y, x] = [make.empty([1, width]), make.normal([tokens, width])]
      return () => { make.device.kernels.reduce(y, x, reduceOperations.sum) }
    }),
    half('transpose', 4 * rows, (make) => {
      const [y, x] = [make.empty([width, tokens]), make.normal([tokens, width])]
      return () => { make.device.kernels.permute(y, x, [1, 0]) }
    }),
    half('gather_rows', 4 * rows, (make) => {
      const [y, x, row] = [make.empty([tokens, width]), make.normal([tokens, width]), make.ints(upTo(tokens, tokens))]
      return () => { make.device.kernels.gather_rows(y, x, row) }
    }),
    half('softmax', 4 * logits, (make) => {
      const [y, x] = [make.empty([logitRows, vocabulary]), make.normal([logitRows, vocabulary])]
      return () => { make.device.kernels.softmax(y, x) }
    }),
    half('softmax backward', 6 * logits, (make) => {
      const [dx, dy, y] = [make.empty([logitRows, vocabulary]), make.normal([logitRows, vocabulary]), make.normal([logitRows, vocabulary])]
      return () => { make.device.kernels.softmax_backward(dx, dy, y) }
    }),
    half('top_k, 64 of a row', 2 * logits, (make) => {
      const k = Math.min(64, vocabulary)
      const [value, index, x] = [make.empty([logitRows, k]), make.empty([logitRows, k], 'int32'), make.normal([logitRows, vocabulary])]
      return () => { make.device.kernels.top_k(value, index, x) }
    }),
    half('cross_entropy', 2 * logits, (make) => {
      const [nll, lse, x, id] = [make.empty([logitRows], 'float32'), make.empty([logitRows], 'float32'), make.normal([logitRows, vocabulary]), make.ints(labels)]
      return () => { make.device.kernels.cross_entropy(nll, lse, x, id, 0) }
    }),
    half('cross_entropy backward', 4 * logits, (make) => {
      const [nll, lse, x, id, dx] = [make.zeros([logitRows], 'float32'), make.empty([logitRows], 'float32'), make.normal([logitRows, vocabulary]), make.ints(labels), make.empty([logitRows, vocabulary])]
      make.device.kernels.cross_entropy(nll, lse, x, id, 0)
      return () => { make.device.kernels.cross_entropy_backward(dx, nll, x, lse, id, 0) }
    }),
    half('selective_log_softmax', 2 * logits, (make) => {
      const [logprob, entropy, lse] = [make.empty([logitRows], 'float32'), make.empty([logitRows], 'float32'), make.empty([logitRows], 'float32')]
      const [x, id] = [make.normal([logitRows, vocabulary]), make.ints(labels)]
      return () => { make.device.kernels.selective_log_softmax(logprob, entropy, lse, x, id, 1) }
    }),
    half('selective_log_softmax backward', 4 * logits, (make) => {
      const [logprob, entropy, lse, gradient] = [0, 1, 2, 3].map(() => make.empty([logitRows], 'float32')) as [number, number, number, number]
      const [x, dx, id] = [make.normal([logitRows, vocabulary]), make.empty([logitRows, vocabulary]), make.ints(labels)]
      make.device.kernels.selective_log_softmax(logprob, entropy, lse, x, id, 1)
      return () => { make.device.kernels.selective_log_softmax_backward(dx, gradient, 0, x, id, entropy, lse, 1) }
    }),
    ...[false, true].map((backward): KernelCase => ({
      name: `linear_logprob${backward ? ' backward' : ''}`, tensorCores: true, flops: (backward ? 6 : 2) * logitRows * width * vocabulary, bytes: (backward ? 8 : 2) * width * vocabulary + (backward ? 16 : 8) * logits,
      setup: (make) => {
        const [logprob, entropy, lse] = [make.empty([logitRows], 'float32'), make.empty([logitRows], 'float32'), make.empty([logitRows], 'float32')]
        const [hidden, weight, id] = [make.normal([logitRows, width]), make.normal([vocabulary, width], 'bfloat16', 0.02), make.ints(labels)]
        const { kernels } = make.device
        const forward = (): void => { kernels.linear_logprob(logprob, entropy, lse, hidden, weight, 0, id, 1, 0, true) }
        if (!backward) return forward
        forward()
        const [dhidden, dweight, gradient] = [make.empty([logitRows, width]), make.zeros([vocabulary, width], 'float32'), make.normal([logitRows], 'float32')]
        return () => { kernels.linear_logprob_backward(dhidden, dweight, 0, gradient, 0, hidden, weight, 0, id, entropy, lse, 1, 0, true, true) }
      },
    })),
    {
      name: 'linear_cross_entropy', tensorCores: true, flops: 6 * logitRows * width * vocabulary, bytes: 2 * 3 * width * vocabulary + 8 * logits,
      setup: (make) => {
        const [nll, correct, dhidden, dweight] = [make.empty([logitRows], 'float32'), make.empty([logitRows], 'float32'), make.empty([logitRows, width]), make.zeros([vocabulary, width], 'float32')]
        const [hidden, weight, id] = [make.normal([logitRows, width]), make.normal([vocabulary, width], 'bfloat16', 0.02), make.ints(labels)]
        return () => { make.device.kernels.linear_cross_entropy(nll, correct, dhidden, dweight, 0, hidden, weight, 0, id, 0, 0, 1, true, true) }
      },
    },
    {
      name: 'linear_divergence', tensorCores: true, flops: 8 * logitRows * width * vocabulary, bytes: 2 * 4 * width * vocabulary + 12 * logits,
      setup: (make) => {
        const [divergence, nll, correct] = [make.empty([logitRows], 'float32'), make.empty([logitRows], 'float32'), make.empty([logitRows], 'float32')]
        const [dhidden, dweight] = [make.empty([logitRows, width]), make.zeros([vocabulary, width], 'float32')]
        const side = (): [number, number] => [make.normal([logitRows, width]), make.normal([vocabulary, width], 'bfloat16', 0.02)]
        const [[hidden, weight], [teacherHidden, teacherWeight], id] = [side(), side(), make.ints(labels)]
        return () => { make.device.kernels.linear_divergence(divergence, nll, correct, dhidden, dweight, 0, hidden, weight, 0, teacherHidden, teacherWeight, 0, id, 0.5, 1, 1, 1, true, true, true) }
      },
    },
    {
      name: 'linear_top_divergence, 64', tensorCores: true, flops: 6 * logitRows * width * vocabulary, bytes: 2 * 3 * width * vocabulary + 8 * logits,
      setup: (make) => {
        const k = Math.min(64, vocabulary)
        const [divergence, nll, correct] = [make.empty([logitRows], 'float32'), make.empty([logitRows], 'float32'), make.empty([logitRows], 'float32')]
        const [dhidden, dweight] = [make.empty([logitRows, width]), make.zeros([vocabulary, width], 'float32')]
        const [hidden, weight, id] = [make.normal([logitRows, width]), make.normal([vocabulary, width], 'bfloat16', 0.02), make.ints(labels)]
        const top = make.ints(Array.from({ length: logitRows * k }, (_, i) => i % k * Math.floor(vocabulary / k)), [logitRows, k])
        const logprob = make.floats(Array.from({ length: logitRows * k }, () => -Math.log(2 * k)), [logitRows, k])
        return () => { make.device.kernels.linear_top_divergence(divergence, nll, correct, dhidden, dweight, 0, hidden, weight, 0, top, logprob, id, vocabulary, 0.5, 1, 1, 1, false, true, true) }
      },
    },
    half('quantize nf4', 2.5625 * width * ffn, (make) => {
      const [codes, scales, x] = [make.empty([ffn, width / 2], 'uint8'), make.empty([ffn, width / 64], 'float32'), make.normal([ffn, width])]
      return () => { make.device.kernels.quantize(codes, scales, 0, x, quantizedFormats.nf4, 64) }
    }),
    half('dequantize nf4', 2.5625 * width * ffn, (make) => {
      const [codes, scales, x] = [make.empty([ffn, width / 2], 'uint8'), make.empty([ffn, width / 64], 'float32'), make.normal([ffn, width])]
      make.device.kernels.quantize(codes, scales, 0, x, quantizedFormats.nf4, 64)
      return () => { make.device.kernels.dequantize(x, codes, scales, 0, quantizedFormats.nf4, 64) }
    }),
    half('lora_merge into nf4, r 16', 1.125 * width * ffn, (make) => {
      const [codes, scales, x] = [make.empty([ffn, width / 2], 'uint8'), make.empty([ffn, width / 64], 'float32'), make.normal([ffn, width], 'bfloat16', 0.02)]
      const [error, b, a] = [make.empty([2], 'float64'), make.normal([ffn, 16], 'float32', 0.02), make.normal([16, width], 'float32', 0.02)]
      make.device.kernels.quantize(codes, scales, 0, x, quantizedFormats.nf4, 64)
      return () => { make.device.kernels.lora_merge_quantized(codes, scales, 0, error, b, a, 1e-3, quantizedFormats.nf4) }
    }),
    half('adamw_8bit', 16 * parameters, (make) => {
      const blocks = Math.ceil(parameters / 256)
      const [p, g, m, v] = [make.normal([parameters], 'float32'), make.normal([parameters], 'float32'), make.zeros([parameters], 'uint8'), make.zeros([parameters], 'uint8')]
      const [ms, vs] = [make.zeros([blocks], 'float32'), make.zeros([blocks], 'float32')]
      return () => { make.device.kernels.adamw_8bit([p], [m], [v], [ms], [vs], [], [g], 0, [1e-4], 0.9, 0.999, 1e-8, [0.1], 1) }
    }),
    half('group_advantages 512 × 8', 4 * 2 * 4096, (make) => {
      const [advantage, alike, rewards] = [make.empty([4096], 'float32'), make.empty([1], 'int32'), make.normal([4096, 1], 'float32')]
      return () => { make.device.kernels.group_advantages(advantage, alike, rewards, 0, 8, advantageScalings.group, 1e-4) }
    }),
    half(`gae, ${samples} sequences`, 16 * samples * answer, (make) => {
      const [advantage, returns, reward, value] = [make.empty([samples, answer], 'float32'), make.empty([samples, answer], 'float32'), make.normal([samples, answer], 'float32'), make.normal([samples, answer], 'float32')]
      return () => { make.device.kernels.gae(advantage, returns, reward, value, 0, 0.99, 0.95) }
    }),
    half(`policy_loss, ${samples} sequences`, 24 * samples * answer, (make) => {
      const count = samples * answer
      const [total, loss, gradient, statistics] = [make.empty([1], 'float32'), make.empty([count], 'float32'), make.empty([count], 'float32'), make.empty([7], 'float64')]
      const [logprob, old, reference, advantage] = [make.normal([count], 'float32'), make.normal([count], 'float32'), make.normal([count], 'float32'), make.normal([samples], 'float32')]
      const [weight, starts] = [make.normal([count], 'float32'), make.ints(Array.from({ length: samples + 1 }, (_, i) => i * answer))]
      return () => { make.device.kernels.policy_loss(total, loss, gradient, statistics, logprob, old, reference, advantage, weight, 0, starts, policyObjectives.clip, ratioLevels.token, 0.8, 1.2, Infinity, Infinity, 0.04, false) }
    }),
    half('adamw', 28 * parameters + 2 * parameters, (make) => {
      const [p, m, v, g] = [make.normal([parameters], 'float32'), make.zeros([parameters], 'float32'), make.zeros([parameters], 'float32'), make.normal([parameters], 'float32')]
      const copy = make.empty([parameters])
      return () => { make.device.kernels.adamw([p], [m], [v], [copy], [g], 0, [1e-4], 0.9, 0.999, 1e-8, [0.1], 1) }
    }),
    half('sum_squares', 4 * parameters, (make) => {
      const [y, x] = [make.zeros([1], 'float64'), make.normal([parameters], 'float32')]
      return () => { make.device.kernels.sum_squares(y, [x], true) }
    }),
    half('convert f32 to bf16', 6 * parameters, (make) => {
      const [y, x] = [make.empty([parameters]), make.normal([parameters], 'float32')]
      return () => { make.device.kernels.convert(y, x) }
    }),
    half('random_normal', 4 * parameters, (make) => {
      const y = make.empty([parameters], 'float32')
      return () => { make.device.kernels.random_normal(y, 0, 1, 1, 2) }
    }),
    half('count_non_finite', 4 * parameters, (make) => {
      const [y, x] = [make.zeros([1], 'int32'), make.normal([parameters], 'float32')]
      return () => { make.device.kernels.count_non_finite(y, x, false) }
    }),
    half('binary add', 6 * rows, (make) => {
      const [y, a, b] = [make.empty([tokens, width]), make.normal([tokens, width]), make.normal([tokens, width])]
      return () => { make.device.kernels.binary(y, a, b, 0) }
    }),
    half('sample', 4 * sequences * vocabulary, (make) => {
      const [token, logprob, x] = [make.empty([sequences], 'int32'), make.empty([sequences], 'float32'), make.normal([sequences, vocabulary], 'float32')]
      const options = make.floats(Array.from({ length: sequences }, () => [0.8, 50, 0.95, 0, 1]).flat(), [sequences, 5])
      const draw = make.ints(Array.from({ length: sequences }, (_, i) => [i, 0]).flat(), [sequences, 2])
      return () => { make.device.kernels.sample(token, logprob, x, options, 0, draw) }
    }),
  ]
}
