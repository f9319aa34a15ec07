// Log-probabilities of given tokens and the entropy of the distribution they were drawn from, with gradients: what
// policy optimisation needs of logits. With temperature 1 the log-probability has the bits that `sample` reports for
// the same logits.
#include "isa.h"
#include "loss.h"

namespace anneal::cpu::ANNEAL_ISA {
namespace {

constexpr int64_t grain = 16384;  // logits per thread

}  // namespace

void selective_log_softmax(Tensor& logprob, Tensor& entropy, Tensor& lse, const Tensor& logits, const Tensor& id,
                           double temperature) {
  const int64_t tokens = logits.shape[0], vocabulary = logits.shape[1];
  check_labels("selective_log_softmax", "id", id, vocabulary);
  const float scale = static_cast<float>(1 / temperature);
  auto run = [&]<class T>(const T* rows) {
    parallel_for(tokens, grain / vocabulary + 1, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        int32_t token = id.as<int32_t>()[t];
        Logprob result = token == ignored ? Logprob{} : row_logprob(rows + t * vocabulary, vocabulary, scale, token);
        logprob.as<float>()[t] = result.logprob;
        entropy.as<float>()[t] = result.entropy;
        lse.as<float>()[t] = result.lse;
      }
    });
  };
  if (logits.dtype == DType::f32) run(logits.as<float>());
  else run(logits.as<bf16>());
}

void selective_log_softmax_backward(Tensor& dlogits, const Tensor& dlogprob, const Tensor* dentropy,
                                    const Tensor& logits, const Tensor& id,
                                    const Tensor& entropy, const Tensor& lse, double temperature) {
  const int64_t tokens = logits.shape[0], vocabulary = logits.shape[1];
  check_labels("selective_log_softmax_backward", "id", id, vocabulary);
  const float scale = static_cast<float>(1 / temperature);
  auto run = [&]<class T>(T* out) {
    parallel_for(tokens, grain / vocabulary + 1, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        T* gradient = out + t * vocabulary;
        int32_t token = id.as<int32_t>()[t];
        if (token == ignored) {
          memset(gradient, 0, static_cast<size_t>(vocabulary) * sizeof(T));
          continue;
        }
        row_logprob_gradient(gradient, logits.as<T>() + t * vocabulary, vocabulary, token,
                             {scale, lse.as<float>()[t], entropy.as<float>()[t], dlogprob.as<float>()[t],
                              dentropy ? dentropy->as<float>()[t] : 0, 0});
      }
    });
  };
  if (logits.dtype == DType::f32) run(dlogits.as<float>());
  else run(dlogits.as<bf16>());
}

}  // namespace anneal::cpu::ANNEAL_ISA
