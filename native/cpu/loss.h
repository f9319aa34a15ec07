// What the losses share: the check of labels, and the gradients of one row of logits. z = logit * scale, scale = 1 /
// temperature; log p = z - lse. A gradient row may overwrite its logits. Internal linkage only.
#pragma once
#include "../check.h"
#include "logsumexp.h"

namespace anneal::cpu {
namespace {

constexpr int32_t ignored = -100;

// Every label is -100 or names one of the vocabulary's entries.
[[maybe_unused]] static void check_labels(const char* kernel, const char* name, const Tensor& labels, int64_t vocabulary) {
  const int32_t* label = labels.as<const int32_t>();
  for (int64_t t = 0; t < labels.size; ++t)
    ANNEAL_CHECK(label[t] == ignored || (label[t] >= 0 && label[t] < vocabulary),
                 "%s: %s[%lld] is %d, outside the vocabulary of %lld; use -100 to ignore a token", kernel, name,
                     static_cast<long long>(t), label[t], static_cast<long long>(vocabulary));
}

// Sum of a row, pieces of f32 vectors folded in f64 in order.
template <class T> static double row_sum(const T* row, int64_t n) {
  constexpr int64_t piece = 1024;
  double total = 0;
  for (int64_t from = 0; from < n; from += piece) {
    int64_t end = n - from < piece ? n : from + piece, i = from;
    vf part[2] = {};
    for (; i + 2 * lanes <= end; i += 2 * lanes) {
      part[0] += load(row + i);
      part[1] += load(row + i + lanes);
    }
    for (; i < end; i += lanes) part[0] += i + lanes <= end ? load(row + i) : load_part(row + i, end - i);
    total += static_cast<double>(sum(part[0] + part[1]));
  }
  return total;
}

// out[j] = f(logit, log p, p) for the whole row.
template <class T, class F>
ANNEAL_INLINE void map_probabilities(T* out, const T* row, int64_t n, float scale, float lse, F f) {
  auto step = [&](vf logit) {
    vf log_p = logit * scale - lse;
    return f(logit, log_p, exp_low(log_p));
  };
  int64_t j = 0;
  for (; j + 2 * lanes <= n; j += 2 * lanes) {
    vf first = step(load(row + j)), second = step(load(row + j + lanes));
    store(out + j, first);
    store(out + j + lanes, second);
  }
  for (; j + lanes <= n; j += lanes) store(out + j, step(load(row + j)));
  if (j < n) store_part(out + j, step(load_part(row + j, n - j)), n - j);
}

// (1 - smoothing) * (lse - logit[label]) + smoothing * (lse - mean(logits)).
template <class T> static float row_nll(const T* row, int64_t n, float lse, int32_t label, float smoothing) {
  float nll = lse - to_float(row[label]);
  if (smoothing == 0) return nll;
  return (1 - smoothing) * nll + smoothing * (lse - static_cast<float>(row_sum(row, n) / static_cast<double>(n)));
}

// d logits / d raw logits of a soft cap, from the capped ones: 1 - (z / cap)^2. inverse_cap = 0 stands for no cap.
ANNEAL_INLINE vf cap_slope(vf z, float inverse_cap) {
  vf tanh = z * inverse_cap;
  return 1.f - tanh * tanh;
}

// out = factor * d nll / d logits: p - smoothing / n, less 1 - smoothing at the label; times the slope of the cap.
template <class T>
static void row_nll_gradient(T* out, const T* row, int64_t n, float lse, int32_t label, float smoothing, float factor,
                             float inverse_cap) {
  const float uniform = smoothing / static_cast<float>(n);
  const float logit = to_float(row[label]);
  auto gradient = [&](vf p) { return (p - uniform) * factor; };
  if (inverse_cap == 0) map_probabilities(out, row, n, 1, lse, [&](vf, vf, vf p) { return gradient(p); });
  else map_probabilities(out, row, n, 1, lse, [&](vf z, vf, vf p) { return gradient(p) * cap_slope(z, inverse_cap); });
  float at_label = (exp_low(splat(logit - lse))[0] - uniform - (1 - smoothing)) * factor;
  put(out + label, inverse_cap == 0 ? at_label : at_label * cap_slope(splat(logit), inverse_cap)[0]);
}

struct Logprob { float logprob = 0, entropy = 0, lse = 0; };
template <class T> static Logprob row_logprob(const T* row, int64_t n, float scale, int32_t id) {
  LogSum all = row_log_sum<true>(row, n, scale);
  float lse = all.log();
  return {to_float(row[id]) * scale - lse, all.entropy(), lse};
}

// The gradient of dlogprob * logprob[id] + dentropy * entropy wrt the logits, times the slope of the cap. The row may be a part of the logits, and id
// outside of it.
struct LogprobGradient {
  float scale, lse, entropy, dlogprob, dentropy, inverse_cap;
};
template <class T>
static void row_logprob_gradient(T* out, const T* row, int64_t n, int64_t id, const LogprobGradient& g) {
  const bool inside = id >= 0 && id < n;
  const float logit = inside ? to_float(row[id]) : 0, d = g.dlogprob * g.scale, dh = g.dentropy * g.scale;
  // p log p is 0 for p = 0, also where log p = -inf.
  auto value = [&](vf log_p, vf p) { return -p * (d + dh * (max(splat(-100.f), log_p) + g.entropy)); };
  auto map = [&](auto f) { map_probabilities(out, row, n, g.scale, g.lse, f); };
  if (g.inverse_cap == 0 && dh == 0) map([&](vf, vf, vf p) { return p * -d; });
  else if (g.inverse_cap == 0) map([&](vf, vf log_p, vf p) { return value(log_p, p); });
  else map([&](vf z, vf log_p, vf p) { return value(log_p, p) * cap_slope(z, g.inverse_cap); });
  if (!inside) return;
  vf log_p = splat(logit * g.scale - g.lse);
  float at_id = d + value(log_p, exp_low(log_p))[0];
  put(out + id, g.inverse_cap == 0 ? at_id : at_id * cap_slope(splat(logit), g.inverse_cap)[0]);
}

}  // namespace
}  // namespace anneal::cpu
