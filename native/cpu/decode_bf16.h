// Dot products of rows of x with rows of a weight stored in bf16, widened in registers: two numbers a 32-bit word, the first by a shift and the second by
// a mask. Products and sums are in f32. Internal linkage only.
#pragma once
#include "decode_rows.h"

namespace anneal::cpu {
namespace {

constexpr int64_t word_numbers = 2 * lanes;  // of a vector of words

ANNEAL_INLINE int64_t split_stride(int64_t k) { return ceil_divide(k, word_numbers) * word_numbers; }

// The numbers of x in the order of the weight's words: of each vector the first ones, then the second ones; zeros past k.
template <class T> static void split_numbers(const T* x, int64_t k, float* out) {
  int64_t i = 0;
  for (; i + word_numbers <= k; i += word_numbers)
    for (int j = 0; j < lanes; ++j) {
      out[i + j] = to_float(x[i + 2 * j]);
      out[i + lanes + j] = to_float(x[i + 2 * j + 1]);
    }
  if (i == k) return;
  for (int j = 0; j < lanes; ++j) {
    out[i + j] = i + 2 * j < k ? to_float(x[i + 2 * j]) : 0;
    out[i + lanes + j] = i + 2 * j + 1 < k ? to_float(x[i + 2 * j + 1]) : 0;
  }
}

struct Bf16Kernel {
  static constexpr int most_outputs = 4, most_rows = lanes == 16 ? 4 : 2, sum_lanes = lanes;
  static constexpr int64_t step = word_numbers, step_bytes = word_numbers * 2;
  int64_t k;
  const bf16* weight;  // [outputs, k]
  const float* x;      // rows of split numbers, x_stride apart
  int64_t x_stride;

  const char* address(int64_t output, int64_t at) const { return reinterpret_cast<const char*>(weight + output * k + at); }

  template <int outputs, int rows> void tile(const DecodeTile& t) const {
    vf sums[outputs][rows];
    ANNEAL_UNROLL
    for (int o = 0; o < outputs; ++o) {
      ANNEAL_UNROLL
      for (int r = 0; r < rows; ++r) sums[o][r] = t.k0 ? load(t.sums + o * t.sums_stride + r * lanes) : (vf){};
    }
    const bf16* w = weight + t.output * k;
    const float* numbers = x + t.row * x_stride;
    const char* ahead = t.ahead;
    auto add = [&](const bf16* (&from)[outputs], int64_t at) __attribute__((always_inline)) {
      ANNEAL_UNROLL
      for (int half = 0; half < 2; ++half) {
        ANNEAL_UNROLL
        for (int o = 0; o < outputs; ++o) {
          const vu words = *reinterpret_cast<const vu_unaligned*>(from[o]);
          const vf number = (vf)(half ? words & 0xffff0000u : words << 16);
          ANNEAL_UNROLL
          for (int r = 0; r < rows; ++r)
            sums[o][r] = fused_multiply_add(number, load(numbers + r * x_stride + at + half * lanes), sums[o][r]);
        }
      }
    };
    int64_t at = t.k0;
    for (; at + step <= t.k1; at += step) {
      const bf16* from[outputs];
      ANNEAL_UNROLL
      for (int o = 0; o < outputs; ++o) {
        from[o] = w + o * k + at;
        __builtin_prefetch(ahead + o * k * 2, 0, 2);
      }
      ahead += t.ahead_step;
      add(from, at);
    }
    if (at < t.k1) {
      bf16 last[outputs][word_numbers];
      const bf16* from[outputs];
      for (int o = 0; o < outputs; ++o) {
        memset(last[o], 0, sizeof last[o]);
        memcpy(last[o], w + o * k + at, static_cast<size_t>(t.k1 - at) * 2);
        from[o] = last[o];
      }
      add(from, at);
    }
    ANNEAL_UNROLL
    for (int o = 0; o < outputs; ++o) {
      ANNEAL_UNROLL
      for (int r = 0; r < rows; ++r) store(t.sums + o * t.sums_stride + r * lanes, sums[o][r]);
    }
  }
};

}  // namespace
}  // namespace anneal::cpu
