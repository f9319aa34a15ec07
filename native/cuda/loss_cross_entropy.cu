// Cross-entropy of logits with labels, and its gradient. One block per row, which reads the row once.
#include "../kernels.h"
#include "loss_gradient.h"

namespace anneal::cuda {

struct CrossEntropyArguments {
  float *nll, *lse;
  const void* logits;
  const int32_t* labels;
  int columns;
  Smoothing smoothing;
  Fault* fault;
};

template <class T> __global__ void __launch_bounds__(most_logit_threads) cross_entropy_kernel(CrossEntropyArguments a) {
  ANNEAL_SHARED(LogSumRoom, room, 1);
  const int64_t token = blockIdx.x;
  const int label = a.labels[token];
  if (!counts(label, a.columns, token, a.fault, FaultSite::cross_entropy_label)) {
    if (threadIdx.x == 0) a.nll[token] = a.lse[token] = 0;
    return;
  }
  const T* logits = static_cast<const T*>(a.logits) + token * a.columns;
  float total = 0;  // of the logits, for smoothing
  const float lse = row_log_sum<false>(LogitRow<T>(logits, a.columns), 1, room, [&](auto& z, int at) {
    if (a.smoothing.amount == 0) return;
    constexpr int length = vector_length<T>;
#pragma unroll
    for (int i = 0; i < logit_pieces * length; ++i)
      total += at + i / length * static_cast<int>(blockDim.x) * length + i % length < a.columns ? z[i] : 0.f;
  }).all.log();
  if (a.smoothing.amount != 0) total = block_reduce<Sum>(total, room->numbers);
  if (threadIdx.x > 0) return;
  float nll = lse - to_float(logits[label]);
  if (a.smoothing.amount != 0) nll = a.smoothing.rest * nll + a.smoothing.amount * lse - a.smoothing.uniform * total;
  a.nll[token] = nll;
  a.lse[token] = lse;
}

struct CrossEntropyGradientArguments {
  void* dlogits;
  const void* logits;
  const float *dnll, *lse;
  const int32_t* labels;
  int columns;
  Smoothing smoothing;
  Fault* fault;
};

template <class T> __global__ void __launch_bounds__(most_logit_threads) cross_entropy_backward_kernel(CrossEntropyGradientArguments a) {
  const int64_t token = blockIdx.x;
  const int label = a.labels[token];
  T* dlogits = static_cast<T*>(a.dlogits) + token * a.columns;
  if (!counts(label, a.columns, token, a.fault, FaultSite::cross_entropy_backward_label)) return write_zeros(dlogits, a.columns);
  write_gradient(dlogits, static_cast<const T*>(a.logits) + token * a.columns, a.columns, label, NllGradient{a.lse[token], a.dnll[token], a.smoothing});
}

void cross_entropy(Out nll, Out lse, In logits, In labels, double smoothing) {
  const int64_t tokens = logits.shape[0], vocabulary = logits.shape[1];
  check_vocabulary("cross_entropy", vocabulary);
  const CrossEntropyArguments a = {nll.as<float>(), lse.as<float>(), logits.data, labels.as<const int32_t>(), static_cast<int>(vocabulary),
                                   smoothing_of(smoothing, vocabulary), fault()};
  dispatch_float("cross_entropy", logits.dtype, [&](auto number) {
    launch(cross_entropy_kernel<decltype(number)>, {dim3(static_cast<unsigned>(tokens)), dim3(logit_threads(vocabulary)), 0, "cross_entropy"}, a);
  });
}

void cross_entropy_backward(Out dlogits, In dnll, In logits, In lse, In labels, double smoothing) {
  const char* kernel = "cross_entropy_backward";
  const int64_t tokens = logits.shape[0], vocabulary = logits.shape[1];
  check_vocabulary(kernel, vocabulary);
  const CrossEntropyGradientArguments a = {dlogits.data, logits.data, dnll.as<const float>(), lse.as<const float>(), labels.as<const int32_t>(),
                                           static_cast<int>(vocabulary), smoothing_of(smoothing, vocabulary), fault()};
  dispatch_float(kernel, logits.dtype, [&](auto number) {
    launch(cross_entropy_backward_kernel<decltype(number)>, {dim3(static_cast<unsigned>(tokens)), dim3(logit_threads(vocabulary)), 0, kernel}, a);
  });
}

}  // namespace anneal::cuda
