// A call of every kernel with arguments it accepts, for the fuzzer to spoil.

/** A tensor to make: dtype, shape, and for indices how far its numbers go. */
export interface TensorRecipe { readonly dtype: 'f' | 'float32' | 'float64' | 'int32' | 'bfloat16' | 'uint8'; readonly shape: readonly number[]; readonly below?: number; readonly numbers?: readonly number[] }
export type ArgumentRecipe = TensorRecipe | number | boolean | readonly number[] | readonly TensorRecipe[]

/** `f` stands for the float dtype of the call. */
const f = (...shape: number[]): TensorRecipe => ({ dtype: 'f', shape })
const f32 = (...shape: number[]): TensorRecipe => ({ dtype: 'float32', shape })
const f64 = (...shape: number[]): TensorRecipe => ({ dtype: 'float64', shape })
const bf16 = (...shape: number[]): TensorRecipe => ({ dtype: 'bfloat16', shape })
const index = (below: number, ...shape: number[]): TensorRecipe => ({ dtype: 'int32', shape, below })
const bytes = (...shape: number[]): TensorRecipe => ({ dtype: 'uint8', shape, below: 256 })
const spans: TensorRecipe = { dtype: 'int32', shape: [2, 4], numbers: [0, 5, 0, 5, 5, 4, 5, 7] }

export const recipes: Readonly<Record<string, readonly ArgumentRecipe[]>> = {
  fill: [f(3, 5), 2], iota: [f32(7), 1, 2], convert: [f(3, 5), f(3, 5)], binary: [f(3, 5), f(3, 1), f(5), 2], add_into: [f(3, 5), f(3, 5)], scale: [f(3, 5), f(3, 5), 2],
  unary: [f(3, 5), f(3, 5), 1], where: [f(3, 5), f(3, 5), f(3, 5), f(3, 5)], reduce: [f(3, 1), f(3, 5), 0], permute: [f(5, 3, 2), f(2, 3, 5), [2, 1, 0]],
  slice: [f(2, 2), f(3, 5), [1, 2]], slice_into: [f(3, 5), f(2, 2), [1, 2], true], gather_last: [f(3, 2), f(3, 5), index(5, 3, 2)], scatter_add_last: [f(3, 5), f(3, 2), index(5, 3, 2)],
  gemm: [f(9, 7), f(9, 7), f(9, 33), f(33, 7), f(7), false, false, true, 1, true], sum_rows: [f32(5), f(3, 5), true],
  attention: [f(9, 4, 16), f32(9, 4), f(9, 4, 16), f(12, 2, 16), f(12, 2, 16), spans, index(1, 99), 0.25, true, 3, 2, false],
  attention_plan: [index(1, 99), f(9, 4, 16), f(12, 2, 16), spans, true, 3, false, true],
  attention_backward: [
    f(9, 4, 16), f(12, 2, 16), f(12, 2, 16), f(9, 4, 16), f(9, 4, 16), f(12, 2, 16), f(12, 2, 16), f(9, 4, 16), f32(9, 4), spans, index(1, 99), 0.25, true, 3, 2, false,
  ],
  attention_dropout: [f(9, 4, 16), f32(9, 4), f(9, 4, 16), f(12, 2, 16), f(12, 2, 16), spans, 0.25, true, 3, 2, false, 0.3, 1, 2],
  attention_dropout_backward: [
    f(9, 4, 16), f(12, 2, 16), f(12, 2, 16), f(9, 4, 16), f(9, 4, 16), f(12, 2, 16), f(12, 2, 16), f(9, 4, 16), f32(9, 4), spans, 0.25, true, 3, 2, false, 0.3, 1, 2,
  ],
  top_k: [f(3, 4), index(33, 3, 4), f(3, 33)],
  scatter_rows: [f(7, 2, 3), f(3, 2, 3), index(7, 3)], gather_rows: [f(3, 2, 3), f(7, 2, 3), index(7, 3)],
  rms_norm: [f(3, 33), f32(3), f(3, 33), f(3, 33), f(3, 33), f(33), 1e-6, 1], rms_norm_backward: [f(3, 33), f32(33), f(3, 33), f(3, 33), f(3, 33), f(33), f32(3), 0, true],
  layer_norm: [f(3, 33), f32(3), f32(3), f(3, 33), f(3, 33), f(3, 33), f(33), f(33), 1e-5],
  layer_norm_backward: [f(3, 33), f32(33), f32(33), f(3, 33), f(3, 33), f(3, 33), f(33), f32(3), f32(3), true],
  rope: [f(5, 2, 16), f(5, 2, 16), f32(9, 4), f32(9, 4), index(9, 5), true, false],
  rope_pair: [f(5, 2, 16), f(5, 1, 16), f(5, 2, 16), f(5, 1, 16), f32(9, 4), f32(9, 4), index(9, 5), true, false], activation: [f(3, 5), f(3, 5), 2], activation_backward: [f(3, 5), f(3, 5), f(3, 5), 2],
  gated_activation: [f(3, 5), f(3, 5), f(3, 5), 3], gated_activation_backward: [f(3, 5), f(3, 5), f(3, 5), f(3, 5), f(3, 5), 3], dropout: [f(3, 5), f(3, 5), 0.5, 1, 2],
  embedding: [f(4, 7), f(9, 7), index(9, 4)], embedding_backward: [f32(9, 7), f(4, 7), index(9, 4), true], softmax: [f(3, 33), f(3, 33)], softmax_backward: [f(3, 33), f(3, 33), f(3, 33)],
  cross_entropy: [f32(5), f32(5), f(5, 33), index(33, 5), 0.1], cross_entropy_backward: [f(5, 33), f32(5), f(5, 33), f32(5), index(33, 5), 0.1],
  linear_cross_entropy: [f32(5), f32(5), f(5, 16), f32(33, 16), f32(33), f(5, 16), f(33, 16), f(33), index(33, 5), 0.1, 5, 0.5, true, false],
  linear_divergence: [
    f32(5), f32(5), f32(5), f(5, 16), f32(33, 16), f32(33), f(5, 16), f(33, 16), f(33), f(5, 8), f(31, 8), f(31), index(31, 5), 0.3, 2, 0.5, 0.2, true, false, false,
  ],
  linear_top_divergence: [
    f32(5), f32(5), f32(5), f(5, 16), f32(33, 16), f32(33), f(5, 16), f(33, 16), f(33), index(32, 5, 4), f32(5, 4), index(32, 5), 32, 0.3, 2, 0.5, 0.2, false, true, false,
  ],
  selective_log_softmax: [f32(5), f32(5), f32(5), f(5, 33), index(33, 5), 0.7], selective_log_softmax_backward: [f(5, 33), f32(5), f32(5), f(5, 33), index(33, 5), f32(5), f32(5), 0.7],
  linear_logprob: [f32(5), f32(5), f32(5), f(5, 16), f(33, 16), f(33), index(33, 5), 0.7, 5, false],
  linear_logprob_backward: [f(5, 16), f32(33, 16), f32(33), f32(5), f32(5), f(5, 16), f(33, 16), f(33), index(33, 5), f32(5), f32(5), 0.7, 5, true, false],
  sum_squares: [f64(1), [f(3, 5), f32(7)], true], clip_factor: [f32(2), f64(1), 1],
  adamw: [[f32(70), f32(3)], [f32(70), f32(3)], [f32(70), f32(3)], [bf16(70), bf16(3)], [f(70), f(3)], f32(2), [1e-3, 1e-2], 0.9, 0.99, 1e-8, [0.1, 0], 3],
  quantize: [bytes(3, 32), f32(3, 2), bytes(3, 2), f(3, 64), 3, 32], dequantize: [f(3, 64), bytes(3, 32), f32(3, 2), bytes(3, 2), 3, 32],
  quantized_matmul: [f(5, 3), f(5, 64), bytes(3, 32), f32(3, 2), bytes(3, 2), f(3), 3, false], quantized_matmul_backward: [f(5, 64), f(5, 3), bytes(3, 32), f32(3, 2), bytes(3, 2), 3, false],
  decode_matmul: [f(9, 33), f(9, 65), bf16(33, 65), f(33), 1], decode_quantized_matmul: [f(5, 3), f(5, 64), bytes(3, 32), f32(3, 2), bytes(3, 2), f(3), 3],
  lora_merge: [f(3, 64), f(3, 2), f(2, 64), 0.5, false], lora_merge_quantized: [bytes(3, 32), f32(3, 2), bytes(3, 2), f64(2), f(3, 2), f(2, 64), 0.5, 3],
  group_advantages: [f32(6), index(7, 1), f32(6, 2), f32(2), 3, 1, 1e-4], gae: [f32(2, 5), f32(2, 5), f32(2, 5), f32(2, 5), f32(2, 5), 0.9, 0.8],
  policy_loss: [
    f32(1), f32(9), f32(9), f64(7), f32(9), f32(9), f32(9), f32(2), f32(9), f32(9), { dtype: 'int32', shape: [3], numbers: [0, 5, 9] }, 0, 0, 0.2, 0.2, 5, 3, 0.1, false,
  ],
  adamw_8bit: [[f32(300), f32(5)], [bytes(300), bytes(5)], [bytes(300), bytes(5)], [f32(2), f32(1)], [f32(2), f32(1)], [bf16(300), bf16(5)], [f(300), f(5)], f32(2), [1e-3, 1e-2], 0.9, 0.99, 1e-8, [0.1, 0], 3],
  count_non_finite: [index(5, 1), f(3, 5), true], random_uniform: [f(33), -1, 1, 3, 4], random_normal: [f(33), 0, 1, 3, 4],
  sample: [index(9, 3), f32(3), f(3, 33), { dtype: 'float32', shape: [3, 5], numbers: [1, 0, 1, 0, 1, 0.7, 5, 0.9, 0.1, 1.2, 0, 0, 1, 0, 1] }, index(33, 3, 4), index(9, 3, 2)],
}
