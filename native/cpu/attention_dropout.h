// Dropout of attention's weights: which are dropped is a function of (seed, stream) and of token, head and key alone, so the backward finds the same.
#pragma once
#include "attention.h"
#include "random.h"

namespace anneal::cpu {
namespace {

static Dropout describe_dropout(In spans, double p, int64_t seed, int64_t stream) {
  int64_t longest = 0;
  for (int64_t s = 0; s < spans.dim(0); ++s) longest = larger(longest, spans.as<int32_t>()[4 * s + 3]);
  Dropout dropout;
  dropout.threshold = drop_threshold(p);
  dropout.kept = static_cast<float>(1 / (1 - p));
  dropout.seed = seed, dropout.stream = stream;
  dropout.row = ceil_divide(longest, key_tile) * key_tile;
  return dropout;
}

// The factors, 0 or 1 / (1 - p), of the weights of one row for `length` keys from `key` on, the first of a tile.
ANNEAL_INLINE void dropout_factors(const Attention& a, const Span& span, int64_t kv_head, int64_t row, int64_t key,
                                   int64_t length, float* factors) {
  const Dropout& dropout = a.dropout;
  const int64_t query = (span.q_begin + row / a.group()) * a.heads + kv_head * a.group() + row % a.group();
  const int64_t begin = query * dropout.row + key;
  each_random_vector(begin, begin + length, dropout.seed, dropout.stream, [&](int64_t i, vu words, auto part) {
    store(factors + (i - begin), (vf)((vi)(words >= dropout.threshold) & (vi)splat(dropout.kept)), part);
  });
}

ANNEAL_INLINE void multiply_by(float* values, const float* factors, int64_t length) {
  for (int64_t i = 0; i < length; i += lanes) store(values + i, load(values + i) * load(factors + i));
}

}  // namespace
}  // namespace anneal::cpu
