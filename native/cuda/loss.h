// What the losses share: checks of arguments, labels that only the device sees, and the gradients of one logit. z = logit * scale, scale = 1 / temperature;
// log p = z - lse.
#pragma once
#include "../shape.h"
#include "activation.h"
#include "fault.h"
#include "logsumexp_row.h"

namespace anneal::cuda {

constexpr int ignored_label = -100;

// A label that counts is one of the vocabulary. -100 is ignored, and so is a label that names nothing, which is reported once, by the row's first thread.
ANNEAL_DEVICE bool counts(int label, int columns, int64_t token, Fault* fault, FaultSite site) {
  if (label >= 0 && label < columns) return true;
  if (label != ignored_label && threadIdx.x == 0) report(fault, site, token, label, columns);
  return false;
}

// How the probability is spread that a smoothed label's distribution has: `rest` at the label, `uniform` everywhere.
struct Smoothing {
  float amount, rest, uniform;
};
inline Smoothing smoothing_of(double amount, int64_t columns) {
  return {static_cast<float>(amount), static_cast<float>(1 - amount), static_cast<float>(amount / static_cast<double>(columns))};
}

// factor * d nll / d logit = factor * (p - the smoothed label's probability).
struct NllGradient {
  float lse, factor;
  Smoothing smoothing;
  ANNEAL_DEVICE float of(float logit, bool is_label) const {
    const float p = exp_fast(logit - lse) - smoothing.uniform;
    return (is_label ? p - smoothing.rest : p) * factor;
  }
};

// The gradient of dlogprob * log p[id] + dentropy * entropy. p log p is 0 for p = 0, also where log p = -infinity.
struct LogprobGradient {
  float scale, lse, entropy, d, dh;  // d, dh: dlogprob and dentropy, times scale
  ANNEAL_DEVICE float of(float logit, bool is_label) const {
    const float log_p = fmaf(logit, scale, -lse), p = exp_fast(log_p);
    const float value = -p * fmaf(dh, fmaxf(-100.f, log_p) + entropy, d);
    return is_label ? d + value : value;
  }
};

namespace {

[[maybe_unused]] void check_labels(const char* kernel, const char* name, const Tensor& labels, int64_t tokens) {
  check_dtype(kernel, name, labels, DType::i32);
  ANNEAL_CHECK(labels.rank == 1 && labels.size == tokens, "%s: %s must have shape [%lld], but has %s", kernel, name, static_cast<long long>(tokens),
               ShapeText(labels).text);
}
// A f32 tensor with one number per token.
[[maybe_unused]] void check_per_token(const char* kernel, const char* name, const Tensor& x, int64_t tokens) {
  check_dtype(kernel, name, x, DType::f32);
  ANNEAL_CHECK(x.rank == 1 && x.size == tokens, "%s: %s must have shape [%lld], but has %s", kernel, name, static_cast<long long>(tokens), ShapeText(x).text);
}
[[maybe_unused]] void check_vocabulary(const char* kernel, int64_t vocabulary) {
  ANNEAL_CHECK(vocabulary <= 1 << 28, "%s: a vocabulary of %lld is too large", kernel, static_cast<long long>(vocabulary));
}
[[maybe_unused]] void check_logits(const char* kernel, const Tensor& logits) {
  ANNEAL_CHECK(is_float(logits.dtype), "%s: logits must be f32 or bf16, but is %s", kernel, name_of(logits.dtype));
  ANNEAL_CHECK(logits.rank == 2 && logits.shape[1] > 0, "%s: logits must have shape [tokens, vocabulary], but has %s", kernel, ShapeText(logits).text);
  check_vocabulary(kernel, logits.shape[1]);
}
[[maybe_unused]] void check_smoothing(const char* kernel, double smoothing) {
  ANNEAL_CHECK(smoothing >= 0 && smoothing <= 1, "%s: smoothing must lie in [0, 1], but is %g", kernel, smoothing);
}
[[maybe_unused]] void check_temperature(const char* kernel, double temperature) {
  ANNEAL_CHECK(temperature > 0 && temperature < INFINITY, "%s: temperature must be positive, but is %g", kernel, temperature);
}

}  // namespace
}  // namespace anneal::cuda
