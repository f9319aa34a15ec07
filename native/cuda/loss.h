// What the losses share: labels that only the device sees, and the gradients of one logit. z = logit * scale, scale = 1 / temperature;
// log p = z - lse.
#pragma once
#include "../check.h"
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

// Places in a row are 32-bit numbers, with room for the steps of a block beyond its end.
inline void check_vocabulary(const char* kernel, int64_t vocabulary) {
  ANNEAL_CHECK(vocabulary <= 1 << 28, "%s: a vocabulary of %lld is too large", kernel, static_cast<long long>(vocabulary));
}

}  // namespace anneal::cuda
