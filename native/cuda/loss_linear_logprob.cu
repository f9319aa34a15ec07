// Output layer and log-probabilities in one, without logits of all tokens. The backward computes each chunk's logits again.
#include "../kernels.h"
#include "loss_linear.h"

namespace anneal::cuda {

struct LinearLogprobArguments {
  float *logprob, *entropy, *lse;
  const int32_t* id;
  float scale;
  Fault* fault;
};

__global__ void __launch_bounds__(most_logit_threads) linear_logprob_kernel(LogitChunk chunk, LinearLogprobArguments a) {
  ANNEAL_SHARED(LogSumRoom, room, 1);
  const int64_t row = chunk_row(), token = chunk.first + row;
  const float* logits = chunk.logits + row * chunk.stride;
  const int id = a.id[token];
  float logprob = 0, entropy = 0, lse = 0;
  if (counts(id, chunk.columns, token, a.fault, FaultSite::linear_logprob_id)) {
    const WeightedLogSum sums = capped_log_sum<true>(logits, chunk, a.scale, room, [](float, int) {});
    lse = sums.all.log();
    entropy = sums.entropy();
    logprob = capped(logits[id], chunk) * a.scale - lse;
  }
  if (threadIdx.x > 0) return;
  a.logprob[token] = logprob;
  a.entropy[token] = entropy;
  a.lse[token] = lse;
}

struct LinearLogprobGradientArguments {
  const float *dlogprob, *dentropy, *entropy, *lse;
  const int32_t* id;
  float scale;
  Fault* fault;
};

template <class G> __global__ void __launch_bounds__(most_logit_threads) linear_logprob_backward_kernel(LogitChunk chunk, LinearLogprobGradientArguments a) {
  const int64_t row = chunk_row(), token = chunk.first + row;
  float* logits = chunk.logits + row * chunk.stride;
  const int id = a.id[token];
  if (!counts(id, chunk.columns, token, a.fault, FaultSite::linear_logprob_backward_id)) return write_zeros(reinterpret_cast<G*>(logits), chunk.stride);
  const LogprobGradient gradient = {a.scale, a.lse[token], a.entropy[token], a.dlogprob[token] * a.scale, a.dentropy ? a.dentropy[token] * a.scale : 0.f};
  write_row_gradient<G>(logits, chunk, id, gradient);
}

void linear_logprob(Out logprob, Out entropy, Out lse, In hidden, In weight, MaybeIn bias, In id, double temperature, double soft_cap, bool half) {
  const LinearHead head = {"linear_logprob", hidden, weight, bias, id, static_cast<float>(soft_cap), half};
  const HeadGradients none = {nullptr, nullptr, nullptr};
  const LinearLogprobArguments a = {logprob.as<float>(), entropy.as<float>(), lse.as<float>(), id.as<const int32_t>(),
                                    static_cast<float>(1 / temperature), fault()};
  each_chunk(head, none, false, [&](const LogitChunk& chunk) { launch_rows(head.kernel, linear_logprob_kernel, chunk, a); });
}

void linear_logprob_backward(MaybeOut dhidden, MaybeInOut dweight, MaybeInOut dbias, In dlogprob, MaybeIn dentropy, In hidden, In weight, MaybeIn bias, In id,
                             In entropy, In lse, double temperature, double soft_cap, bool accumulate, bool half) {
  const LinearHead head = {"linear_logprob_backward", hidden, weight, bias, id, static_cast<float>(soft_cap), half};
  const HeadGradients gradients = {dhidden, dweight, dbias};
  if (!gradients.wanted()) return;
  const LinearLogprobGradientArguments a = {dlogprob.as<const float>(), dentropy ? dentropy->as<const float>() : nullptr, entropy.as<const float>(),
                                            lse.as<const float>(), id.as<const int32_t>(), static_cast<float>(1 / temperature), fault()};
  const auto kernel = half ? linear_logprob_backward_kernel<bf16> : linear_logprob_backward_kernel<float>;
  each_chunk(head, gradients, accumulate, [&](const LogitChunk& chunk) { launch_rows(head.kernel, kernel, chunk, a); });
}

}  // namespace anneal::cuda
