import type { Kernels } from '../../lib/index.js'

type Forward = Exclude<keyof Kernels, `${string}_backward`>
type Unpaired = { [K in Forward]: `${K}_backward` extends keyof Kernels ? never : K }[Forward]

/** The kernels without a `_backward`, and why. The compiler keeps this list exact: a new kernel must have one or say here why not. */
export const noBackward = {
  fill: 'a constant', iota: 'a constant', random_uniform: 'a constant', random_normal: 'a constant',
  convert: 'its gradient is convert', binary: 'primitives.ts has its gradients', add_into: 'accumulates gradients', scale: 'its gradient is scale',
  unary: 'primitives.ts has its gradients', where: 'its gradient is where', reduce: 'primitives.ts has its gradients', permute: 'its gradient is permute',
  slice: 'its gradient is slice_into', slice_into: 'writes into memory that has no gradient', gather_last: 'its gradient is scatter_add_last',
  scatter_add_last: 'is the gradient of gather_last', decode_matmul: 'new tokens have no gradient', decode_quantized_matmul: 'new tokens have no gradient', gemm: 'its gradients are gemm', sum_rows: 'is the gradient of a bias',
  attention_plan: 'is about shapes, not numbers',
  scatter_rows: 'writes a key/value cache, which has no gradient', gather_rows: 'reads a key/value cache, which has no gradient',
  rope: 'its gradient is the inverse rotation', rope_pair: 'its gradient is the inverse rotation', dropout: 'is its own gradient',
  linear_cross_entropy: 'computes its gradient in the forward pass',
  linear_divergence: 'computes its gradient in the forward pass', linear_top_divergence: 'computes its gradient in the forward pass',
  sum_squares: 'measures gradients', clip_factor: 'measures gradients', adamw: 'updates parameters', count_non_finite: 'counts',
  quantize: 'rounds to codes, which has no gradient', dequantize: 'reads a frozen weight',
  lora_merge: 'updates a weight in place', lora_merge_quantized: 'updates a weight in place',
  group_advantages: 'advantages are constants', gae: 'advantages and returns are constants', policy_loss: 'computes its gradient in the forward pass',
  adamw_8bit: 'updates parameters',
  sample: 'draws a token, which has no gradient', top_k: 'its gradient is scatter_add_last',
} satisfies Record<Unpaired, string>
