// Generated from native/kernels.def by `npm run gen`; run it after changing the list.
/** A tensor of the native table. */
export type Handle = number

export interface Kernels {
  fill(y: Handle, value: number): void
  iota(y: Handle, start: number, step: number): void
  convert(y: Handle, x: Handle): void
  binary(y: Handle, a: Handle, b: Handle, operation: number): void
  add_into(y: Handle, x: Handle): void
  scale(y: Handle, x: Handle, scale: number): void
  unary(y: Handle, x: Handle, operation: number): void
  where(y: Handle, condition: Handle, a: Handle, b: Handle): void
  reduce(y: Handle, x: Handle, operation: number): void
  permute(y: Handle, x: Handle, order: readonly number[]): void
  slice(y: Handle, x: Handle, start: readonly number[]): void
  slice_into(y: Handle, x: Handle, start: readonly number[], accumulate: boolean): void
  gather_last(y: Handle, x: Handle, index: Handle): void
  scatter_add_last(y: Handle, x: Handle, index: Handle): void
  gemm(c: Handle, pre: Handle | 0, a: Handle, b: Handle, bias: Handle | 0, transposeA: boolean, transposeB: boolean, accumulate: boolean, activation: number, half: boolean): void
  decode_matmul(y: Handle, x: Handle, weight: Handle, bias: Handle | 0, activation: number): void
  sum_rows(y: Handle, x: Handle, accumulate: boolean): void
  attention(out: Handle, lse: Handle, q: Handle, k: Handle, v: Handle, spans: Handle, plan: Handle | 0, scale: number, causal: boolean, window: number, softCap: number, half: boolean): void
  attention_backward(dq: Handle, dk: Handle, dv: Handle, dout: Handle, q: Handle, k: Handle, v: Handle, out: Handle, lse: Handle, spans: Handle, plan: Handle | 0, scale: number, causal: boolean, window: number, softCap: number, half: boolean): void
  attention_dropout(out: Handle, lse: Handle, q: Handle, k: Handle, v: Handle, spans: Handle, scale: number, causal: boolean, window: number, softCap: number, half: boolean, p: number, seed: number, stream: number): void
  attention_dropout_backward(dq: Handle, dk: Handle, dv: Handle, dout: Handle, q: Handle, k: Handle, v: Handle, out: Handle, lse: Handle, spans: Handle, scale: number, causal: boolean, window: number, softCap: number, half: boolean, p: number, seed: number, stream: number): void
  attention_plan(plan: Handle, q: Handle, k: Handle, spans: Handle, causal: boolean, window: number, half: boolean, backward: boolean): void
  scatter_rows(y: Handle, x: Handle, slot: Handle): void
  gather_rows(y: Handle, x: Handle, row: Handle): void
  rms_norm(y: Handle, rstd: Handle, sum: Handle | 0, x: Handle, residual: Handle | 0, weight: Handle, eps: number, offset: number): void
  rms_norm_backward(dx: Handle, dweight: Handle | 0, dy: Handle, dsum: Handle | 0, x: Handle, weight: Handle, rstd: Handle, offset: number, accumulate: boolean): void
  layer_norm(y: Handle, mean: Handle, rstd: Handle, sum: Handle | 0, x: Handle, residual: Handle | 0, weight: Handle, bias: Handle | 0, eps: number): void
  layer_norm_backward(dx: Handle, dweight: Handle | 0, dbias: Handle | 0, dy: Handle, dsum: Handle | 0, x: Handle, weight: Handle, mean: Handle, rstd: Handle, accumulate: boolean): void
  rope(y: Handle, x: Handle, cos: Handle, sin: Handle, position: Handle, interleaved: boolean, inverse: boolean): void
  rope_pair(y: Handle, otherY: Handle, x: Handle, otherX: Handle, cos: Handle, sin: Handle, position: Handle, interleaved: boolean, inverse: boolean): void
  activation(y: Handle, x: Handle, activation: number): void
  activation_backward(dx: Handle, dy: Handle, x: Handle, activation: number): void
  gated_activation(y: Handle, gate: Handle, up: Handle, activation: number): void
  gated_activation_backward(dgate: Handle, dup: Handle, dy: Handle, gate: Handle, up: Handle, activation: number): void
  dropout(y: Handle, x: Handle, p: number, seed: number, stream: number): void
  embedding(y: Handle, weight: Handle, id: Handle): void
  embedding_backward(dweight: Handle, dy: Handle, id: Handle, accumulate: boolean): void
  softmax(y: Handle, x: Handle): void
  softmax_backward(dx: Handle, dy: Handle, y: Handle): void
  top_k(value: Handle, index: Handle, x: Handle): void
  cross_entropy(nll: Handle, lse: Handle, logits: Handle, labels: Handle, smoothing: number): void
  cross_entropy_backward(dlogits: Handle, dnll: Handle, logits: Handle, lse: Handle, labels: Handle, smoothing: number): void
  linear_cross_entropy(nll: Handle, correct: Handle, dhidden: Handle | 0, dweight: Handle | 0, dbias: Handle | 0, hidden: Handle, weight: Handle, bias: Handle | 0, labels: Handle, smoothing: number, softCap: number, gradientScale: number, accumulate: boolean, half: boolean): void
  selective_log_softmax(logprob: Handle, entropy: Handle, lse: Handle, logits: Handle, id: Handle, temperature: number): void
  selective_log_softmax_backward(dlogits: Handle, dlogprob: Handle, dentropy: Handle | 0, logits: Handle, id: Handle, entropy: Handle, lse: Handle, temperature: number): void
  linear_logprob(logprob: Handle, entropy: Handle, lse: Handle, hidden: Handle, weight: Handle, bias: Handle | 0, id: Handle, temperature: number, softCap: number, half: boolean): void
  linear_logprob_backward(dhidden: Handle | 0, dweight: Handle | 0, dbias: Handle | 0, dlogprob: Handle, dentropy: Handle | 0, hidden: Handle, weight: Handle, bias: Handle | 0, id: Handle, entropy: Handle, lse: Handle, temperature: number, softCap: number, accumulate: boolean, half: boolean): void
  linear_divergence(divergence: Handle, nll: Handle, correct: Handle, dhidden: Handle | 0, dweight: Handle | 0, dbias: Handle | 0, hidden: Handle, weight: Handle, bias: Handle | 0, teacherHidden: Handle, teacherWeight: Handle, teacherBias: Handle | 0, labels: Handle, beta: number, temperature: number, softScale: number, hardScale: number, accumulate: boolean, half: boolean, teacherHalf: boolean): void
  linear_top_divergence(divergence: Handle, nll: Handle, correct: Handle, dhidden: Handle | 0, dweight: Handle | 0, dbias: Handle | 0, hidden: Handle, weight: Handle, bias: Handle | 0, id: Handle, logprob: Handle, labels: Handle, vocabulary: number, beta: number, temperature: number, softScale: number, hardScale: number, renormalise: boolean, accumulate: boolean, half: boolean): void
  quantize(codes: Handle, scales: Handle, zeros: Handle | 0, x: Handle, format: number, block: number): void
  dequantize(y: Handle, codes: Handle, scales: Handle, zeros: Handle | 0, format: number, block: number): void
  quantized_matmul(y: Handle, x: Handle, codes: Handle, scales: Handle, zeros: Handle | 0, bias: Handle | 0, format: number, half: boolean): void
  decode_quantized_matmul(y: Handle, x: Handle, codes: Handle, scales: Handle, zeros: Handle | 0, bias: Handle | 0, format: number): void
  quantized_matmul_backward(dx: Handle, dy: Handle, codes: Handle, scales: Handle, zeros: Handle | 0, format: number, half: boolean): void
  lora_merge(weight: Handle, b: Handle, a: Handle, scale: number, transposed: boolean): void
  lora_merge_quantized(codes: Handle, scales: Handle, zeros: Handle | 0, error: Handle, b: Handle, a: Handle, scale: number, format: number): void
  group_advantages(advantage: Handle, withoutSpread: Handle, rewards: Handle, weights: Handle | 0, group: number, scaling: number, eps: number): void
  gae(advantage: Handle, returns: Handle, reward: Handle, value: Handle, mask: Handle | 0, gamma: number, lambda: number): void
  policy_loss(total: Handle, loss: Handle, dlogprob: Handle, statistics: Handle, logprob: Handle, old: Handle | 0, reference: Handle | 0, advantage: Handle, weight: Handle, factor: Handle | 0, starts: Handle, objective: number, level: number, low: number, high: number, limit: number, dualLimit: number, beta: number, correctedKl: boolean): void
  sum_squares(y: Handle, x: readonly Handle[], accumulate: boolean): void
  clip_factor(y: Handle, sumSquares: Handle, maxNorm: number): void
  adamw(parameter: readonly Handle[], first: readonly Handle[], second: readonly Handle[], halfCopy: readonly Handle[], gradient: readonly Handle[], factor: Handle | 0, learningRate: readonly number[], beta1: number, beta2: number, eps: number, weightDecay: readonly number[], step: number): void
  adamw_8bit(parameter: readonly Handle[], first: readonly Handle[], second: readonly Handle[], firstScale: readonly Handle[], secondScale: readonly Handle[], halfCopy: readonly Handle[], gradient: readonly Handle[], factor: Handle | 0, learningRate: readonly number[], beta1: number, beta2: number, eps: number, weightDecay: readonly number[], step: number): void
  count_non_finite(y: Handle, x: Handle, accumulate: boolean): void
  random_uniform(y: Handle, low: number, high: number, seed: number, stream: number): void
  random_normal(y: Handle, mean: number, deviation: number, seed: number, stream: number): void
  sample(token: Handle, logprob: Handle, logits: Handle, options: Handle, history: Handle | 0, draw: Handle): void
}
