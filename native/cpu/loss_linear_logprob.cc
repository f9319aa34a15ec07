// Output layer and log-probabilities in one, without logits of all tokens. The backward computes each chunk's logits
// again.
#include "loss_linear.h"

namespace anneal::cpu::ANNEAL_ISA {

void linear_logprob(Tensor& logprob, Tensor& entropy, Tensor& lse, const Tensor& hidden, const Tensor& weight,
                    const Tensor* bias, const Tensor& id, double temperature, double soft_cap, bool half) {
  const LinearHead head = {"linear_logprob", hidden, weight, bias, id, static_cast<float>(soft_cap), half};
  const HeadGradients none = {nullptr, nullptr, nullptr};
  check_head(head, none, "id");
  check_temperature(head.kernel, temperature);
  const struct { const char* name; Tensor& y; } outputs[] = {{"logprob", logprob}, {"entropy", entropy}, {"lse", lse}};
  for (auto& output : outputs) check_per_token(head.kernel, output.name, output.y, head.tokens());
  for (auto& output : outputs) memset(output.y.data, 0, static_cast<size_t>(output.y.bytes()));
  const float scale = static_cast<float>(1 / temperature);
  each_token(head, none, false, [&](float* row, int64_t token) {
    Logprob result = row_logprob(row, head.vocabulary(), scale, id.as<int32_t>()[token]);
    logprob.as<float>()[token] = result.logprob;
    entropy.as<float>()[token] = result.entropy;
    lse.as<float>()[token] = result.lse;
  });
}

void linear_logprob_backward(Tensor* dhidden, Tensor* dweight, Tensor* dbias, const Tensor& dlogprob,
                             const Tensor* dentropy, const Tensor& hidden, const Tensor& weight, const Tensor* bias,
                             const Tensor& id, const Tensor& entropy,
                             const Tensor& lse, double temperature, double soft_cap, bool accumulate, bool half) {
  const LinearHead head = {"linear_logprob_backward", hidden, weight, bias, id, static_cast<float>(soft_cap), half};
  const HeadGradients gradients = {dhidden, dweight, dbias};
  check_head(head, gradients, "id");
  check_temperature(head.kernel, temperature);
  check_per_token(head.kernel, "dlogprob", dlogprob, head.tokens());
  if (dentropy) check_per_token(head.kernel, "dentropy", *dentropy, head.tokens());
  check_per_token(head.kernel, "entropy", entropy, head.tokens());
  check_per_token(head.kernel, "lse", lse, head.tokens());
  if (!gradients.wanted()) return;
  const float scale = static_cast<float>(1 / temperature);
  each_token(head, gradients, accumulate, [&](float* row, int64_t t) {
    row_logprob_gradient(row, row, head.vocabulary(), id.as<int32_t>()[t],
                         {scale, lse.as<float>()[t], entropy.as<float>()[t], dlogprob.as<float>()[t],
                          dentropy ? dentropy->as<float>()[t] : 0, head.inverse_cap()});
  });
}

}  // namespace anneal::cpu::ANNEAL_ISA
