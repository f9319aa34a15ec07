// Output layer and cross-entropy in one: loss and gradients without logits of all tokens. Three matrix products per
// chunk of tokens; the loss, the gradient and the argmax are taken of each row of logits while it is in cache.
#include "loss_linear.h"

namespace anneal::cpu::ANNEAL_ISA {
namespace {

// Whether the label has the largest logit; of equal ones the first counts.
static bool is_largest(const float* row, int32_t label, float largest) {
  if (row[label] != largest) return false;
  for (int32_t j = 0; j < label; ++j)
    if (row[j] == largest) return false;
  return true;
}

}  // namespace

void linear_cross_entropy(Tensor& nll, Tensor& correct, Tensor* dhidden, Tensor* dweight, Tensor* dbias,
                          const Tensor& hidden, const Tensor& weight, const Tensor* bias, const Tensor& labels,
                          double smoothing, double soft_cap, double gradient_scale, bool accumulate, bool half) {
  const LinearHead head = {"linear_cross_entropy", hidden, weight, bias, labels, static_cast<float>(soft_cap), half};
  const HeadGradients gradients = {dhidden, dweight, dbias};
  check_head(head, gradients, "labels");
  check_per_token(head.kernel, "nll", nll, head.tokens());
  check_per_token(head.kernel, "correct", correct, head.tokens());
  check_smoothing(head.kernel, smoothing);
  memset(nll.data, 0, static_cast<size_t>(nll.bytes()));
  memset(correct.data, 0, static_cast<size_t>(correct.bytes()));
  const int64_t vocabulary = head.vocabulary();
  const float smooth = static_cast<float>(smoothing), factor = static_cast<float>(gradient_scale);
  const float inverse_cap = head.inverse_cap();
  each_token(head, gradients, accumulate, [&](float* row, int64_t token) {
    int32_t label = labels.as<int32_t>()[token];
    LogSum all = row_log_sum(row, vocabulary);
    float lse = all.log();
    nll.as<float>()[token] = row_nll(row, vocabulary, lse, label, smooth);
    correct.as<float>()[token] = is_largest(row, label, all.max) ? 1 : 0;
    if (gradients.wanted()) row_nll_gradient(row, row, vocabulary, lse, label, smooth, factor, inverse_cap);
  });
}

}  // namespace anneal::cpu::ANNEAL_ISA
