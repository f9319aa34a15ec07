// log(sum(exp(row))), shared by the losses and by sampling so that a sampled token's log-probability equals the
// teacher-forced one bit for bit. A row is cut into pieces of `logsumexp_piece` elements that are folded in order, so
// threads may share a row without changing its bits.
#pragma once
#include <math.h>

#include "simd.h"

namespace anneal::cpu {
namespace {

constexpr int64_t logsumexp_piece = 4096;

// Of z = x * scale: max = the largest z; sum = sum of e^(z - max); weighted = sum of (z - max) e^(z - max), where asked
// for. No elements, or none above -inf: max = -inf and sum = 0.
struct LogSum {
  float max, sum, weighted;
  // log(sum(e^z)); -inf for no elements.
  float log() const { return max + logf(sum); }
  // Entropy of softmax(z) in nats; needs `weighted`.
  float entropy() const { return logf(sum) - weighted / sum; }
};
constexpr LogSum empty_log_sum = {-INFINITY, 0, 0};

ANNEAL_INLINE float scalar_exp(float x) { return exp(splat(x))[0]; }

// The log-sum of a and then b. Not associative: fold pieces from the left, in order.
ANNEAL_INLINE LogSum fold(LogSum a, LogSum b) {
  if (a.sum == 0) return b;
  if (b.sum == 0) return a;
  bool rises = b.max > a.max;
  LogSum low = rises ? a : b, high = rises ? b : a;
  float below = low.max - high.max, factor = scalar_exp(below);
  // The clamp keeps 0 * -inf away; the factor is 0 there.
  float moved = low.weighted + (below < -1e30f ? -1e30f : below) * low.sum;
  return {high.max, __builtin_fmaf(low.sum, factor, high.sum), __builtin_fmaf(moved, factor, high.weighted)};
}

// One piece: n <= logsumexp_piece elements. Lanes past the end count as -inf.
template <bool with_weighted, class T> ANNEAL_INLINE LogSum piece_log_sum(const T* x, int64_t n, float scale) {
  constexpr int accumulators = 4, step = accumulators * lanes;
  const vf lowest = splat(-INFINITY);
  auto part = [&](int64_t i) {
    return select((vi)(lane_numbers() < static_cast<int32_t>(n - i)), load_part(x + i, n - i) * scale, lowest);
  };

  vf top[accumulators] = {lowest, lowest, lowest, lowest};
  int64_t i = 0;
  for (; i + step <= n; i += step)
    for (int k = 0; k < accumulators; ++k) top[k] = max(top[k], load(x + i + k * lanes) * scale);
  for (; i + lanes <= n; i += lanes) top[0] = max(top[0], load(x + i) * scale);
  if (i < n) top[0] = max(top[0], part(i));
  float highest = max(max(max(top[0], top[1]), max(top[2], top[3])));
  // A NaN must survive to the sum, so only a piece that is -inf throughout is skipped.
  if (highest == -INFINITY) {
    bool empty = true;
    for (int64_t j = 0; j < n; ++j) empty = empty && to_float(x[j]) == to_float(x[j]);
    return empty ? empty_log_sum : LogSum{-INFINITY, NAN, NAN};
  }

  vf total[accumulators] = {}, weighted[accumulators] = {};
  auto add = [&](int k, vf z) {
    vf below = z - highest, e = exp_low(below);
    total[k] += e;
    if constexpr (with_weighted) weighted[k] += max(splat(-100.f), below) * e;
  };
  i = 0;
  for (; i + step <= n; i += step) {
    // The next piece of the row is asked for here, where there is more to compute than to read.
    for (size_t at = 0; at < step * sizeof(T); at += 64) __builtin_prefetch(reinterpret_cast<const char*>(x + i + logsumexp_piece) + at);
    for (int k = 0; k < accumulators; ++k) add(k, load(x + i + k * lanes) * scale);
  }
  for (; i + lanes <= n; i += lanes) add(0, load(x + i) * scale);
  if (i < n) add(0, part(i));
  return {highest, sum((total[0] + total[1]) + (total[2] + total[3])),
          with_weighted ? sum((weighted[0] + weighted[1]) + (weighted[2] + weighted[3])) : 0};
}

// A whole row. z = x * scale; pass scale = 1 / temperature. The max and the sum have the same bits with and without
// `weighted`.
template <bool with_weighted = false, class T>
static __attribute__((noinline)) LogSum row_log_sum(const T* row, int64_t n, float scale = 1) {
  LogSum all = empty_log_sum;
  for (int64_t i = 0; i < n; i += logsumexp_piece)
    all = fold(all, piece_log_sum<with_weighted>(row + i, n - i < logsumexp_piece ? n - i : logsumexp_piece, scale));
  return all;
}

template <class T> static inline float row_logsumexp(const T* row, int64_t n) { return row_log_sum(row, n).log(); }

}  // namespace
}  // namespace anneal::cpu
