// Cross-entropy of logits with labels, and its gradient. Each row is read from memory once: its pieces stay in cache
// between max and sum.
#include "isa.h"
#include "loss.h"

namespace anneal::cpu::ANNEAL_ISA {
namespace {

constexpr int64_t grain = 16384;  // logits per thread

template <class T>
static void forward(float* nll, float* lse, const T* logits, const int32_t* labels, int64_t tokens, int64_t vocabulary,
                    float smoothing) {
  parallel_for(tokens, grain / vocabulary + 1, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const T* row = logits + t * vocabulary;
      bool counts = labels[t] != ignored;
      lse[t] = counts ? row_logsumexp(row, vocabulary) : 0;
      nll[t] = counts ? row_nll(row, vocabulary, lse[t], labels[t], smoothing) : 0;
    }
  });
}

template <class T>
static void backward(T* dlogits, const float* dnll, const T* logits, const float* lse, const int32_t* labels,
                     int64_t tokens, int64_t vocabulary, float smoothing) {
  parallel_for(tokens, grain / vocabulary + 1, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      T* out = dlogits + t * vocabulary;
      if (labels[t] == ignored) memset(out, 0, static_cast<size_t>(vocabulary) * sizeof(T));
      else row_nll_gradient(out, logits + t * vocabulary, vocabulary, lse[t], labels[t], smoothing, dnll[t], 0);
    }
  });
}

}  // namespace

void cross_entropy(Tensor& nll, Tensor& lse, const Tensor& logits, const Tensor& labels, double smoothing) {
  const int64_t tokens = logits.shape[0], vocabulary = logits.shape[1];
  check_labels("cross_entropy", "labels", labels, vocabulary);
  auto run = [&](const auto* rows) {
    forward(nll.as<float>(), lse.as<float>(), rows, labels.as<int32_t>(), tokens, vocabulary,
            static_cast<float>(smoothing));
  };
  if (logits.dtype == DType::f32) run(logits.as<float>());
  else run(logits.as<bf16>());
}

void cross_entropy_backward(Tensor& dlogits, const Tensor& dnll, const Tensor& logits, const Tensor& lse,
                            const Tensor& labels, double smoothing) {
  const int64_t tokens = logits.shape[0], vocabulary = logits.shape[1];
  check_labels("cross_entropy_backward", "labels", labels, vocabulary);
  auto run = [&]<class T>(T* out) {
    backward(out, dnll.as<float>(), logits.as<T>(), lse.as<float>(), labels.as<int32_t>(), tokens, vocabulary,
             static_cast<float>(smoothing));
  };
  if (logits.dtype == DType::f32) run(dlogits.as<float>());
  else run(dlogits.as<bf16>());
}

}  // namespace anneal::cpu::ANNEAL_ISA
