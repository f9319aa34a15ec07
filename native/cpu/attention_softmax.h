// The softmax over a row of scores that arrives tile by tile (Milakov and Gimelshein, "Online normalizer calculation
// for softmax", 2018).
#pragma once
#include "attention.h"

namespace anneal::cpu {
namespace {

// Exponents are in base 2. The start is finite so that the difference of two of them is never NaN.
struct RowState {
  float maximum = -1e30f, total = 0;
};
constexpr float masked = -1e30f;

// scores[0 … length) are q k^T for a tile of keys of which begin … end are visible; length is rounded up to whole
// vectors. They are replaced by their exponentials relative to the new maximum, the others by zero. Returns the factor
// for what was summed before.
static float softmax_tile(const Attention& a, float* scores, int64_t length, int64_t begin, int64_t end,
                          RowState& state) {
  if (begin >= end) {
    memset(scores, 0, static_cast<size_t>(length) * 4);
    return 1;
  }
  const float exponent_scale = a.exponent_scale();
  const int64_t first = begin / lanes * lanes, last = ceil_divide(end, lanes) * lanes;
  if (a.soft_cap > 0)
    for (int64_t i = first; i < last; i += lanes)
      store(scores + i, a.soft_cap * tanh(load(scores + i) * (a.scale / a.soft_cap)));
  for (int64_t i = first; i < begin; ++i) scores[i] = masked;
  for (int64_t i = end; i < last; ++i) scores[i] = masked;
  vf most = splat(masked), most2 = most;
  int64_t i = first;
  for (; i + 2 * lanes <= last; i += 2 * lanes) {
    most = max(most, load(scores + i));
    most2 = max(most2, load(scores + i + lanes));
  }
  if (i < last) most = max(most, load(scores + i));
  float maximum = max(max(most, most2)) * exponent_scale;
  if (!(maximum > state.maximum)) maximum = state.maximum;
  const vf shift = splat(maximum), factor = splat(exponent_scale);
  vf total = {}, total2 = {};
  for (i = first; i + 2 * lanes <= last; i += 2 * lanes) {
    const vf weight = exp2_negative(load(scores + i) * factor - shift),
             weight2 = exp2_negative(load(scores + i + lanes) * factor - shift);
    store(scores + i, weight);
    store(scores + i + lanes, weight2);
    total += weight;
    total2 += weight2;
  }
  if (i < last) {
    const vf weight = exp2_negative(load(scores + i) * factor - shift);
    store(scores + i, weight);
    total += weight;
  }
  memset(scores, 0, static_cast<size_t>(begin) * 4);
  for (i = end; i < length; ++i) scores[i] = 0;
  const vf correction = exp2_negative(splat(state.maximum - maximum));
  state.total = state.total * correction[0] + sum(total + total2);
  state.maximum = maximum;
  return correction[0];
}

}  // namespace
}  // namespace anneal::cpu
