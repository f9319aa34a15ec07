// Output layer and cross-entropy in one: loss and gradients without logits of all tokens. Three matrix products per chunk of tokens; one kernel between them
// takes the loss and the argmax of each row of logits and turns it into its gradient.
#include "../kernels.h"
#include "loss_linear.h"

namespace anneal::cuda {

struct LinearCrossEntropyArguments {
  float *nll, *correct;
  const int32_t* labels;
  Smoothing smoothing;
  float factor;
  Fault* fault;
};

struct NoGradient {};

// G: the gradient's type, or NoGradient.
template <class G> __global__ void __launch_bounds__(most_logit_threads) linear_cross_entropy_kernel(LogitChunk chunk, LinearCrossEntropyArguments a) {
  constexpr bool with_gradient = !std::is_same_v<G, NoGradient>;
  ANNEAL_SHARED(LogSumRoom, room, 1);
  const int64_t row = chunk_row(), token = chunk.first + row;
  float* logits = chunk.logits + row * chunk.stride;
  const int label = a.labels[token];
  if (!counts(label, chunk.columns, token, a.fault, FaultSite::linear_cross_entropy_label)) {
    if (threadIdx.x == 0) a.nll[token] = a.correct[token] = 0;
    if constexpr (with_gradient) write_zeros(reinterpret_cast<G*>(logits), chunk.stride);
    return;
  }
  const float chosen = capped(logits[label], chunk);
  // Of equal logits the first counts as the largest.
  bool beaten = false;
  float total = 0;
  const LogSum all = capped_log_sum<false>(logits, chunk, 1, room, [&](float logit, int j) {
    beaten |= logit == chosen && j < label;
    total += logit;
  }).all;
  const float lse = all.log();
  beaten = __syncthreads_or(beaten);
  if (a.smoothing.amount != 0) total = block_reduce<Sum>(total, room->numbers);
  if (threadIdx.x == 0) {
    float nll = lse - chosen;
    if (a.smoothing.amount != 0) nll = a.smoothing.rest * nll + a.smoothing.amount * lse - a.smoothing.uniform * total;
    a.nll[token] = nll;
    a.correct[token] = chosen == all.max && !beaten ? 1 : 0;
  }
  if constexpr (with_gradient) write_row_gradient<G>(logits, chunk, label, NllGradient{lse, a.factor, a.smoothing});
}

void linear_cross_entropy(Out nll, Out correct, MaybeOut dhidden, MaybeInOut dweight, MaybeInOut dbias, In hidden, In weight, MaybeIn bias, In labels,
                          double smoothing, double soft_cap, double gradient_scale, bool accumulate, bool half) {
  const LinearHead head = {"linear_cross_entropy", hidden, weight, bias, labels, static_cast<float>(soft_cap), half};
  const HeadGradients gradients = {dhidden, dweight, dbias};
  const LinearCrossEntropyArguments a = {nll.as<float>(), correct.as<float>(), labels.as<const int32_t>(), smoothing_of(smoothing, head.vocabulary()),
                                         static_cast<float>(gradient_scale), fault()};
  const auto with_gradient = half ? linear_cross_entropy_kernel<bf16> : linear_cross_entropy_kernel<float>;
  const auto kernel = gradients.wanted() ? with_gradient : linear_cross_entropy_kernel<NoGradient>;
  each_chunk(head, gradients, accumulate, [&](const LogitChunk& chunk) { launch_rows(head.kernel, kernel, chunk, a); });
}

}  // namespace anneal::cuda
