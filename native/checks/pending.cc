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
void sum_rows(InOut, In, bool) {}
void activation(Out, In, int64_t) {}
void activation_backward(Out, In, In, int64_t) {}
void gated_activation(Out, In, In, int64_t) {}
void gated_activation_backward(Out, Out, In, In, In, int64_t) {}
void dropout(Out, In, double, int64_t, int64_t) {}
void softmax(Out, In) {}
void softmax_backward(Out, In, In) {}
void top_k(Out, Out, In) {}
void cross_entropy(Out, Out, In, In, double) {}
void cross_entropy_backward(Out, In, In, In, In, double) {}
void linear_cross_entropy(Out, Out, MaybeOut, MaybeInOut, MaybeInOut, In, In, MaybeIn, In, double, double, double, bool, bool) {}
void selective_log_softmax(Out, Out, Out, In, In, double) {}
void selective_log_softmax_backward(Out, In, MaybeIn, In, In, In, In, double) {}
void linear_logprob(Out, Out, Out, In, In, MaybeIn, In, double, double, bool) {}
void linear_logprob_backward(MaybeOut, MaybeInOut, MaybeInOut, In, MaybeIn, In, In, MaybeIn, In, In, In, double, double, bool, bool) {}
void linear_divergence(Out, Out, Out, MaybeOut, MaybeInOut, MaybeInOut, In, In, MaybeIn, In, In, MaybeIn, In, double, double, double, double, bool, bool, bool) {}
void linear_top_divergence(Out, Out, Out, MaybeOut, MaybeInOut, MaybeInOut, In, In, MaybeIn, In, In, In, int64_t, double, double, double, double, bool, bool, bool) {}
void group_advantages(Out, Out, In, MaybeIn, int64_t, int64_t, double) {}
void gae(Out, Out, In, In, MaybeIn, double, double) {}
void policy_loss(Out, Out, Out, Out, In, MaybeIn, MaybeIn, In, In, MaybeIn, In, int64_t, int64_t, double, double, double, double, double, bool) {}
void sum_squares(InOut, Ins, bool) {}
void clip_factor(Out, In, double) {}
void adamw(InOuts, InOuts, InOuts, Outs, Ins, MaybeIn, Numbers, double, double, double, Numbers, int64_t) {}
void adamw_8bit(InOuts, InOuts, InOuts, InOuts, InOuts, Outs, Ins, MaybeIn, Numbers, double, double, double, Numbers, int64_t) {}
void count_non_finite(InOut, In, bool) {}
void random_uniform(Out, double, double, int64_t, int64_t) {}
void random_normal(Out, double, double, int64_t, int64_t) {}
void sample(Out, Out, In, In, MaybeIn, In) {}
}  // namespace anneal::checks
