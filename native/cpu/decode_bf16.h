// Dot products of rows of x with rows of a weight stored in bf16, widened in registers: two numbers a 32-bit word, the first by a shift and the second by
// a mask. Products and sums are in f32. Internal linkage only.
#pragma once
#include "decode_rows.h"

namespace anneal::cpu {
namespace {

constexpr int64_t word_numbers = 2 * lanes;  // of a vector of words
constexpr int64_t split_step = 2 * word_numbers;

ANNEAL_INLINE int64_t split_stride(int64_t k) { return ceil_divide(k, split_step) * split_step; }

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

// Four sums for each output, as a multiply-add takes as long as eight others: one output at a time reads memory from end to end, which is fastest.
struct Bf16Kernel {
  static constexpr int most_rows = lanes == 16 ? 6 : 3, sum_lanes = 4 * lanes;
  static constexpr int64_t step = split_step, step_bytes = split_step * 2, ahead = 1024;
  int64_t k;
  const bf16* weight;  // [outputs, k]
  const float* x;      // rows of split numbers, x_stride apart
  int64_t x_stride;

  const char* address(int64_t output, int64_t at) const { return reinterpret_cast<const char*>(weight + output * k + at); }

  static float total(const float* p) {
    const vf v = (load(p) + load(p + lanes)) + (load(p + 2 * lanes) + load(p + 3 * lanes));
    float part[lanes];
    store(part, v);
    if constexpr (lanes == 16) return total_of_8(part) + total_of_8(part + 8);
    else if constexpr (lanes == 8) return total_of_8(part);
    else return (part[0] + part[2]) + (part[1] + part[3]);
  }

  template <int rows> void tile(const DecodeTile& t) const {
    vf sums[rows][4];
    ANNEAL_UNROLL
    for (int r = 0; r < rows; ++r) {
      ANNEAL_UNROLL
      for (int i = 0; i < 4; ++i) sums[r][i] = t.k0 ? load(t.sums + (4 * r + i) * lanes) : (vf){};
    }
    const bf16* w = weight + t.output * k;
    const float* numbers = x + t.row * x_stride;
    const char* ahead = t.ahead;
    auto add = [&](const bf16* from, int64_t at) __attribute__((always_inline)) {
      ANNEAL_UNROLL
      for (int i = 0; i < 2; ++i) {
        const vu words = *reinterpret_cast<const vu_unaligned*>(from + i * word_numbers);
        const vf first = (vf)(words << 16), second = (vf)(words & 0xffff0000u);
        ANNEAL_UNROLL
        for (int r = 0; r < rows; ++r) {
          const float* own = numbers + r * x_stride + at + i * word_numbers;
          sums[r][2 * i] = fused_multiply_add(first, load(own), sums[r][2 * i]);
          sums[r][2 * i + 1] = fused_multiply_add(second, load(own + lanes), sums[r][2 * i + 1]);
        }
      }
    };
    int64_t at = t.k0;
    for (; at + step <= t.k1; at += step) {
      __builtin_prefetch(ahead);
      ahead += t.ahead_step;
      add(w + at, at);
    }
    if (at < t.k1) {
      bf16 last[split_step];
      memset(last, 0, sizeof last);
      memcpy(last, w + at, static_cast<size_t>(t.k1 - at) * 2);
      add(last, at);
    }
    ANNEAL_UNROLL
    for (int r = 0; r < rows; ++r) {
      ANNEAL_UNROLL
      for (int i = 0; i < 4; ++i) store(t.sums + (4 * r + i) * lanes, sums[r][i]);
    }
  }
};

}  // namespace
}  // namespace anneal::cpu
