// Dot products of rows of x with rows of a weight stored in bf16, widened in registers: two numbers a 32-bit word, the first by a shift and the second by
// a mask. Products and sums are in f32, two sums for each output. Internal linkage only.
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
  for (const int64_t end = split_stride(k); i < end; i += word_numbers)
    for (int j = 0; j < lanes; ++j) {
      out[i + j] = i + 2 * j < k ? to_float(x[i + 2 * j]) : 0;
      out[i + lanes + j] = i + 2 * j + 1 < k ? to_float(x[i + 2 * j + 1]) : 0;
    }
}

struct Bf16Kernel {
  // As many sums as the registers hold.
  static constexpr int streams = lanes == 16 ? 4 : 2, most_rows = 3, sum_lanes = 2 * lanes;
  static constexpr int64_t step = 32, step_bytes = 64, ahead = 1024;
  int64_t k;
  const bf16* weight;  // [outputs, k]
  const float* x;      // rows of split numbers, x_stride apart
  int64_t x_stride;

  const char* address(int64_t output, int64_t at) const { return reinterpret_cast<const char*>(weight + output * k + at); }

  template <int streams, int rows> void tile(const DecodeTile& t) const {
    vf sums[streams][rows][2];
    ANNEAL_UNROLL
    for (int s = 0; s < streams; ++s) {
      ANNEAL_UNROLL
      for (int r = 0; r < rows; ++r) {
        ANNEAL_UNROLL
        for (int i = 0; i < 2; ++i) sums[s][r][i] = t.k0 ? load(t.sums + s * t.sums_of_output + r * t.sums_of_row + i * lanes) : (vf){};
      }
    }
    const bf16* w = weight + t.output * k;
    const int64_t stride = t.spacing * k;
    const float* numbers = x + t.row * x_stride;
    const char* ahead = t.ahead;
    auto add = [&](const bf16* from, int64_t from_stride, int64_t at) __attribute__((always_inline)) {
      ANNEAL_UNROLL
      for (int s = 0; s < streams; ++s) {
        const vu words = *reinterpret_cast<const vu_unaligned*>(from + s * from_stride);
        const vf first = (vf)(words << 16), second = (vf)(words & 0xffff0000u);
        ANNEAL_UNROLL
        for (int r = 0; r < rows; ++r) {
          const float* own = numbers + r * x_stride + at;
          sums[s][r][0] = fused_multiply_add(first, load(own), sums[s][r][0]);
          sums[s][r][1] = fused_multiply_add(second, load(own + lanes), sums[s][r][1]);
        }
      }
    };
    int64_t at = t.k0;
    for (; at + step <= t.k1; at += step) {
      ANNEAL_UNROLL
      for (int s = 0; s < streams; ++s) __builtin_prefetch(ahead + s * stride * 2);
      ahead += t.ahead_step;
      ANNEAL_UNROLL
      for (int i = 0; i < step; i += word_numbers) add(w + at + i, stride, at + i);
    }
    for (; at < t.k1; at += word_numbers) {
      bf16 last[streams][word_numbers];
      memset(last, 0, sizeof last);
      ANNEAL_UNROLL
      for (int s = 0; s < streams; ++s) memcpy(last[s], w + s * stride + at, static_cast<size_t>(smaller(word_numbers, t.k1 - at)) * 2);
      add(last[0], word_numbers, at);
    }
    ANNEAL_UNROLL
    for (int s = 0; s < streams; ++s) {
      ANNEAL_UNROLL
      for (int r = 0; r < rows; ++r) {
        ANNEAL_UNROLL
        for (int i = 0; i < 2; ++i) store(t.sums + s * t.sums_of_output + r * t.sums_of_row + i * lanes, sums[s][r][i]);
      }
    }
  }
};

}  // namespace
}  // namespace anneal::cpu
