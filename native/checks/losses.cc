// What the losses of one model demand: of logits, and of hidden states with an output layer.
#include "../checks.h"
#include "loss.h"

namespace anneal::checks {
namespace {

void check_logits(const char* kernel, const Tensor& logits) {
  ANNEAL_CHECK(is_float(logits.dtype), "%s: logits must be f32 or bf16, but is %s", kernel, name_of(logits.dtype));
  ANNEAL_CHECK(logits.rank == 2 && logits.shape[1] > 0, "%s: logits must have shape [tokens, vocabulary], but has %s", kernel, ShapeText(logits).text);
}
void check_logits_gradient(const char* kernel, const Tensor& dlogits, const Tensor& logits) {
  check_dtype(kernel, "dlogits", dlogits, logits.dtype);
  check_same_shape(kernel, "logits", logits, dlogits);
}
void check_smoothing(const char* kernel, double smoothing) {
  ANNEAL_CHECK(smoothing >= 0 && smoothing <= 1, "%s: smoothing must lie in [0, 1], but is %g", kernel, smoothing);
}
// The kernels take it as a float.
void check_soft_cap(const char* kernel, double soft_cap) {
  ANNEAL_CHECK(soft_cap >= 0 && static_cast<float>(soft_cap) < INFINITY, "%s: soft_cap must be 0 (none) or positive, but is %g", kernel, soft_cap);
}

}  // namespace

void cross_entropy(Out nll, Out lse, In logits, In labels, double smoothing) {
  check_logits("cross_entropy", logits);
  const int64_t tokens = logits.shape[0];
  check_per_token("cross_entropy", "nll", nll, tokens);
  check_per_token("cross_entropy", "lse", lse, tokens);
  check_smoothing("cross_entropy", smoothing);
  check_per_token("cross_entropy", "labels", labels, tokens, DType::i32);
}

void cross_entropy_backward(Out dlogits, In dnll, In logits, In lse, In labels, double smoothing) {
  const char* kernel = "cross_entropy_backward";
  check_logits(kernel, logits);
  check_logits_gradient(kernel, dlogits, logits);
  const int64_t tokens = logits.shape[0];
  check_per_token(kernel, "dnll", dnll, tokens);
  check_per_token(kernel, "lse", lse, tokens);
  check_smoothing(kernel, smoothing);
  check_per_token(kernel, "labels", labels, tokens, DType::i32);
}

void linear_cross_entropy(Out nll, Out correct, MaybeOut dhidden, MaybeInOut dweight, MaybeInOut dbias, In hidden, In weight, MaybeIn bias, In labels,
                          double smoothing, double soft_cap, double, bool, bool) {
  const Head head = {"linear_cross_entropy", hidden, weight, bias};
  check_head(head);
  check_soft_cap(head.kernel, soft_cap);
  check_head_gradients(head, dhidden, dweight, dbias);
  check_per_token(head.kernel, "labels", labels, head.tokens(), DType::i32);
  check_per_token(head.kernel, "nll", nll, head.tokens());
  check_per_token(head.kernel, "correct", correct, head.tokens());
  check_smoothing(head.kernel, smoothing);
}

void selective_log_softmax(Out logprob, Out entropy, Out lse, In logits, In id, double temperature) {
  const char* kernel = "selective_log_softmax";
  check_logits(kernel, logits);
  const int64_t tokens = logits.shape[0];
  check_per_token(kernel, "logprob", logprob, tokens);
  check_per_token(kernel, "entropy", entropy, tokens);
  check_per_token(kernel, "lse", lse, tokens);
  check_temperature(kernel, temperature);
  check_per_token(kernel, "id", id, tokens, DType::i32);
}

void selective_log_softmax_backward(Out dlogits, In dlogprob, MaybeIn dentropy, In logits, In id, In entropy, In lse, double temperature) {
  const char* kernel = "selective_log_softmax_backward";
  check_logits(kernel, logits);
  check_logits_gradient(kernel, dlogits, logits);
  const int64_t tokens = logits.shape[0];
  check_per_token(kernel, "dlogprob", dlogprob, tokens);
  if (dentropy) check_per_token(kernel, "dentropy", *dentropy, tokens);
  check_per_token(kernel, "entropy", entropy, tokens);
  check_per_token(kernel, "lse", lse, tokens);
  check_temperature(kernel, temperature);
  check_per_token(kernel, "id", id, tokens, DType::i32);
}

void linear_logprob(Out logprob, Out entropy, Out lse, In hidden, In weight, MaybeIn bias, In id, double temperature, double soft_cap, bool) {
  const Head head = {"linear_logprob", hidden, weight, bias};
  check_head(head);
  check_soft_cap(head.kernel, soft_cap);
  check_per_token(head.kernel, "id", id, head.tokens(), DType::i32);
  check_temperature(head.kernel, temperature);
  check_per_token(head.kernel, "logprob", logprob, head.tokens());
  check_per_token(head.kernel, "entropy", entropy, head.tokens());
  check_per_token(head.kernel, "lse", lse, head.tokens());
}

void linear_logprob_backward(MaybeOut dhidden, MaybeInOut dweight, MaybeInOut dbias, In dlogprob, MaybeIn dentropy, In hidden, In weight, MaybeIn bias, In id,
                             In entropy, In lse, double temperature, double soft_cap, bool, bool) {
  const Head head = {"linear_logprob_backward", hidden, weight, bias};
  check_head(head);
  check_soft_cap(head.kernel, soft_cap);
  check_head_gradients(head, dhidden, dweight, dbias);
  check_per_token(head.kernel, "id", id, head.tokens(), DType::i32);
  check_temperature(head.kernel, temperature);
  check_per_token(head.kernel, "dlogprob", dlogprob, head.tokens());
  if (dentropy) check_per_token(head.kernel, "dentropy", *dentropy, head.tokens());
  check_per_token(head.kernel, "entropy", entropy, head.tokens());
  check_per_token(head.kernel, "lse", lse, head.tokens());
}

}  // namespace anneal::checks
