// Log-probabilities of given tokens and the entropy of the distribution they were drawn from, with gradients: what policy optimisation needs of logits. One
// block per row, which reads the row once.
#include "../kernels.h"
#include "loss_gradient.h"

namespace anneal::cuda {

struct LogprobArguments {
  float *logprob, *entropy, *lse;
  const void* logits;
  const int32_t* id;
  int columns;
  float scale;
  Fault* fault;
};

template <class T> __global__ void __launch_bounds__(most_logit_threads) selective_log_softmax_kernel(LogprobArguments a) {
  ANNEAL_SHARED(LogSumRoom, room, 1);
  const int64_t token = blockIdx.x;
  const int id = a.id[token];
  float logprob = 0, entropy = 0, lse = 0;
  if (counts(id, a.columns, token, a.fault, FaultSite::selective_log_softmax_id)) {
    const T* logits = static_cast<const T*>(a.logits) + token * a.columns;
    const WeightedLogSum sums = row_log_sum<true>(LogitRow<T>(logits, a.columns), a.scale, room, [](auto&, int) {});
    lse = sums.all.log();
    entropy = sums.entropy();
    logprob = to_float(logits[id]) * a.scale - lse;
  }
  if (threadIdx.x > 0) return;
  a.logprob[token] = logprob;
  a.entropy[token] = entropy;
  a.lse[token] = lse;
}

struct LogprobGradientArguments {
  void* dlogits;
  const void* logits;
  const float *dlogprob, *dentropy, *entropy, *lse;
  const int32_t* id;
  int columns;
  float scale;
  Fault* fault;
};

template <class T> __global__ void __launch_bounds__(most_logit_threads) selective_log_softmax_backward_kernel(LogprobGradientArguments a) {
  const int64_t token = blockIdx.x;
  const int id = a.id[token];
  T* dlogits = static_cast<T*>(a.dlogits) + token * a.columns;
  if (!counts(id, a.columns, token, a.fault, FaultSite::selective_log_softmax_backward_id)) return write_zeros(dlogits, a.columns);
  const LogprobGradient gradient = {a.scale, a.lse[token], a.entropy[token], a.dlogprob[token] * a.scale, a.dentropy ? a.dentropy[token] * a.scale : 0.f};
  write_gradient(dlogits, static_cast<const T*>(a.logits) + token * a.columns, a.columns, id, gradient);
}

void selective_log_softmax(Out logprob, Out entropy, Out lse, In logits, In id, double temperature) {
  const char* kernel = "selective_log_softmax";
  const int64_t tokens = logits.shape[0], vocabulary = logits.shape[1];
  check_vocabulary(kernel, vocabulary);
  const LogprobArguments a = {logprob.as<float>(), entropy.as<float>(), lse.as<float>(), logits.data, id.as<const int32_t>(), static_cast<int>(vocabulary),
                              static_cast<float>(1 / temperature), fault()};
  dispatch_float(kernel, logits.dtype, [&](auto number) {
    launch(selective_log_softmax_kernel<decltype(number)>, {dim3(static_cast<unsigned>(tokens)), dim3(logit_threads(vocabulary)), 0, kernel}, a);
  });
}

void selective_log_softmax_backward(Out dlogits, In dlogprob, MaybeIn dentropy, In logits, In id, In entropy, In lse, double temperature) {
  const char* kernel = "selective_log_softmax_backward";
  const int64_t tokens = logits.shape[0], vocabulary = logits.shape[1];
  check_vocabulary(kernel, vocabulary);
  const LogprobGradientArguments a = {dlogits.data, logits.data, dlogprob.as<const float>(), dentropy ? dentropy->as<const float>() : nullptr,
                                      entropy.as<const float>(), lse.as<const float>(), id.as<const int32_t>(), static_cast<int>(vocabulary),
                                      static_cast<float>(1 / temperature), fault()};
  dispatch_float(kernel, logits.dtype, [&](auto number) {
    launch(selective_log_softmax_backward_kernel<decltype(number)>, {dim3(static_cast<unsigned>(tokens)), dim3(logit_threads(vocabulary)), 0, kernel}, a);
  });
}

}  // namespace anneal::cuda
