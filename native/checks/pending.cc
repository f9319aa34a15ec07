#include "../checks.h"

namespace anneal::checks {
void fill(Out, double) {}
void iota(Out, double, double) {}
void convert(Out, In) {}
void binary(Out, In, In, int64_t) {}
void add_into(InOut, In) {}
void scale(Out, In, double) {}
void unary(Out, In, int64_t) {}
void where(Out, In, In, In) {}
void reduce(Out, In, int64_t) {}
void permute(Out, In, Axes) {}
void slice(Out, In, Axes) {}
void slice_into(InOut, In, Axes, bool) {}
void gather_last(Out, In, In) {}
void scatter_add_last(InOut, In, In) {}
void gemm(InOut, MaybeOut, In, In, MaybeIn, bool, bool, bool, int64_t, bool) {}
void decode_matmul(Out, In, In, MaybeIn, int64_t) {}
void sum_rows(InOut, In, bool) {}
void attention(Out, Out, In, In, In, In, MaybeIn, double, bool, int64_t, double, bool) {}
void attention_backward(Out, Out, Out, In, In, In, In, In, In, In, MaybeIn, double, bool, int64_t, double, bool) {}
void attention_plan(Out, In, In, In, bool, int64_t, bool, bool) {}
void scatter_rows(InOut, In, In) {}
void gather_rows(Out, In, In) {}
void rms_norm(Out, Out, MaybeOut, In, MaybeIn, In, double, double) {}
void rms_norm_backward(Out, MaybeInOut, In, MaybeIn, In, In, In, double, bool) {}
void layer_norm(Out, Out, Out, MaybeOut, In, MaybeIn, In, MaybeIn, double) {}
void layer_norm_backward(Out, MaybeInOut, MaybeInOut, In, MaybeIn, In, In, In, In, bool) {}
void rope(Out, In, In, In, In, bool, bool) {}
void rope_pair(Out, Out, In, In, In, In, In, bool, bool) {}
void activation(Out, In, int64_t) {}
void activation_backward(Out, In, In, int64_t) {}
void gated_activation(Out, In, In, int64_t) {}
void gated_activation_backward(Out, Out, In, In, In, int64_t) {}
void embedding(Out, In, In) {}
void embedding_backward(InOut, In, In, bool) {}
void quantize(Out, Out, MaybeOut, In, int64_t, int64_t) {}
void dequantize(Out, In, In, MaybeIn, int64_t, int64_t) {}
void quantized_matmul(Out, In, In, In, MaybeIn, MaybeIn, int64_t, bool) {}
void decode_quantized_matmul(Out, In, In, In, MaybeIn, MaybeIn, int64_t) {}
void quantized_matmul_backward(Out, In, In, In, MaybeIn, int64_t, bool) {}
void lora_merge(InOut, In, In, double, bool) {}
void lora_merge_quantized(InOut, InOut, MaybeInOut, Out, In, In, double, int64_t) {}
}  // namespace anneal::checks
